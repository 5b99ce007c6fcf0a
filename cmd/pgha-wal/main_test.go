package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// TestMain is the program itself where a test calls it so.
func TestMain(m *testing.M) {
	switch os.Getenv("PGHA_WAL_TEST") {
	case "run":
		main()
	case "panic": // as a bug of ours would
		guard(os.Args[1:])
		var none *line
		none.rest = nil
	}
	os.Exit(m.Run())
}

// pgdata has signal files and no pgha-backup to run.
func pgdata(t *testing.T, signals ...string) string {
	t.Helper()
	dir := t.TempDir()
	err := os.Mkdir(filepath.Join(dir, "pg_wal"), 0o700)
	for _, name := range append(signals, "PG_VERSION") {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func call(t *testing.T, how, dir string, args ...string) (status syscall.WaitStatus, said string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, []string{"PGHA_WAL_TEST=" + how, "PATH=" + dir}
	out, err := cmd.CombinedOutput()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		t.Fatal(err)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus), string(out)
}

// Whatever way out it takes, PostgreSQL hears only what is safe (R10).
func TestWaysOut(t *testing.T) {
	recovery, standby := pgdata(t, "recovery.signal"), pgdata(t, "standby.signal")
	get := []string{"archive-get", "000000010000000000000001", "pg_wal/RECOVERYXLOG"}
	for _, c := range []struct {
		args                     []string
		inRecovery, ofTheStandby int
	}{
		{get, 200, 75},
		{append([]string{"--socket", "/nonexistent", "--config", "/c"}, get...), 200, 75},
		{append(get, "--help"), 200, 75},
		{append(get, "--nonsense"), 200, 75},
		{get[:2], 200, 75},
		{[]string{"archive-gte", get[1], get[2]}, 200, 75},
		{get[1:], 200, 75},
		{[]string{"--help"}, 200, 0},
		{nil, 200, 75},
		{[]string{"--socket"}, 200, 75},
		{[]string{"archive-push", "pg_wal/x"}, 1, 1},
		{[]string{"archive-push", "pg_wal/x", "--help"}, 1, 1},
		{[]string{"archive-push", "--socket"}, 1, 1},
	} {
		for dir, want := range map[string]int{recovery: c.inRecovery, standby: c.ofTheStandby} {
			status, said := call(t, "run", dir, c.args...)
			if status.ExitStatus() != want || !strings.HasPrefix(said, "error: ") && !strings.HasPrefix(said, "pgha-wal "+version+", speaks pgha/1 ") {
				t.Errorf("%q: exit %d, want %d: %s", c.args, status.ExitStatus(), want, said)
			}
		}
	}
	if status, said := call(t, "panic", recovery, get...); status.Signal() != syscall.SIGABRT || !strings.Contains(said, "nil pointer") {
		t.Errorf("a panic in recovery: exit %d, signal %v: %s", status.ExitStatus(), status.Signal(), said)
	}
}

// pgha-backup gets the arguments as they were.
func TestBecome(t *testing.T) {
	dir := pgdata(t, "recovery.signal")
	if err := os.WriteFile(filepath.Join(dir, "pgha-backup"), []byte("#!/bin/sh\necho \"$@\"\nexit 33\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{
		"--socket /nonexistent --config /c archive-push pg_wal/x":       "--config /c archive-push pg_wal/x",
		"archive-get f pg_wal/RECOVERYXLOG --socket=/n --config=/c":     "archive-get f pg_wal/RECOVERYXLOG --config /c",
		"--config /c archive-get --from-scope other f pg_wal/RECOVERYX": "--config /c archive-get --from-scope other f pg_wal/RECOVERYX",
	} {
		status, said := call(t, "run", dir, strings.Fields(given)...)
		if status.ExitStatus() != 33 || said != want+"\n" {
			t.Errorf("%s: exit %d: %s", given, status.ExitStatus(), said)
		}
	}
}

func TestParse(t *testing.T) {
	l, err := parse(strings.Fields("--socket /s archive-get f p --config /c"))
	want := line{socket: "/s", rest: strings.Fields("archive-get f p --config /c"), verb: get, operands: []string{"f", "p"}}
	if err != nil || !reflect.DeepEqual(l, want) || !l.plain() {
		t.Errorf("%+v %v", l, err)
	}
	for _, other := range []string{"archive-get f", "archive-push", "archive-push a b", "archive-get f p --from-scope=x"} {
		if l, err := parse(strings.Fields(other)); err != nil || l.plain() {
			t.Errorf("%s: the daemon would be asked %+v, %v", other, l, err)
		}
	}
}
