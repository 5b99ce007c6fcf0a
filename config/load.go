package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds the file, in bytes.
const maxFile = 1 << 20

// Load reads the file, then the environment, then what Patroni's file adds, and
// validates the whole. Every error is an *Error.
func Load(path string) (Config, error) { return load(path, os.Environ()) }

func load(path string, environ []string) (Config, error) {
	c := Default()
	c.File = path
	data, err := readFile(path)
	if err != nil {
		e := &Error{File: path, Problems: []string{err.Error()}}
		if errors.Is(err, fs.ErrNotExist) {
			e.Advice = adviceFile
		}
		return c, e
	}
	if problems := c.decode(data); len(problems) > 0 {
		return c, &Error{File: path, Problems: problems}
	}
	secrets := false
	walk("", reflect.ValueOf(&c).Elem(), func(_ string, v reflect.Value) {
		secret, ok := v.Addr().Interface().(*Secret)
		secrets = secrets || ok && !secret.IsZero()
	})
	if secrets {
		c.warnReadable(path)
	}
	if problems := c.override(environ); len(problems) > 0 {
		return c, &Error{File: path, Problems: problems}
	}
	if err := c.derive(environ); err != nil {
		e := &Error{File: path, Problems: []string{"patroni.config: " + err.Error()}}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			e.Advice = advicePatroni
		}
		return c, e
	}
	return c, c.Validate()
}

func readFile(path string) ([]byte, error) {
	// Opening a FIFO would wait for its writer, and a device has no end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(plain(err), errors.New("not a regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if len(data) > maxFile {
		return nil, fmt.Errorf("file has more than the %d bytes that are read", maxFile)
	}
	return data, plain(err)
}

// plain takes the path off an error of the filesystem: ours begins with it.
func plain(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

func (c *Config) decode(data []byte) []string {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return []string{strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "line ")}
	}
	if len(document.Content) == 0 {
		return nil // an empty file: Validate says what is missing
	}
	d := decoder{file: c.File, origins: c.Origins}
	d.decode(document.Content[0], "", reflect.ValueOf(c).Elem())
	return d.problems
}

// Error is everything that is wrong with a configuration, not only the first thing.
type Error struct {
	File string
	// Problems are lines of the form "12: archive.spool: ..." or "archive.spool: ...".
	Problems []string
	Advice   string
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ":" + p
		if p == "" || p[0] < '0' || p[0] > '9' {
			lines[i] = e.File + ": " + p
		}
	}
	return strings.Join(lines, "\n")
}

// Hint is what a person can do about it.
func (e *Error) Hint() string { return e.Advice }

// What to add where there is no repository, and what to write where there is nothing.
const (
	adviceRepository = "add a repository, for example:\n" + exampleRepository
	adviceFile       = "write it, for example:\n  patroni:\n    config: /etc/patroni/patroni.yml\n" + exampleRepository

	advicePatroni = "name the file that Patroni is started with, or its directory of *.yml; this user must be able to read it"

	exampleRepository = `  repositories:
    - name: main
      type: s3
      s3:
        endpoint: https://s3.example.com
        bucket: pg-backups
        access_key: ...
        secret_key: ...`
)
