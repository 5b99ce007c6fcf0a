package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// Whatever way out a command takes, PostgreSQL hears only what is safe (R10).
func TestGuard(t *testing.T) {
	dir := t.TempDir()
	wal := filepath.Join(dir, "pg_wal")
	dest := filepath.Join(wal, "RECOVERYXLOG")
	if err := os.Mkdir(wal, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "PG_VERSION"))
	codes := func(trouble int) map[int]int {
		return map[int]int{exitAbsent: 1, exitError: trouble, exitUsage: trouble, exitConfig: trouble, exitPreflight: trouble,
			exitNotFound: trouble, exitUnreachable: trouble, 200: 200}
	}
	check := func(what string, args []string, want map[int]int) {
		t.Helper()
		leave := guard(args)
		for code, want := range want {
			if got := leave(code); got != want {
				t.Errorf("%s: %d becomes %d, want %d", what, code, got, want)
			}
		}
	}
	get := []string{"--config", "/c", "archive-get", "000000010000000000000001", dest}
	check("neither", get, codes(75))
	write(filepath.Join(dir, "recovery.signal"))
	check("recovery", get, codes(200))
	check("recovery, unknown flag behind", append(get, "--nonsense"), codes(200))
	check("recovery, without the file", get, map[int]int{exitOK: 200})
	write(dest)
	check("recovery, with the file", get, map[int]int{exitOK: exitOK})
	write(filepath.Join(dir, "standby.signal"))
	check("standby", get, codes(75))
	t.Chdir(dir)
	if err := os.Remove("standby.signal"); err != nil {
		t.Fatal(err)
	}
	check("recovery, relative", []string{"archive-get", "000000010000000000000001", "pg_wal/RECOVERYXLOG"}, codes(200))
	check("recovery, no arguments", []string{"archive-get"}, codes(200))
	check("recovery, a verb that is none", []string{"archive-gte", "000000010000000000000001", "pg_wal/RECOVERYXLOG"}, codes(200))
	check("recovery, no verb", []string{"00000002.history", "pg_wal/RECOVERYHISTORY"}, codes(200))
	check("push", []string{"archive-push", "--help"}, map[int]int{exitOK: 1})
	check("push", []string{"archive-push", "pg_wal/x"}, map[int]int{exitOK: 0, exitError: 1, exitConfig: 1, exitInterrupted: 1, 200: 1})
	check("others", []string{"backup"}, map[int]int{exitOK: 0, exitConfig: 3, exitInterrupted: 5})
}

// A log that nobody reads must not kill an archive client: 141 ends a standby.
func TestGuardOutlivesItsLog(t *testing.T) {
	for _, command := range []string{"archive-get", "archive-push"} {
		guard([]string{command})
		if !signal.Ignored(syscall.SIGPIPE) {
			t.Errorf("%s dies of SIGPIPE", command)
		}
	}
}
