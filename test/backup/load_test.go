package backup_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// A busy server with everything that makes a copy hard: two tablespaces, unlogged
// and temporary relations, files that vanish, grow and shrink, and writers.
func TestUnderLoad(t *testing.T) {
	w := newWorld(t, lab.PGOptions{WALSegSizeMB: 1, Conf: map[string]string{"checkpoint_timeout": "30s"}}, false)
	first, second := w.run.Mkdir(lab.User1, 0o700, "space 1"), w.run.Mkdir(lab.User1, 0o700, "space2")
	w.pg.Exec("create tablespace one location '" + first + "'")
	w.pg.Exec("create tablespace two location '" + second + "'")
	w.pg.Exec(`create extension amcheck;
		create table account (id int primary key, balance bigint not null default 0) with (fillfactor = 70);
		insert into account select generate_series(1, 50000);
		create table ledger (id bigserial primary key, a int, b int, amount int) tablespace one;
		create unlogged table volatile as select g from generate_series(1, 100000) g;
		create unlogged table volatile2 (g int) tablespace one; insert into volatile2 select generate_series(1, 1000);
		create table big as select g, repeat(md5(g::text), 8) pad from generate_series(1, 100000) g;
		create table shrinks as select g, repeat('x', 500) pad from generate_series(1, 30000) g; checkpoint`)
	var unlogged, unlogged2 string
	w.pg.QueryRow("select pg_relation_filepath('volatile'), pg_relation_filepath('volatile2')", &unlogged, &unlogged2)

	stop := w.load()
	began := time.Now()
	m, repository, err := w.take(codec.Zstd, backup.Options{PackSize: 8 << 20, Workers: 3})
	t.Log("took", time.Since(began))
	stop()
	t.Log("stopped", time.Since(began))
	if err != nil {
		t.Fatal(err)
	}
	if m.Damaged() || len(m.Tablespaces) != 2 {
		t.Errorf("damage %v, tablespaces %v", m.Damage, m.Tablespaces)
	}
	paths := pathsOf(t, repository, m)
	for _, relation := range []string{unlogged, unlogged2} {
		if _, ok := paths[relation]; ok {
			t.Errorf("unlogged %s was copied", relation)
		}
		if _, ok := paths[relation+"_init"]; !ok {
			t.Errorf("the init fork of unlogged %s was not copied", relation)
		}
	}
	for path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "pgsql_tmp") || strings.HasPrefix(path, "pg_wal/0") || name == "postmaster.pid" ||
			strings.HasPrefix(path, "base/") && strings.HasPrefix(name, "t") {
			t.Errorf("%s was copied", path)
		}
	}
	for _, empty := range []string{"pg_wal", "pg_wal/archive_status", "pg_replslot", "pg_tblspc", "pg_notify"} {
		if kind := paths[empty]; kind != catalog.Dir {
			t.Errorf("%s is not a directory of the backup", empty)
		}
	}

	dir, wal := w.restoreByHand(m, repository), w.fetchWAL(repository)
	w.verify(dir, wal)
	restored := w.recover(dir, wal)
	for query, want := range map[string]string{
		"select sum(balance) from account":                                    "0",
		"select count(*) from volatile":                                       "0",
		"select count(*) from big":                                            "100000",
		"select (select count(*) from ledger) = (select max(id) from ledger)": "t",
	} {
		if got := restored.Psql("-c", query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	restored.Psql("-c", "select bt_index_check(oid, true) from pg_class where relkind = 'i' and relam = 403 and relpersistence = 'p'")
	restored.Stop("fast")
	w.run.Must(lab.User1, w.pg.Bin("pg_checksums"), "--check", "-D", dir)
}

func pathsOf(t *testing.T, repository *catalog.Repository, m catalog.Manifest) map[string]catalog.EntryKind {
	t.Helper()
	b, err := repository.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]catalog.EntryKind{}
	for _, pack := range b.Index.Packs {
		for _, e := range pack.Entries {
			paths[e.Path] = e.Kind
		}
	}
	return paths
}

// load runs writers until the returned function is called: transfers that keep
// the sum zero, and tables that come, go and shrink.
func (w *world) load() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	script := w.run.WriteFile(lab.User1, 0o644, `\set a random(1, 50000)
\set b random(1, 50000)
\set v random(1, 100)
begin;
update account set balance = balance + :v where id = least(:a, :b);
update account set balance = balance - :v where id = greatest(:a, :b);
end;
`, "transfer.sql")
	churn := `create temp table scratch as select generate_series(1, 5000) g;
create table comes as select generate_series(1, 5000) g; insert into big select g, 'x' from generate_series(1, 2000) g;
insert into ledger (a, b, amount) select g, g, g from generate_series(1, 500) g;
delete from big where pad = 'x'; drop table comes; truncate shrinks; insert into shrinks select g, repeat('x', 500) from generate_series(1, 20000) g;
set work_mem = '64kB'; select count(*) from (select pad from big order by pad) s; drop table scratch`
	var running sync.WaitGroup
	for _, argv := range [][]string{
		{w.pg.Bin("pgbench"), "-n", "-c", "2", "-T", "600", "-f", script, "-h", w.pg.SocketDir, "-p", fmt.Sprint(w.pg.Port), "-U", "postgres", "postgres"},
		{"/bin/sh", "-c", "while true; do " + w.pg.Bin("psql") + " -qXAt -d '" + w.pg.SocketDSN() + "' -f " + w.run.WriteFile(lab.User1, 0o644, churn, "churn.sql") + " || exit 1; done"},
	} {
		cmd := w.run.Command(ctx, lab.User1, os.Environ(), argv...)
		out := &strings.Builder{}
		cmd.Stdout, cmd.Stderr = out, out
		running.Go(func() { w.finish(ctx, cmd, out) })
	}
	lab.Poll(w.t, 30e9, "the load to begin", func() error {
		if n := w.pg.Psql("-c", "select count(*) > 500 from ledger"); n != "t" {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	return func() { cancel(); running.Wait() }
}

func (w *world) finish(ctx context.Context, cmd *exec.Cmd, out *strings.Builder) {
	if err := cmd.Run(); ctx.Err() == nil {
		w.t.Errorf("%v ended: %v\n%s", cmd.Args[:1], err, out)
	}
}
