package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// ofBackup fails the n-th call that concerns the backup itself; how often the WAL is
// looked for is a matter of time.
func ofBackup(n int) (plan faulty.Plan, failed *string) {
	failed = new(string)
	return func(c faulty.Call) (f faulty.Fault) {
		if strings.Contains(string(c.Key), "/backup/") || strings.HasSuffix(string(c.Key), "repository.json") {
			if n--; n == 0 {
				f.Before, *failed = faulty.ErrInjected, c.String()
			}
		}
		return f
	}, failed
}

// Whatever call of the store fails, no backup appears that is not whole; the
// server leaves backup mode, and the next backup succeeds.
func TestEveryFault(t *testing.T) {
	w := newWorld(t, lab.PGOptions{WALSegSizeMB: 1}, true)
	w.pg.Exec("create table t as select generate_series(1, 1000) g")
	store := w.bucket
	failed := 0
	for n := 1; ; n++ {
		plan, call := ofBackup(n)
		w.bucket = faulty.New(store, plan)
		m, _, err := w.attempt(codec.Zstd, backup.Options{ID: catalog.ManualID(time.Now()), PackSize: 1 << 30, Workers: 1})
		w.bucket = store
		if err == nil {
			if *call != "" {
				t.Errorf("%s failed, the backup did not", *call)
			}
			if failed < 8 {
				t.Errorf("only %d calls were made to fail", failed)
			}
			w.sound(w.repository(catalog.Options{}), m)
			dir, wal := w.restoreByHand(m, w.repository(catalog.Options{})), w.fetchWAL(w.repository(catalog.Options{}))
			w.verify(dir, wal)
			return
		}
		failed++
		if !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("%s: %v", *call, err)
		}
		after := strings.Contains(err.Error(), "is committed, but") // the last look failed, the backup is whole
		repository := w.repository(catalog.Options{})
		found, broken, err := repository.ReadableBackups(t.Context())
		if err != nil || len(broken) > 0 || after != (len(found) == 1) || len(found) > 1 {
			t.Fatalf("%s: %d backups, %v", *call, len(found), err)
		}
		if after {
			w.verify(w.restoreByHand(found[0], repository), w.fetchWAL(repository))
			key := storage.Key(repository.Root() + "/backup/" + string(found[0].ID) + "/manifest.json")
			if err := store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		lab.Poll(t, 10*time.Second, "the end of backup mode", func() error {
			if left := w.pg.Psql("-c", "select count(*) from pg_stat_activity where application_name = 'pgha-backup'"); left != "0" {
				return errors.New(left + " sessions")
			}
			return nil
		})
	}
}

// What can be known beforehand is refused before anything is changed, and says
// what to do.
func TestPreflight(t *testing.T) {
	w := newWorld(t, lab.PGOptions{WALSegSizeMB: 1}, true)
	refused := func(name string, o backup.Options, want, hint string) {
		t.Helper()
		_, _, err := w.take(codec.Zstd, o)
		e, ok := errors.AsType[*backup.PreflightError](err)
		if !ok || !strings.Contains(e.Error(), want) || !strings.Contains(e.Hint(), hint) {
			t.Errorf("%s: %v", name, err)
		}
		for object, err := range w.bucket.List(t.Context(), "", "") {
			if err != nil || strings.Contains(string(object.Key), "/backup/") {
				t.Errorf("%s: left %s, %v", name, object.Key, err)
			}
		}
	}
	w.pg.Exec("alter system set archive_command = ''")
	w.pg.Exec("select pg_reload_conf()")
	lab.Poll(t, 10*time.Second, "reload", func() error {
		if w.pg.Psql("-c", "show archive_command") != "" {
			return errors.New("not reloaded")
		}
		return nil
	})
	refused("no archive_command", backup.Options{}, "WAL is not archived", "archive_mode = on")

	w.archiveCommand("false")
	refused("failing archive_command", backup.Options{ArchiveStall: 2 * time.Second}, "files wait for the archiver, which failed on", "archive_command fails")

	w.archiveCommand("true") // says yes and stores nothing
	refused("archive elsewhere", backup.Options{}, "has stored", "elsewhere")

	w.archiveCommand(w.pusher + " push %p")
	s, err := server.Connect(t.Context(), w.pg.SocketDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	another := w.run.Mkdir(lab.User1, 0o700, "another")
	_, err = backup.Take(t.Context(), backup.Source{Server: s, PGDATA: another}, w.repository(catalog.Options{}), backup.Options{ID: catalog.ManualID(time.Now())})
	if _, ok := errors.AsType[*backup.PreflightError](err); !ok || !strings.Contains(err.Error(), "the server's data directory is") {
		t.Errorf("another directory: %v", err)
	}
	m, _, err := w.take(codec.Zstd, backup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// A standby, made of this very backup.
	dir := w.restoreByHand(m, w.repository(catalog.Options{}))
	wal := w.fetchWAL(w.repository(catalog.Options{}))
	if err := errors.Join(os.Remove(filepath.Join(dir, "recovery.signal")), os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "postgresql.auto.conf"), []byte("restore_command = 'cp "+wal+"/%f %p'\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	primary := w.pg
	w.pg = lab.StartPostgres(t, lab.PGOptions{DataDir: dir, Env: w.env})
	standby, err := server.Connect(t.Context(), w.pg.SocketDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	w.pg = primary
	_, err = backup.Take(t.Context(), backup.Source{Server: standby}, w.repository(catalog.Options{}), backup.Options{ID: catalog.ManualID(time.Now())})
	if _, ok := errors.AsType[*backup.PreflightError](err); !ok || !strings.Contains(err.Error(), "is a standby") {
		t.Errorf("a standby: %v", err)
	}
}

func (w *world) archiveCommand(command string) {
	w.t.Helper()
	w.pg.Exec("alter system set archive_command = '" + command + "'")
	w.pg.Exec("select pg_reload_conf()")
	lab.Poll(w.t, 10*time.Second, "reload", func() error {
		if w.pg.Psql("-c", "show archive_command") != command {
			return errors.New("not reloaded")
		}
		return nil
	})
}

// A server that is killed or restarted in mid copy ends the backup, and an
// interrupted one leaves backup mode.
func TestServerGoesAway(t *testing.T) {
	w := newWorld(t, lab.PGOptions{WALSegSizeMB: 1}, true)
	for name, strike := range map[string]func(context.CancelFunc){
		"restarted":   func(context.CancelFunc) { w.pg.Restart() },
		"interrupted": func(cancel context.CancelFunc) { cancel() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := server.Connect(ctx, w.pg.SocketDSN())
		if err != nil {
			t.Fatal(err)
		}
		repository := w.repository(catalog.Options{})
		_, err = backup.Take(ctx, backup.Source{Server: s}, repository, backup.Options{ID: catalog.ManualID(time.Now()),
			Events: backup.Events{Phase: func(p backup.Phase) {
				if p == backup.PhaseCopy {
					strike(cancel)
				}
			}}})
		if err == nil || name == "interrupted" && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if found, broken, err := repository.ReadableBackups(t.Context()); err != nil || len(found)+len(broken) != 0 {
			t.Errorf("%s: %d backups, %v", name, len(found), err)
		}
		s.Close()
		cancel()
	}
	if _, _, err := w.take(codec.Zstd, backup.Options{}); err != nil {
		t.Error(err)
	}
}
