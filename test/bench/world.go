package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// world is the server that is backed up, the store, and real WAL to push.
type world struct {
	run     *lab.Run
	s3      *lab.S3
	pg      *lab.Postgres
	program string
	current string // file that names the archive command of the moment

	feed  string   // a data directory with nothing but WAL
	names []string // its segments
	bytes int64    // size of the server's data directory, without WAL
}

func newWorld(b *bench) *world {
	w := &world{run: lab.RunOf(b)}
	b.world = w
	w.s3, w.program = lab.StartS3(b, lab.S3Options{}), w.run.Build("pgha-backup")
	w.current = w.run.WriteFile(lab.User1, 0o644, "/bin/true", "current")
	archiver := w.run.WriteFile(lab.User1, 0o755, fmt.Sprintf("#!/bin/sh\nexec $(cat %s) \"$1\"\n", w.current), "pgha-backup-or-pgbackrest")
	w.pg = lab.StartPostgres(b, lab.PGOptions{Conf: map[string]string{
		"archive_mode": "on", "archive_command": archiver + " %p", "wal_level": "replica", "fsync": "off",
		"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h", "autovacuum": "off"}})
	b.Logf("loading pgbench at scale %d", b.scale)
	w.pgbench("-i", "-q", "-s", fmt.Sprint(b.scale))
	b.collectWAL()
	w.pg.Exec("CHECKPOINT")
	w.bytes = b.size(w.pg.DataDir) - b.size(filepath.Join(w.pg.DataDir, "pg_wal"))
	w.run.Must(lab.User1, "/bin/sh", "-c", "find "+w.pg.DataDir+" -type f -exec cat {} + >/dev/null")
	return w
}

func (w *world) pgbench(args ...string) {
	argv := []string{w.pg.Bin("pgbench"), "-h", w.pg.SocketDir, "-p", fmt.Sprint(w.pg.Port), "-U", "postgres"}
	w.run.Must(lab.User1, append(append(argv, args...), "postgres")...)
}

// collectWAL keeps the segments that an OLTP workload writes between checkpoints.
func (b *bench) collectWAL() {
	b.Helper()
	b.feed = b.run.Mkdir(lab.User1, 0o700, "feed")
	dir := b.run.Mkdir(lab.User1, 0o700, "feed", "pg_wal")
	keep := b.run.WriteFile(lab.User1, 0o755, fmt.Sprintf("#!/bin/sh\ncase $1 in *.*) exit 0 ;; esac\nexec cp \"$1\" %s/\n", dir), "keep")
	b.archiveWith(keep)
	for len(b.names) < b.segments+1 {
		b.pg.Exec("CHECKPOINT") // so that whole pages come again
		b.pgbench("-n", "-c", "4", "-j", "2", "-T", "2")
		b.names = nil
		for _, path := range b.glob(filepath.Join(dir, "*")) {
			b.names = append(b.names, filepath.Base(path))
		}
		b.Logf("%d of %d segments", min(len(b.names), b.segments), b.segments)
	}
	b.switchWAL()
	b.archiveWith("/bin/true")
	slices.Sort(b.names)
	b.names = b.names[1 : b.segments+1] // the first began before the workload
	data := b.pg.DataDir
	b.run.Must(lab.User1, "/bin/sh", "-ec", fmt.Sprintf("mkdir %[2]s/global; cp %[1]s/global/pg_control %[2]s/global/; cp %[1]s/PG_VERSION %[2]s/", data, b.feed))
}

// archiveWith sets what the server's archiver runs from now on; the path of the
// file is its last argument.
func (b *bench) archiveWith(argv ...string) {
	b.Helper()
	b.must(os.WriteFile(b.current, []byte(strings.Join(argv, " ")), 0o644))
}

// switchWAL ends a segment and waits until the archiver has stored it and all before.
func (b *bench) switchWAL() {
	b.Helper()
	b.pg.Exec("SELECT pg_logical_emit_message(false, 'bench', '')")
	var name string
	b.pg.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &name)
	lab.Poll(b, time.Minute, "the archiver", func() error {
		var last string
		b.pg.QueryRow("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver", &last)
		if last < name {
			return fmt.Errorf("%q is archived, not yet %s", last, name)
		}
		return nil
	})
}
