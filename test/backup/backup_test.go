package backup_test

import (
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// An idle server, every codec: the backup can be unpacked with tar, passes
// PostgreSQL's own judgement, and recovers.
func TestIdle(t *testing.T) {
	w := newWorld(t, lab.PGOptions{}, false)
	w.pg.Exec("create table t as select g, md5(g::text) from generate_series(1, 20000) g; create index on t (g)")
	for _, name := range []codec.Name{codec.Zstd, codec.S2, codec.None} {
		m, repository, err := w.take(name, backup.Options{PackSize: 4 << 20})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.Damaged() || m.Files < 900 || m.Bytes < 20<<20 || len(m.Packs) < 5 {
			t.Errorf("%s: %d files, %d bytes, %d packs, damage %v", name, m.Files, m.Bytes, len(m.Packs), m.Damage)
		}
		dir, wal := w.restoreByHand(m, repository), w.fetchWAL(repository)
		w.verify(dir, wal)
		if name != codec.Zstd {
			continue
		}
		restored := w.recover(dir, wal)
		if got := restored.Psql("-c", "select count(*), sum(g) from t"); got != "20000|200010000" {
			t.Errorf("%s: restored table has %s", name, got)
		}
		restored.Stop("fast")
		w.run.Must(lab.User1, w.pg.Bin("pg_checksums"), "--check", "-D", dir)
	}
}

// PostgreSQL 17, streamed by the server: what it sends can be unpacked, is judged
// good by its own tools, and ends as every backup does.
func TestStreamed17(t *testing.T) {
	w := newWorld(t, lab.PGOptions{Major: 17, Conf: map[string]string{"summarize_wal": "on"}}, true)
	w.streamed = true
	space := w.run.Mkdir(lab.User1, 0o700, "space")
	w.pg.Exec("create tablespace one location '" + space + "'")
	w.pg.Exec("create table t tablespace one as select g, md5(g::text) from generate_series(1, 20000) g")
	m, repository, err := w.take(codec.Zstd, backup.Options{PackSize: 4 << 20, Rate: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if m.Source != "base-backup" || m.Damaged() || m.Files < 900 || m.Bytes < 20<<20 || len(m.Packs) < 5 || len(m.Tablespaces) != 1 {
		t.Errorf("%+v", m)
	}
	paths := pathsOf(t, repository, m)
	if paths["pg_wal/summaries"] != catalog.Dir || paths["pg_wal/archive_status"] != catalog.Dir {
		t.Error("the empty directories of pg_wal are not in the backup")
	}
	b, err := repository.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	var last []string
	for _, e := range b.Index.Packs[len(b.Index.Packs)-1].Entries {
		last = append(last, e.Path)
	}
	if got := strings.Join(last, " "); got != "backup_label tablespace_map global/pg_control" {
		t.Errorf("the last pack ends with %s", got)
	}
	dir, wal := w.restoreByHand(m, repository), w.fetchWAL(repository)
	w.verify(dir, wal)
	restored := w.recover(dir, wal)
	if got := restored.Psql("-c", "select count(*), sum(g) from t"); got != "20000|200010000" {
		t.Errorf("restored table has %s", got)
	}
	restored.Stop("fast")
}
