// Package plan_test lets real servers judge the planner: what it says of where
// recovery stops is compared with where recovery stops.
package plan_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/restore"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is a server that archives into a plain directory, a base backup of it made
// by pg_basebackup, and a repository that is given the same files.
type world struct {
	t       *testing.T
	run     *lab.Run
	pg      *lab.Postgres
	archive string // plain WAL files
	base    string // the base backup
	repo    *catalog.Repository
	copies  int
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, run: lab.RunOf(t)}
	w.archive = w.run.Mkdir(lab.User1, 0o755, "archive")
	w.pg = lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": fmt.Sprintf("test ! -f %[1]s/%%f && cp %%p %[1]s/%%f.tmp && mv %[1]s/%%f.tmp %[1]s/%%f", w.archive),
		"fsync": "off", "autovacuum": "off", "track_commit_timestamp": "on", "max_prepared_transactions": "10",
		"checkpoint_timeout": "1h", "shared_buffers": "16MB", "min_wal_size": "2MB"}})
	control, err := os.ReadFile(filepath.Join(w.pg.DataDir, "global/pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := postgres.ParseControlData(control)
	if err != nil {
		t.Fatal(err)
	}
	w.repo = catalog.New(file.New(w.run.Mkdir("root", 0o755, "store")), catalog.Location{Scope: "plan", System: c.System}, catalog.Options{})
	if _, err := w.repo.Create(t.Context(), 1<<20, "required", time.Now()); err != nil {
		t.Fatal(err)
	}
	return w
}

// take makes the base backup and its manifest, as far as a planner looks at it.
func (w *world) take() catalog.Manifest {
	w.t.Helper()
	w.run.Mkdir(lab.User1, 0o755, "backups")
	w.base = w.run.Path("backups", "base")
	w.run.Must(lab.User1, w.pg.Bin("pg_basebackup"), "-D", w.base, "-X", "none", "-c", "fast", "--no-sync", "--no-manifest",
		"-h", w.pg.SocketDir, "-p", fmt.Sprint(w.pg.Port), "-U", "postgres")
	var stopped time.Time
	w.pg.QueryRow("select clock_timestamp()", &stopped)
	m := catalog.Manifest{Type: catalog.Full, Timeline: 1, StopTLI: 1, SegmentSize: 1 << 20, StopTime: stopped}
	label, err := os.ReadFile(filepath.Join(w.base, "backup_label"))
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := postgres.ParseBackupLabel(string(label))
	if err != nil {
		w.t.Fatal(err)
	}
	m.StartLSN, m.Checkpoint = l.StartLSN, l.CheckpointLSN
	lab.Poll(w.t, 20*time.Second, "the backup history file", func() error {
		names, _ := filepath.Glob(w.archive + "/*.backup")
		if len(names) == 0 {
			return errors.New("not archived yet")
		}
		text, err := os.ReadFile(names[0])
		if err != nil {
			return err
		}
		found := regexp.MustCompile(`STOP WAL LOCATION: (\S+)`).FindStringSubmatch(string(text))
		m.StopLSN, err = postgres.ParseLSN(found[1])
		return err
	})
	started, err := w.repo.StartRun(w.t.Context(), catalog.Started{ID: catalog.ManualID(stopped), Timeline: 1, StartLSN: m.StartLSN})
	if err != nil {
		w.t.Fatal(err)
	}
	pack, err := started.NewPack(w.t.Context(), "base-0001.tar")
	if err != nil {
		w.t.Fatal(err)
	}
	if err := pack.Directory(catalog.Entry{Path: "base", Mode: 0o700}); err != nil {
		w.t.Fatal(err)
	}
	contents, info, err := pack.Close()
	if err != nil {
		w.t.Fatal(err)
	}
	m.Packs = []catalog.PackInfo{info}
	if m, err = started.Commit(w.t.Context(), m, catalog.Index{Packs: []catalog.Pack{contents}}, nil); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// flush archives all that a server wrote, and gives it to the repository.
func (w *world) flush(pg *lab.Postgres) {
	w.t.Helper()
	var last string
	pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &last)
	lab.Poll(w.t, 20*time.Second, "the archiver", func() error {
		_, err := os.Stat(filepath.Join(w.archive, last))
		return err
	})
	entries, err := os.ReadDir(w.archive)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		name, err := postgres.ParseWALFile(e.Name())
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.repo.StatWAL(w.t.Context(), name); !errors.Is(err, storage.ErrNotExist) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(w.archive, e.Name()))
		if err != nil {
			w.t.Fatal(err)
		}
		var facts *postgres.SegmentFacts
		if name.Kind == postgres.WALSegment || name.Kind == postgres.WALPartial {
			f, err := postgres.ScanSegment(name, data)
			if err != nil {
				w.t.Fatal(err)
			}
			facts = &f
		}
		if _, err := w.repo.PutWAL(w.t.Context(), name, data, facts); err != nil {
			w.t.Fatal(err)
		}
	}
}

// plan asks the planner.
func (w *world) plan(target restore.Target) (restore.Plan, error) {
	w.t.Helper()
	facts, err := restore.Gather(w.t.Context(), w.repo)
	if err != nil {
		w.t.Fatal(err)
	}
	return restore.NewPlan(w.t.Context(), facts, restore.Request{Target: target})
}

