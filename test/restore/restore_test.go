package restore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/restore"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// --start with each action stops where it was asked to, proves it, and leaves the
// archive and the living cluster alone.
func TestActions(t *testing.T) {
	w := newWorld(t)
	w.pg.Exec("create table t (n int)")
	w.backup()
	w.insert(1)
	second := w.insert(2)
	w.insert(3)
	w.archived()
	before := w.s3.Keys()
	for _, action := range []restore.Action{restore.Promote, restore.Pause, restore.Shutdown} {
		pgdata := w.place(string(action))
		r := w.want(0, w.restore("--pgdata", pgdata, "--target-lsn", second, "--target-exclusive", "--target-action", string(action), "--start"))
		seen := r.Recovered
		if seen == nil || seen.Action != action || seen.LSN != r.Stop.LSN || seen.LSN.String() > second {
			t.Fatalf("%s: recovered %+v, planned %+v, asked for %s", action, seen, r.Stop, second)
		}
		if !strings.Contains(r.stderr, "will NOT archive") {
			t.Errorf("%s: archive_mode off was not said:\n%s", action, r.stderr)
		}
		if action == restore.Shutdown {
			data, err := os.ReadFile(filepath.Join(pgdata, "global/pg_control"))
			if err != nil {
				t.Fatal(err)
			}
			if control, err := postgres.ParseControlData(data); err != nil || control.State != postgres.StateShutDownInRecovery {
				t.Errorf("%s: the copy is %s, %v", action, control.State, err)
			}
			continue
		}
		if got := w.ask(pgdata, "select sum(n) from t"); got != "3" {
			t.Errorf("%s: sum is %s", action, got)
		}
		if got := w.ask(pgdata, "select current_setting('archive_mode') || current_setting('listen_addresses') || pg_is_in_recovery()"); got != "off"+fmt.Sprint(action == restore.Pause) {
			t.Errorf("%s: archive_mode, listen_addresses, in recovery: %s", action, got)
		}
		if action == restore.Promote {
			w.ask(pgdata, "select pg_switch_wal()")
			w.ask(pgdata, "checkpoint")
		}
		w.shell(r.End)
	}
	for key := range w.s3.Keys() {
		if _, ok := before[key]; !ok {
			t.Errorf("a copy wrote %s into the archive", key)
		}
	}
	if got := w.pg.Psql("-c", "select sum(n) from t"); got != "6" {
		t.Errorf("the living cluster has a sum of %s", got)
	}
	w.refusals(w.place("promote"), second)
}

// refusals: exit 4, and nothing is changed.
func (w *world) refusals(stopped, lsn string) {
	w.Helper()
	foreign := w.run.Mkdir(lab.User1, 0o700, "copies", "foreign")
	w.run.WriteFile(lab.User1, 0o600, "mine", "copies", "foreign", "thesis.txt")
	for name, args := range map[string][]string{
		"running server":    {"--pgdata", w.pg.DataDir, "--force", "--yes"},
		"foreign directory": {"--pgdata", foreign, "--force", "--yes"},
		"stopped, no force": {"--pgdata", stopped},
		"stopped, no yes":   {"--pgdata", stopped, "--force"},
		"past the archive":  {"--pgdata", w.place("new"), "--target-lsn", "FF/0"},
	} {
		r := w.restore(args...)
		if r.code != 4 {
			w.Errorf("%s: %+v", name, r)
		}
	}
	if !exists(foreign, "thesis.txt") || exists(foreign, restore.MarkerFile) || !exists(stopped, "global/pg_control") || exists(w.place("new")) {
		w.Error("a refusal changed something")
	}
	w.want(0, w.restore("--pgdata", stopped, "--force", "--yes", "--target-lsn", lsn, "--start"))
	if got := w.ask(stopped, "select sum(n) from t"); got != "3" && got != "6" {
		w.Errorf("the replaced copy has a sum of %s", got)
	}
	w.shell(w.pg.Bin("pg_ctl") + " -D " + stopped + " -m fast stop")
}

