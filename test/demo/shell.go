package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// shell is where a person types: as the user of a member, on its host.
type shell struct {
	s *story
	m *lab.Member
}

func (s *story) on(m *lab.Member) shell { return shell{s, m} }

// must runs what is typed, shows it with all that it prints, and insists on success.
func (sh shell) must(argv ...string) string { return sh.ends(0, argv...) }

// ends is must for a command that has to end with another exit code.
func (sh shell) ends(want int, argv ...string) string {
	sh.show(typed(argv))
	begun := time.Now()
	output, code := sh.run(argv)
	for line := range strings.Lines(output) {
		// Progress that a terminal would write over.
		if !strings.HasPrefix(line, "{") {
			sh.s.printf("     %s\n", strings.TrimRight(line, "\n"))
		}
	}
	if code != want {
		sh.s.Fatalf("%s: exit code %d, want %d", argv[0], code, want)
	}
	exit := ""
	if code != 0 {
		exit = fmt.Sprintf("exit code %d, ", code)
	}
	sh.s.printf("     [%s%s]\n", exit, sh.s.since(begun))
	return output
}

// quiet runs what is typed and shows only that it was typed.
func (sh shell) quiet(line string) string {
	sh.show(line)
	output, code := sh.run([]string{"bash", "-euo", "pipefail", "-c", line})
	if code != 0 {
		sh.s.Fatalf("exit code %d: %s", code, output)
	}
	return output
}

func (sh shell) show(line string) { sh.s.printf("   %s$ %s\n", sh.m.Name, line) }

func (sh shell) run(argv []string) (output string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	env := []string{
		"PATH=" + sh.s.run.Path("bin") + ":" + sh.m.BinDir + ":/usr/bin:/bin",
		"PGHA_BACKUP_CONFIG=" + sh.m.Home + "/pgha-backup.yaml",
		"PGUSER=postgres", "PGDATABASE=postgres", "PGPASSWORD=" + lab.Password,
	}
	cmd := sh.s.run.Command(ctx, sh.m.User, env, append([]string{"/usr/bin/env"}, argv...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		sh.s.Fatalf("%s: %v", argv[0], err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// typed is a command line as a person would type it.
func typed(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = word
		if strings.ContainsAny(word, " '\"*;()$&|<>") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
