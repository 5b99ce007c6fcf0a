package wal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// What a former primary still pushes after another one was promoted, by its archiver
// or by whoever calls the command with an absolute path from elsewhere, is no conflict
// unless it is one: not the rest of its timeline, not a .partial that is there, not the
// same WAL in a recycled file.
func TestLatePushes(t *testing.T) {
	w := newWorld(t)
	l := newLedger(w, 2)
	config, _ := w.config()
	former := l.primary
	former.Start()
	promoted := l.copy("standby.signal", w.restoreCommand(config), map[string]string{"archive_mode": "on", "archive_command": w.archiveCommand(config),
		"primary_conninfo": fmt.Sprintf("host=%s port=%d user=postgres", former.SocketDir, former.Port)})
	promoted.Start()
	former.Exec("INSERT INTO ledger VALUES (99)") // in a segment that is not full
	lab.Poll(t, 60*time.Second, "the last row to be streamed", func() error {
		if rows, _, err := state(promoted); err != nil || rows != 3 {
			return fmt.Errorf("%d rows, %v", rows, err)
		}
		return nil
	})
	promoted.Exec("SELECT pg_promote()")
	l.waitArchived("00000002.history")
	promoted.Exec("INSERT INTO ledger VALUES (100); SELECT pg_switch_wal()")
	promoted.Exec("CHECKPOINT")
	var partial string
	lab.Poll(t, 60*time.Second, "a .partial in the archive", func() error {
		for key := range w.s3.Keys() {
			if strings.HasSuffix(key, ".partial") {
				partial = filepath.Base(key)
				return nil
			}
		}
		return errors.New("not yet")
	})
	// The former primary goes on by itself: the whole segment of which the archive has
	// the .partial, and more behind it.
	var last string
	for i := range 3 {
		former.Exec(fmt.Sprintf("INSERT INTO ledger VALUES (%d)", 200+i))
		former.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &last)
	}
	l.waitArchived(last)
	whole := strings.TrimSuffix(partial, ".partial")
	l.waitArchived(whole)
	former.Stop("fast")
	promoted.Stop("fast")

	elsewhere := w.run.Mkdir(lab.User1, 0o755, "elsewhere")
	pushed := 0
	push := func(what, path string) {
		t.Helper()
		pushed++
		if code, out := w.call(elsewhere, "--config", config, "archive-push", path); code != 0 {
			t.Errorf("%s: %s: exit %d\n%s", what, path, code, out)
		}
	}
	for _, p := range []*lab.Postgres{former, promoted} {
		all, err := os.ReadDir(filepath.Join(p.DataDir, "pg_wal"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			f, err := postgres.ParseWALFile(e.Name())
			if _, ready := os.Stat(filepath.Join(p.DataDir, "pg_wal", "archive_status", e.Name()+".done")); err != nil || ready != nil {
				continue // none that the server has archived: a file kept for later use
			}
			path := filepath.Join(p.DataDir, "pg_wal", e.Name())
			push("once more", path)
			if f.Kind != postgres.WALSegment && f.Kind != postgres.WALPartial {
				continue
			}
			plain, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			facts, err := postgres.ScanSegment(f, plain)
			if err != nil || int(facts.ValidEnd) > len(plain)-100 {
				continue // WAL to its end: there is no tail
			}
			copy(plain[len(plain)-100:], "what a recycled file still holds")
			push("with another tail", l.foreign(fmt.Sprintf("late%d", pushed), e.Name(), plain))
		}
	}
	if pushed < 10 {
		t.Errorf("only %d pushes", pushed)
	}
	for key := range w.s3.Keys() {
		if strings.Contains(key, "/conflict/") {
			t.Errorf("there is %s", key)
		}
	}
	if code, out := w.call("/", "--config", config, "wal", "conflicts", "list"); code != 0 {
		t.Errorf("conflicts: exit %d\n%s", code, out)
	}
}
