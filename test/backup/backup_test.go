package backup_test

import (
	"testing"

	"github.com/pgha-backup/pgha-backup/backup"
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
