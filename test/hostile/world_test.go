// Package hostile_test gives our program the repository of an enemy: a golden one, in
// which whoever may write into the bucket has rewritten what he likes, and has corrected
// every hash that vouches for it.
package hostile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// What one command may take, whatever it reads. The memory is as the kernel counts it,
// with that of this test at the moment of its start.
const (
	timeLimit   = 30 * time.Second
	memoryLimit = 256 << 20
)

const golden = "../golden/format-1"

// world is our program, a place to restore into, and a directory that nobody may touch.
type world struct {
	*testing.T
	run                             *lab.Run
	binary                          string
	repository, out, canary, config string
	home                            string // of this case
	tablespace                      string // its path in the backup
	peak                            int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, run: lab.RunOf(t)}
	w.binary = w.run.Build("pgha-backup")
	return w
}

// begin lays out a fresh copy of the golden repository, as the enemy finds it.
func (w *world) begin(name string) *enemy {
	w.Helper()
	w.home = w.run.Mkdir(lab.User1, 0o700, name)
	w.repository, w.out = filepath.Join(w.home, "repository"), filepath.Join(w.home, "out")
	if err := os.CopyFS(w.repository, os.DirFS(filepath.Join(golden, "repository"))); err != nil {
		w.Fatal(err)
	}
	w.run.Mkdir(lab.User1, 0o700, name, "out")
	w.canary = w.run.Mkdir(lab.User1, 0o700, name, "canary")
	w.run.Mkdir(lab.User1, 0o700, name, "canary", "empty")
	w.run.WriteFile(lab.User1, 0o600, "ssh-ed25519 AAAA me", name, "canary", "authorized_keys")
	w.config = w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster:
  scope: golden
  member: g1
  data_dir: %s
  bin_dir: %s
  state_dir: %s
repositories:
  - {name: golden, type: file, file: {path: %s}}
log: {level: error}
`, filepath.Join(w.out, "data"), lab.BinDir(w, 15), w.run.Mkdir(lab.User1, 0o700, name, "state"), w.repository), name, "pgha.yaml")
	e := openEnemy(w.T, w.repository)
	w.tablespace = e.manifest["tablespaces"].([]any)[0].(map[string]any)["path"].(string)
	return e
}

// restore are the arguments of one into out.
func (w *world) restore(more ...string) []string {
	return append([]string{"restore", "--pgdata", filepath.Join(w.out, "data"), "--target-name", "after-a",
		"--tablespace-mapping", w.tablespace + "=" + filepath.Join(w.out, "aside")}, more...)
}

// end is how a command ended, with all that it said.
func (w *world) end(args ...string) (code int, said string) {
	w.Helper()
	w.run.Must("root", "chown", "-hR", lab.User1+":", w.repository)
	ctx, cancel := context.WithTimeout(w.Context(), timeLimit)
	defer cancel()
	cmd := w.run.Command(ctx, lab.User1, nil, append([]string{w.binary, "--config", w.config}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Fatal(err)
	}
	if ctx.Err() != nil {
		w.Errorf("%s does not end", args[0])
	}
	peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	if w.peak = max(w.peak, peak); peak > memoryLimit {
		w.Errorf("%s took %d MiB", args[0], peak>>20)
	}
	if i := strings.IndexFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' }); i >= 0 {
		w.Errorf("%s writes %q to the terminal", args[0], out.String()[i])
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// untouched is all outside of what the command may write, as it stands now.
func (w *world) untouched() map[string]string {
	w.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(w.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == w.out || path == w.repository || path == filepath.Join(w.home, "state") {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprint(info.Mode(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		seen[path] = text
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return seen
}

// confined looks at what was written: nothing special, and no link that leads elsewhere.
func (w *world) confined(before map[string]string) {
	w.Helper()
	if after := w.untouched(); !maps.Equal(before, after) {
		for _, path := range slices.Sorted(maps.Keys(after)) {
			if before[path] != after[path] {
				w.Errorf("%s was %q and is %q", path, before[path], after[path])
			}
		}
		w.Error("something was changed outside of the target directory")
	}
	err := filepath.WalkDir(w.out, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() || d.Type().IsRegular():
		case d.Type()&fs.ModeSymlink != 0:
			if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, w.out+"/") || filepath.Clean(to) != to {
				w.Errorf("%s leads to %s, %v", path, to, err)
			}
		default:
			w.Errorf("%s is %s", path, d.Type())
		}
		return nil
	})
	if err != nil {
		w.Error(err)
	}
}

// object reads a JSON document without losing a digit.
func object(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