// copyOf is a server on a copy of the base backup that recovers as the plan says,
// from nothing but the segments that the plan names.
func (w *world) copyOf(p restore.Plan, action string, conf map[string]string) *lab.Postgres {
	w.t.Helper()
	w.copies++
	name := fmt.Sprintf("copy%d", w.copies)
	dir, wal := w.run.Path("backups", name), w.run.Mkdir(lab.User1, 0o755, "backups", name+".wal")
	w.run.Must("root", "cp", "-a", w.base, dir)
	for _, s := range p.WAL {
		if err := os.Link(filepath.Join(w.archive, s.Name()), filepath.Join(wal, s.Name())); err != nil {
			w.t.Fatal(err)
		}
	}
	histories, _ := filepath.Glob(w.archive + "/*.history")
	for _, h := range histories {
		if err := os.Link(h, filepath.Join(wal, filepath.Base(h))); err != nil {
			w.t.Fatal(err)
		}
	}
	settings := map[string]string{"archive_mode": "off", "restore_command": fmt.Sprintf("cp %s/%%f %%p", wal),
		"recovery_target_timeline": fmt.Sprint(uint32(p.Timeline)), "recovery_target_action": action}
	e := p.Effective
	switch e.Kind {
	case restore.Time:
		settings["recovery_target_time"] = e.Time.Format("2006-01-02 15:04:05.999999") + "+00"
	case restore.LSN:
		settings["recovery_target_lsn"] = e.LSN.String()
	case restore.XID:
		settings["recovery_target_xid"] = fmt.Sprint(e.XID)
	case restore.Name:
		settings["recovery_target_name"] = e.Name
	case restore.Immediate:
		settings["recovery_target"] = "immediate"
	}
	if e.Exclusive {
		settings["recovery_target_inclusive"] = "off"
	}
	for k, v := range conf {
		settings[k] = v
	}
	w.run.WriteFile(lab.User1, 0o600, "", "backups", name, "recovery.signal")
	pg := lab.StartPostgres(w.t, lab.PGOptions{DataDir: dir, NoStart: true})
	pg.Configure(settings)
	return pg
}

// judge lets a server recover and compares where it stops with the plan.
func (w *world) judge(what string, target restore.Target) {
	w.t.Helper()
	p, err := w.plan(target)
	if err != nil {
		w.t.Errorf("%s: %v", what, err)
		return
	}
	action := "pause"
	if target.Action != "" {
		action = string(target.Action)
	}
	pg := w.copyOf(p, action, nil)
	if err := pg.TryStart(60 * time.Second); err != nil {
		w.t.Errorf("%s: plan %+v\n%v", what, p, err)
		return
	}
	defer pg.Stop("immediate")
	var lsn string
	var last *time.Time
	lab.Poll(w.t, 30*time.Second, what, func() error {
		var state string
		pg.QueryRow("select case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() else 'promoted' end", &state)
		if state != "paused" && state != "promoted" {
			return fmt.Errorf("recovery is %s", state)
		}
		return nil
	})
	if target.Action == restore.Promote {
		at, tli := w.fork(pg)
		if lsn = at.String(); tli != p.Stop.Timeline {
			w.t.Errorf("%s: the promoted server left timeline %d, the plan says %d", what, tli, p.Stop.Timeline)
		}
	} else {
		pg.QueryRow("select pg_last_wal_replay_lsn()::text", &lsn)
	}
	pg.QueryRow("select pg_last_xact_replay_timestamp()", &last)
	if lsn != p.Stop.LSN.String() {
		w.t.Errorf("%s: %s: recovery stopped at %s, the plan says %s, %s", what, target, lsn, p.Stop.LSN, p.Stop.What)
	}
	if e := p.Effective; e.Kind == restore.LSN && !e.Exclusive && last != nil {
		// The server looks at the LSN before it notes the record's time.
		pg.QueryRow("select greatest(pg_last_xact_replay_timestamp(), max(pg_xact_commit_timestamp(xmin))) from t", &last)
	}
	if !p.Stop.Time.IsZero() && (last == nil || !last.Equal(p.Stop.Time)) {
		w.t.Errorf("%s: %s: last transaction replayed is of %v, the plan says %s", what, target, last, p.Stop.Time)
	}
	w.t.Logf("%-28s %s: stops %s at %s of timeline %d, %d segments, notes %q", what, target, p.Stop.What, p.Stop.LSN, p.Stop.Timeline, len(p.WAL), p.Notes)
}

// fork is where a promoted server left its timeline, and which one it left there.
func (w *world) fork(pg *lab.Postgres) (postgres.LSN, postgres.TimelineID) {
	w.t.Helper()
	names, _ := filepath.Glob(filepath.Join(pg.DataDir, "pg_wal", "*.history"))
	if len(names) == 0 {
		w.t.Fatal("the promoted server has no history")
	}
	newest := names[len(names)-1]
	text, err := os.ReadFile(newest)
	if err != nil {
		w.t.Fatal(err)
	}
	file, err := postgres.ParseWALFile(filepath.Base(newest))
	if err != nil {
		w.t.Fatal(err)
	}
	h, err := postgres.ParseTimelineHistory(file.Segment.Timeline, text)
	if err != nil {
		w.t.Fatal(err)
	}
	at := h.Entries[len(h.Entries)-1].Switch
	return at, h.TimelineAt(at - 1)
}

// commit runs statements in one transaction and tells its xid and time.
func commit(t *testing.T, pg *lab.Postgres, statements string) (xid uint32, at time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := pg.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	tx, err := c.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, statements)
	}
	if err == nil {
		err = tx.QueryRow(ctx, "select pg_current_xact_id()::text::bigint").Scan(&xid)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err == nil {
		err = c.QueryRow(ctx, "select pg_xact_commit_timestamp($1::text::xid)", fmt.Sprint(xid)).Scan(&at)
	}
	if err != nil {
		t.Fatal(err)
	}
	return xid, at.UTC()
}
