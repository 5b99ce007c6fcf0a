package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// feed is real WAL in the form of a data directory, and a backup that it can be
// replayed on. It may be kept for the next benchmark: making it takes minutes.
func (b *bench) makeFeed(segments int) {
	b.Helper()
	if b.keptFeed == "" {
		b.keptFeed = b.run.Mkdir(lab.User1, 0o700, "feed")
	}
	b.feed = b.keptFeed
	if _, err := os.Stat(filepath.Join(b.feed, "complete")); err != nil {
		b.recordFeed(segments)
	}
	b.names = nil
	for _, path := range b.glob(filepath.Join(b.feed, "pg_wal", "0*")) {
		b.names = append(b.names, filepath.Base(path))
	}
	slices.Sort(b.names)
	b.names = b.names[:min(segments, len(b.names))]
}

func (b *bench) recordFeed(segments int) {
	b.Helper()
	b.run.Must("root", "/bin/sh", "-ec", fmt.Sprintf("rm -rf %[1]s; mkdir -m 700 %[1]s; chown %[2]s %[1]s", b.feed, lab.User1))
	b.run.Must(lab.User1, "mkdir", "-m", "700", b.feed+"/pg_wal", b.feed+"/global", b.feed+"/keep")
	keep := b.run.WriteFile(lab.User1, 0o755, fmt.Sprintf("#!/bin/sh\ncase $2 in *.*) exit 0 ;; esac\ncp \"$1\" %[1]s/keep/$2 && mv %[1]s/keep/$2 %[1]s/pg_wal/$2\n", b.feed), "keep")
	pg := lab.StartPostgres(b, lab.PGOptions{Conf: map[string]string{
		"archive_mode": "on", "archive_command": keep + " %p %f", "wal_level": "replica", "fsync": "off",
		"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h", "autovacuum": "off"}})
	bench := func(args ...string) {
		argv := []string{pg.Bin("pgbench"), "-h", pg.SocketDir, "-p", fmt.Sprint(pg.Port), "-U", "postgres"}
		b.run.Must(lab.User1, append(append(argv, args...), "postgres")...)
	}
	bench("-i", "-q", "-s", fmt.Sprint(min(b.scale, 30)))
	pg.Exec("select pg_switch_wal()")
	b.run.Must(lab.User1, pg.Bin("pg_basebackup"), "-h", pg.SocketDir, "-p", fmt.Sprint(pg.Port), "-U", "postgres",
		"-D", b.feed+"/base", "-X", "none", "-c", "fast", "--no-sync")
	label, err := os.ReadFile(b.feed + "/base/backup_label")
	b.must(err)
	first := startFile.FindStringSubmatch(string(label))[1]
	var count int
	for count < segments+4 {
		pg.Exec("CHECKPOINT") // so that whole pages come again
		bench("-n", "-c", "4", "-j", "2", "-T", "2")
		count = 0
		for _, path := range b.glob(b.feed + "/pg_wal/0*") {
			if filepath.Base(path) < first {
				b.must(os.Remove(path))
			} else {
				count++
			}
		}
		b.Logf("%d of %d segments", min(count, segments), segments)
	}
	pg.Stop("fast")
	b.run.Must(lab.User1, "/bin/sh", "-ec", fmt.Sprintf("cd %s; cp base/global/pg_control global/; cp base/PG_VERSION .; rmdir keep || true; touch complete", b.feed))
	settle()
}

// ready makes every segment one that the archiver is about to hand over.
func (b *bench) ready() {
	b.Helper()
	dir := filepath.Join(b.feed, "pg_wal", "archive_status")
	b.must(os.RemoveAll(dir))
	b.run.Must(lab.User1, "mkdir", "-m", "700", dir)
	for _, name := range b.names {
		b.must(os.WriteFile(filepath.Join(dir, name+".ready"), nil, 0o600))
	}
	b.run.Must("root", "chown", "-R", lab.User1, dir)
}

// dataDir is an empty data directory in recovery.
func (b *bench) dataDir(name string) string {
	b.Helper()
	dir := b.run.Path(name)
	b.must(os.RemoveAll(dir))
	b.run.Mkdir(lab.User1, 0o700, name)
	b.run.Must(lab.User1, "/bin/sh", "-ec", fmt.Sprintf("mkdir -m 700 %[1]s/pg_wal %[1]s/kept; cp -r %[2]s/global %[2]s/PG_VERSION %[1]s/; touch %[1]s/recovery.signal", dir, b.feed))
	return dir
}

const socketWait = 20 * time.Second

// startFile finds the first segment that a backup needs.
var startFile = regexp.MustCompile(`\(file ([0-9A-F]{24})\)`)
