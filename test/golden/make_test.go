package golden_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestMake makes a golden repository where -make says: see README.md.
func TestMake(t *testing.T) {
	if *makeNew == "" {
		return
	}
	if _, err := os.Stat(*makeNew); err == nil {
		t.Fatalf("%s exists: a golden repository is never changed", *makeNew)
	}
	run := lab.RunOf(t)
	pg := lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, NoStart: true})
	w := newWorld(t, run.Mkdir(lab.User1, 0o700, "repository"),
		fmt.Sprintf("  data_dir: %s\n  dsn: host=%s port=%d user=postgres dbname=postgres\n", pg.DataDir, pg.SocketDir, pg.Port))
	pg.Configure(map[string]string{"archive_mode": "on", "archive_command": w.binary + " --config " + w.config + " archive-push %p",
		"min_wal_size": "2MB", "max_wal_size": "8MB", "autovacuum": "off", "wal_level": "replica", "hot_standby": "on"})
	pg.Start()
	e := expectations{Format: catalog.Format, Major: 15, Tablespace: run.Mkdir(lab.User1, 0o700, "aside")}
	e.Program = strings.TrimSpace(strings.TrimPrefix(strings.Split(w.must("version"), "\n")[0], "pgha-backup"))

	pg.Exec("create tablespace aside location '" + e.Tablespace + "'")
	pg.Exec(`create table marks (id int generated always as identity primary key, name text);
		create table elsewhere (g int) tablespace aside; insert into elsewhere select generate_series(1, 1000);
		create unlogged table volatile as select 1 as g;
		insert into marks (name) values ('before-the-backup')`)
	if err := json.Unmarshal([]byte(w.must("backup", "--format", "json", "--comment", "golden")), new(catalog.Manifest)); err != nil {
		t.Fatal(err)
	}
	var list struct{ Backups []catalog.Manifest }
	if err := json.Unmarshal([]byte(w.must("list", "--format", "json")), &list); err != nil || len(list.Backups) != 1 {
		t.Fatalf("list: %d backups, %v", len(list.Backups), err)
	}
	e.Backup, e.StartLSN, e.StopLSN = list.Backups[0].ID, list.Backups[0].StartLSN, list.Backups[0].StopLSN

	mark := func(name string) { pg.Exec("insert into marks (name) values ('" + name + "')") }
	point := func(name string, tli postgres.TimelineID, marks string) {
		var lsn string
		pg.QueryRow("select pg_create_restore_point('"+name+"')::text", &lsn)
		end, err := postgres.ParseLSN(lsn)
		if err != nil {
			t.Fatal(err)
		}
		e.Targets = append(e.Targets, target{[]string{"--target-name", name}, tli, end, marks})
	}
	mark("a")
	point("after-a", 1, "before-the-backup a")
	mark("b")
	// A second timeline, as a failover makes it: with a .partial and a .history.
	pg.Stop("fast")
	if err := os.WriteFile(filepath.Join(pg.DataDir, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pg.Start()
	pg.Exec("select pg_promote()")
	mark("c")
	point("after-c", 2, "before-the-backup a b c")
	mark("d")
	var last string
	pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &last)
	lab.Poll(t, time.Minute, "everything in the archive", func() error {
		for key := range objects(t, w.dir) {
			if strings.HasSuffix(key, "/"+last) {
				return nil
			}
		}
		return fmt.Errorf("%s is not there", last)
	})
	pg.Stop("fast")

	systems, err := catalog.Systems(t.Context(), file.New(w.dir), scope)
	if err != nil || len(systems) != 1 {
		t.Fatalf("systems %v: %v", systems, err)
	}
	e.System = systems[0]
	content, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for key, from := range objects(t, w.dir) {
		to := filepath.Join(*makeNew, "repository", key)
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(*makeNew, "expected.json"), append(content, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
