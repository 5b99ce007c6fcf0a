package wal_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// PostgreSQL stops its children with SIGTERM and knows that from a failure. And in
// recovery the runtime's own death (a panic; here SIGQUIT, which takes the same way
// out) is a signal, not the exit status 2 that would end recovery (R10).
func TestSignals(t *testing.T) {
	w := newWorld(t)
	l := newLedger(w, 1)
	config, _ := w.config()
	dir := l.copy("recovery.signal", "", nil).DataDir
	for sent, want := range map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGTERM, syscall.SIGQUIT: syscall.SIGABRT} {
		w.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{BlackHole: true}})
		before := len(w.proxy.Requests())
		cmd := w.run.Command(t.Context(), lab.User1, nil, w.bin, "--config", config, "archive-get", l.files[1], filepath.Join("pg_wal", "RECOVERYXLOG"))
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lab.Poll(t, 30*time.Second, "a request", func() error {
			if len(w.proxy.Requests()) == before {
				return errors.New("none yet")
			}
			return nil
		})
		if err := cmd.Process.Signal(sent); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != want {
			t.Errorf("after %v: exit %d, signal %v", sent, status.ExitStatus(), status.Signal())
		}
	}
}
