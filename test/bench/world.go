package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// world is the server that is backed up, the stores, and real WAL to push.
type world struct {
	run               *lab.Run
	cache             string
	program, client   string // pgha-backup, pgha-wal
	peer, self        string // the latest pgBackRest, this program
	archiver, current string // what archive_command runs; the file that names the command of the moment
	places            map[string]*place

	pg    *lab.Postgres // once it is wanted
	bytes int64         // size of its data directory, without WAL
	feed  string        // a data directory with nothing but WAL
	names []string      // its segments
}

func newWorld(b *bench) *world {
	w := &world{run: lab.RunOf(b), cache: "/var/cache/pgha-backup", places: map[string]*place{}}
	b.world = w
	if cache := os.Getenv("PGHA_CACHE"); cache != "" {
		w.cache = cache
	}
	w.program, w.client, w.peer = w.run.Build("pgha-backup"), w.run.Build("pgha-wal"), w.cache+"/pgbackrest/usr/bin/pgbackrest"
	self, err := os.Executable()
	b.must(err)
	w.self = w.run.Path("bench")
	w.run.Must("root", "install", "-m", "755", self, w.self)
	w.current = w.run.WriteFile(lab.User1, 0o644, "/bin/true", "current")
	w.archiver = w.run.WriteFile(lab.User1, 0o755, fmt.Sprintf("#!/bin/sh\nexec $(cat %s) \"$1\"\n", w.current), "pgha-backup-or-pgbackrest")
	return w
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