// R24: a copy beside its living origin, tablespaces on both sides of the backup.
func TestLivingNeighbour(t *testing.T) {
	w := newWorld(t)
	old, later := w.run.Mkdir(lab.User1, 0o700, "space-old"), w.run.Mkdir(lab.User1, 0o700, "space-later")
	w.pg.Exec("create table t (n int)")
	w.pg.Exec("create tablespace old location '" + old + "'")
	w.pg.Exec("create table a tablespace old as select generate_series(1, 1000) n")
	w.backup()
	before := w.insert(1)
	w.pg.Exec("create tablespace later location '" + later + "'")
	w.pg.Exec("create table b tablespace later as select generate_series(1, 1000) n")
	w.insert(2)
	w.archived()
	files := w.shell("cd / && find " + old + " " + later + " -type f | sort | xargs md5sum")

	pgdata, mapped := w.place("data"), w.place("space")
	r := w.want(4, w.restore("--pgdata", pgdata, "--target-lsn", before, "--start"))
	if !strings.Contains(r.stderr, old) || !strings.Contains(r.stderr, "--tablespace-mapping") {
		t.Errorf("the refusal does not name %s and the way out:\n%s", old, r.stderr)
	}
	mapping := []string{"--tablespace-mapping", old + "=" + mapped}
	// The later one would be created on top of the neighbour's, mapped or not.
	w.want(4, w.restore(append(mapping, "--pgdata", pgdata, "--start")...))
	w.want(4, w.restore(append(mapping, "--pgdata", pgdata, "--start", "--tablespace-mapping", later+"="+w.place("later"))...))
	if exists(pgdata) || exists(mapped) {
		t.Fatal("a refusal made something")
	}
	w.want(0, w.restore(append(mapping, "--pgdata", pgdata, "--target-lsn", before, "--start")...))
	if to, _ := os.Readlink(filepath.Join(pgdata, "pg_tblspc", filepath.Base(firstLink(t, pgdata)))); to != mapped {
		t.Errorf("the copy's tablespace leads to %q", to)
	}
	if exists(pgdata, "tablespace_map") || exists(pgdata, "tablespace_map.old") {
		t.Error("tablespace_map was left behind")
	}
	if got := w.ask(pgdata, "select count(*) from a"); got != "1000" {
		t.Errorf("the copy's table has %s rows", got)
	}
	w.ask(pgdata, "drop table a")
	w.ask(pgdata, "checkpoint")
	w.shell(w.pg.Bin("pg_ctl") + " -D " + pgdata + " -m fast stop")
	if now := w.shell("cd / && find " + old + " " + later + " -type f | sort | xargs md5sum"); now != files {
		t.Errorf("the neighbour's files changed:\n%s\nwere\n%s", now, files)
	}
	if got := w.pg.Psql("-c", "select (select count(*) from a) + (select count(*) from b)"); got != "2000" {
		t.Errorf("the neighbour has %s rows", got)
	}
}

func firstLink(t *testing.T, pgdata string) string {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(pgdata, "pg_tblspc", "*"))
	if err != nil || len(links) != 1 {
		t.Fatalf("links %v, %v", links, err)
	}
	return links[0]
}

// A restore killed in its middle cannot be started as a server and can be run again.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	w.pg.Exec("create table t (n int); create table ballast as select md5(g::text) from generate_series(1, 300000) g")
	w.backup()
	lsn := w.insert(1)
	w.archived()
	pgdata := w.place("data")
	cmd := w.command(t.Context(), "restore", "--pgdata", pgdata, "--target-lsn", lsn)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lab.Poll(t, 30*time.Second, "the first files", func() error {
		files, _ := filepath.Glob(filepath.Join(pgdata, "base/*/*"))
		if len(files) < 5 {
			return fmt.Errorf("%d files", len(files))
		}
		return nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if exists(pgdata, "global/pg_control") || !exists(pgdata, restore.MarkerFile) {
		t.Fatal("killed too late, or not as it should be")
	}
	half := lab.StartPostgres(t, lab.PGOptions{DataDir: pgdata, NoStart: true})
	if err := half.TryStart(20 * time.Second); err == nil {
		t.Error("half a cluster was started")
	}
	w.want(0, w.restore("--pgdata", pgdata, "--target-lsn", lsn, "--start"))
	if got := w.ask(pgdata, "select (select sum(n) from t) + (select count(*) from ballast)"); got != "300001" {
		t.Errorf("the copy has %s", got)
	}
	if !exists(pgdata, catalog.OriginFile) || exists(pgdata, restore.MarkerFile) {
		t.Error("want an origin and no marker")
	}
	w.shell(w.pg.Bin("pg_ctl") + " -D " + pgdata + " -m fast stop")
}
