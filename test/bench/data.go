package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// serverConf is for the server that is backed up: what it does by itself is not measured.
var serverConf = map[string]string{"archive_mode": "on", "wal_level": "replica", "fsync": "off", "shared_buffers": "256MB",
	"max_wal_size": "4GB", "checkpoint_timeout": "1h", "autovacuum": "off", "max_wal_senders": "10"}

// documents are rows as applications have them beside pgbench's, which are nearly empty.
const documents = `insert into documents select g, jsonb_build_object('customer', md5(g::text), 'name', 'customer number ' || g %% 9973, 'score', random(),
	'tags', jsonb_build_array('t' || g %% 7, 't' || g %% 131, 't' || g %% 1009), 'at', timestamptz '2026-01-01 UTC' + g * interval '1 second'),
	substr(repeat('a note about ' || g %% 4099 || ' and what follows; ', 12), 1, 100 + g %% 200)
from generate_series(1, %d) g`

// openData serves the database that is backed up. It may be kept for the next
// benchmark: making it takes minutes.
func (b *bench) openData() {
	b.Helper()
	if b.keptData == "" {
		b.keptData = b.run.Mkdir(lab.User1, 0o755, "kept")
	}
	dir := filepath.Join(b.keptData, "pgdata")
	if _, err := os.Stat(filepath.Join(b.keptData, "complete")); err != nil {
		b.locked(func() { b.makeData(dir) })
	}
	b.pg = lab.StartPostgres(b, lab.PGOptions{DataDir: dir, NoStart: true})
	b.pg.Configure(serverConf)
	b.pg.Configure(map[string]string{"archive_command": b.archiver + " %p"})
	b.pg.Start()
	b.bytes = b.size(dir) - b.size(filepath.Join(dir, "pg_wal"))
	b.Logf("%.0f MB in PGDATA without WAL", float64(b.bytes)/1e6)
	b.run.Must(lab.User1, "/bin/sh", "-c", "find "+dir+" -type f -exec cat {} + >/dev/null")
}

func (b *bench) makeData(dir string) {
	b.Helper()
	b.run.Must("root", "/bin/sh", "-ec", fmt.Sprintf("rm -rf %[1]s/*; mkdir -p %[1]s; chown %[2]s %[1]s", b.keptData, lab.User1))
	pg := lab.StartPostgres(b, lab.PGOptions{NoStart: true, Conf: map[string]string{"fsync": "off", "shared_buffers": "256MB",
		"max_wal_size": "4GB", "checkpoint_timeout": "1h", "autovacuum": "off", "wal_level": "minimal", "max_wal_senders": "0"}})
	pg.Start()
	b.Logf("loading pgbench at scale %d", b.scale)
	b.run.Must(lab.User1, pg.Bin("pgbench"), "-h", pg.SocketDir, "-p", fmt.Sprint(pg.Port), "-U", "postgres", "-i", "-q", "-s", fmt.Sprint(b.scale), "postgres")
	pg.Psql("-q", "-c", "create table documents (id bigint primary key, doc jsonb, note text)", "-c", fmt.Sprintf(documents, 11000*b.scale), "-c", "vacuum (freeze, analyze) documents")
	pg.Stop("fast")
	b.run.Must("root", "/bin/sh", "-ec", fmt.Sprintf("mv %s %s; sync; touch %s/complete", pg.DataDir, dir, b.keptData))
}
