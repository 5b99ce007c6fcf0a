package wal_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// PostgreSQL stops its children with SIGTERM, in an immediate shutdown with SIGQUIT,
// and knows that from a failure. And in recovery the runtime's own death (a panic;
// here SIGABRT, which takes the same way out) is a signal, not the exit status 2 that
// would end recovery (R10). Only that death may fill the server's log with stacks.
func TestSignals(t *testing.T) {
	w := newWorld(t)
	l := newLedger(w, 1)
	dir := l.copy("recovery.signal", "", nil).DataDir
	l.run.Must(lab.User1, "cp", filepath.Join(l.primary.DataDir, "pg_wal", l.files[1]), filepath.Join(dir, "pg_wal"))
	for _, w.hooked = range []bool{false, true} {
		config, _ := w.way(t, dir)
		signals(t, l, dir, config)
	}
}

func signals(t *testing.T, l *ledger, dir, config string) {
	w := l.world
	get := []string{"archive-get", l.files[1], filepath.Join("pg_wal", "RECOVERYXLOG")}
	push := []string{"archive-push", filepath.Join("pg_wal", l.files[1])}
	for _, c := range []struct {
		args []string
		sent syscall.Signal
		want syscall.Signal // 0: exit status 1
		dump bool
	}{
		{get, syscall.SIGTERM, syscall.SIGTERM, false},
		{get, syscall.SIGQUIT, syscall.SIGTERM, false},
		{get, syscall.SIGABRT, syscall.SIGABRT, true},
		{push, syscall.SIGTERM, 0, false},
		{push, syscall.SIGQUIT, 0, false},
	} {
		w.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{BlackHole: true}})
		before := len(w.proxy.Requests())
		cmd := w.run.Command(t.Context(), lab.User1, nil, slices.Concat(w.program, []string{"--config", config}, c.args)...)
		var said bytes.Buffer
		cmd.Dir, cmd.Stderr = dir, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lab.Poll(t, 30*time.Second, "a request", func() error {
			if len(w.proxy.Requests()) == before {
				return errors.New("none yet")
			}
			return nil
		})
		if err := cmd.Process.Signal(c.sent); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		asWanted := status.Signaled() && status.Signal() == c.want || c.want == 0 && status.ExitStatus() == 1
		if dump := strings.Contains(said.String(), "goroutine "); !asWanted || dump != c.dump {
			t.Errorf("%s %s after %v: exit %d, signal %v\n%s", w.program[0], c.args[0], c.sent, status.ExitStatus(), status.Signal(), said.String())
		}
	}
}
