package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// class groups contenders whose stored sizes can be compared.
type class string

const (
	fast  class = "fast"  // lz4, s2
	dense class = "dense" // zstd
)

// contender is one program with one codec and one kind of repository.
type contender struct {
	name    string
	class   class
	peer    bool
	bound   bool // no program, but what none can be better than
	at      *place
	archive []string // archive_command while its backup runs; the path comes last
	backup  func() []string
	restore func(to string) []string
	backups []string // patterns: directories of the backups
	wal     []string // patterns: directories of the WAL
}

// contenders are who takes and restores full backups in a place.
func (b *bench) contenders(p *place) []*contender {
	b.Helper()
	zstd, s2 := b.ours("zstd", dense, p), b.ours("s2", fast, p)
	all := []*contender{zstd, b.pgBackRest("zst", 3, dense, p), s2, b.pgBackRest("lz4", 1, fast, p)}
	switch p.name {
	case "file":
		all = append(all, b.baseBackup("zstd", dense), b.baseBackup("lz4", fast), b.bound(zstd, "zstd"), b.bound(s2, "s2"))
	case "s3":
		if barman := b.barman(p); barman != nil {
			all = append(all, barman)
		}
	}
	return all
}

func (b *bench) ours(codec string, class class, p *place) *contender {
	b.Helper()
	r := b.room("ours-"+codec, p)
	config := b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: bench, member: one, data_dir: %s, bin_dir: %s, state_dir: %s, dsn: %q}
repositories: [{name: main, codec: %s, %s}]
`, b.pg.DataDir, b.pg.BinDir, b.run.Mkdir(lab.User1, 0o700, r.name, "state"), b.pg.SocketDSN(), codec, r.ours()), r.name, "config.yaml")
	command := func(args ...string) []string { return append([]string{b.program, "--config", config}, args...) }
	return &contender{
		name: "pgha-backup " + codec, class: class, at: p,
		archive: command("archive-push"), backup: func() []string { return command("backup") },
		restore: func(to string) []string { return command("restore", "--pgdata", to, "--target-immediate") },
		backups: []string{r.root + "/bench/*/backup/*"}, wal: []string{r.root + "/bench/*/wal/*"},
	}
}

// peerConfig writes a configuration of pgBackRest.
func (b *bench) peerConfig(r room, codec string, level int, more ...string) string {
	b.Helper()
	return b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`[global]
%s
compress-type=%s
compress-level=%d
process-max=2
log-level-console=warn
log-level-file=off
lock-path=%[4]s/lock
spool-path=%[4]s/spool
%s
`, r.pgBackRest(), codec, level, r.scratch, strings.Join(more, "\n")), r.name, "pgbackrest.conf")
}

func (b *bench) pgBackRest(codec string, level int, class class, p *place) *contender {
	b.Helper()
	r := b.room("pgbackrest-"+codec, p)
	config := b.peerConfig(r, codec, level, "repo1-bundle=y", "repo1-retention-full=9", "start-fast=y", "expire-auto=n", "archive-async=n",
		"[main]", "pg1-path="+b.pg.DataDir, "pg1-socket-path="+b.pg.SocketDir, fmt.Sprint("pg1-port=", b.pg.Port), "pg1-user=postgres")
	command := func(args ...string) []string {
		return append([]string{b.peer, "--config=" + config, "--stanza=main"}, args...)
	}
	b.run.Must(lab.User1, command("stanza-create")...)
	return &contender{
		name: fmt.Sprintf("pgBackRest %s %d", codec, level), class: class, peer: true, at: p,
		archive: command("archive-push"), backup: func() []string { return command("--type=full", "backup") },
		restore: func(to string) []string { return command("--pg1-path="+to, "--type=immediate", "restore") },
		backups: []string{r.root + "/backup/main/[0-9]*"}, wal: []string{r.root + "/archive/main/*-1/*"},
	}
}

func (b *bench) baseBackup(codec string, class class) *contender {
	b.Helper()
	to := filepath.Join(b.run.Mkdir(lab.User1, 0o700, "basebackup-"+codec), "backup")
	return &contender{
		name: "pg_basebackup " + codec, class: class, peer: true,
		backup: func() []string {
			return []string{b.pg.Bin("pg_basebackup"), "-h", b.pg.SocketDir, "-p", fmt.Sprint(b.pg.Port), "-U", "postgres",
				"-D", to, "-Ft", "-Z", "client-" + codec, "-X", "none", "-c", "fast"}
		},
		restore: func(dir string) []string {
			return []string{"/bin/sh", "-ec", fmt.Sprintf("%s -dc %s/base.tar.%s | tar -xC %s; sync -f %[4]s", codec, to, extension(codec), dir)}
		},
		backups: []string{to},
	}
}

func extension(codec string) string { return map[string]string{"zstd": "zst", "lz4": "lz4"}[codec] }

// backup takes a full backup and keeps no earlier one.
func (b *bench) backup(c *contender) sample {
	b.Helper()
	b.clear(c.backups...)
	b.archiveWith("/bin/true")
	if c.archive != nil {
		b.archiveWith(c.archive...)
	}
	b.switchWAL()
	b.pg.Exec("CHECKPOINT")
	settle()
	before, asked := b.backends(), c.at.requests()
	s := b.measured(b.run.Dir, c.backup()...)
	s.requests = c.at.requests() - asked
	if s.server = b.backends() - before; !c.bound {
		s.stored = b.size(b.glob(c.backups...)...)
	}
	return s
}

// restore writes the latest backup into a new directory.
func (b *bench) restore(c *contender) sample {
	b.Helper()
	if len(b.glob(c.backups...)) == 0 {
		b.backup(c)
	}
	to := b.run.Mkdir(lab.User1, 0o700, "restored")
	settle()
	asked := c.at.requests()
	s := b.measured(b.run.Dir, c.restore(to)...)
	s.requests = c.at.requests() - asked
	if got := b.size(to); got < b.bytes*9/10 && !c.bound {
		b.Fatalf("%s restored %d bytes of %d", c.name, got, b.bytes)
	}
	b.must(os.RemoveAll(to))
	return s
}
