package main

import (
	"fmt"
	"os"
	"path/filepath"

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
	archive []string // archive-push; the path comes last
	fetch   []string // archive-get; name and destination come last
	backup  []string
	restore func(to string) []string
	backups []string // patterns: directories of the backups
	wal     []string // patterns: directories of the WAL
}

func archivers(all []*contender) (some []*contender) {
	for _, c := range all {
		if c.archive != nil {
			some = append(some, c)
		}
	}
	return some
}

func (b *bench) contenders() []*contender {
	return []*contender{
		b.ours("zstd", dense, false), b.ours("s2", fast, false), b.ours("zstd", dense, true), b.ours("s2", fast, true),
		b.pgBackRest("zst", 3, dense), b.pgBackRest("lz4", 1, fast),
		b.baseBackup("zstd", dense), b.baseBackup("lz4", fast),
	}
}

func (b *bench) ours(codec string, class class, onS3 bool) *contender {
	b.Helper()
	kind := "file"
	if onS3 {
		kind = "s3"
	}
	name := "ours-" + codec + "-" + kind
	state := b.run.Mkdir(lab.User1, 0o700, name, "state")
	root := b.run.Mkdir(lab.User1, 0o700, name, "repository")
	where := fmt.Sprintf("type: file, file: {path: %s}", root)
	if onS3 {
		b.must(b.s3.MakeBucket(name))
		root = filepath.Join(b.s3.Dir, name)
		where = fmt.Sprintf(`type: s3, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}`,
			b.s3.Endpoint, name, b.s3.Region, b.s3.AccessKey, b.s3.SecretKey)
	}
	config := b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: bench, member: one, data_dir: %s, bin_dir: %s, state_dir: %s, dsn: %q}
repositories: [{name: main, codec: %s, %s}]
`, b.pg.DataDir, b.pg.BinDir, state, b.pg.SocketDSN(), codec, where), name, "config.yaml")
	command := func(args ...string) []string { return append([]string{b.program, "--config", config}, args...) }
	return &contender{
		name: "pgha-backup " + codec + ", " + kind, class: class,
		archive: command("archive-push"), fetch: command("archive-get"), backup: command("backup"),
		restore: func(to string) []string { return command("restore", "--pgdata", to, "--target-immediate") },
		backups: []string{root + "/bench/*/backup/*"}, wal: []string{root + "/bench/*/wal/*"},
	}
}

func (b *bench) pgBackRest(codec string, level int, class class) *contender {
	b.Helper()
	name := "pgbackrest-" + codec
	root := b.run.Mkdir(lab.User1, 0o700, name, "repository")
	tmp := b.run.Mkdir(lab.User1, 0o700, name, "tmp")
	config := b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`[global]
repo1-path=%s
repo1-bundle=y
compress-type=%s
compress-level=%d
process-max=2
start-fast=y
expire-auto=n
archive-async=n
log-level-console=warn
log-level-file=off
lock-path=%[4]s
spool-path=%[4]s
[main]
pg1-path=%s
pg1-socket-path=%s
pg1-port=%d
pg1-user=postgres
`, root, codec, level, tmp, b.pg.DataDir, b.pg.SocketDir, b.pg.Port), name, "pgbackrest.conf")
	command := func(args ...string) []string {
		return append([]string{"/usr/bin/pgbackrest", "--config=" + config, "--stanza=main"}, args...)
	}
	b.run.Must(lab.User1, command("stanza-create")...)
	return &contender{
		name: fmt.Sprintf("pgBackRest %s %d, file", codec, level), class: class, peer: true,
		archive: command("archive-push"), fetch: command("archive-get"), backup: command("--repo1-retention-full=9", "--type=full", "backup"),
		restore: func(to string) []string { return command("--pg1-path="+to, "--type=immediate", "restore") },
		backups: []string{root + "/backup/main/[0-9]*"}, wal: []string{root + "/archive/main/*-1/*"},
	}
}

func (b *bench) baseBackup(codec string, class class) *contender {
	b.Helper()
	out := b.run.Mkdir(lab.User1, 0o700, "basebackup-"+codec)
	to := filepath.Join(out, "backup")
	return &contender{
		name: "pg_basebackup " + codec + ", file", class: class, peer: true,
		backup: []string{b.pg.Bin("pg_basebackup"), "-h", b.pg.SocketDir, "-p", fmt.Sprint(b.pg.Port), "-U", "postgres",
			"-D", to, "-Ft", "-Z", "client-" + codec, "-X", "none", "-c", "fast"},
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
	if c.archive != nil {
		b.archiveWith(c.archive...)
	} else {
		b.archiveWith("/bin/true")
	}
	b.switchWAL()
	b.pg.Exec("CHECKPOINT")
	settle()
	before := b.backends()
	s := b.measured(b.run.Dir, c.backup...)
	s.server, s.stored = b.backends()-before, b.size(b.glob(c.backups...)...)
	return s
}

// restore writes the latest backup into a new directory.
func (b *bench) restore(c *contender) sample {
	b.Helper()
	to := b.run.Mkdir(lab.User1, 0o700, "restored")
	settle()
	s := b.measured(b.run.Dir, c.restore(to)...)
	if got := b.size(to); got < b.bytes*9/10 {
		b.Fatalf("%s restored %d bytes of %d", c.name, got, b.bytes)
	}
	b.must(os.RemoveAll(to))
	return s
}

// push archives the segments in order, as the archiver does. The repository is
// there and warm, its WAL is not.
func (b *bench) push(c *contender) (total sample) {
	b.Helper()
	b.clear(c.wal...)
	settle()
	for _, name := range b.names {
		total.add(b.measured(b.feed, append(c.archive[:len(c.archive):len(c.archive)], filepath.Join(b.feed, "pg_wal", name))...))
	}
	total.stored = b.size(b.glob(c.wal...)...)
	return total
}

// get fetches the segments in order to where recovery wants them, and looks at what came.
func (b *bench) get(c *contender) (total sample) {
	b.Helper()
	data := b.run.Mkdir(lab.User1, 0o700, "fetched")
	dest := filepath.Join(b.run.Mkdir(lab.User1, 0o700, "fetched", "pg_wal"), "RECOVERYXLOG")
	b.run.Must(lab.User1, "cp", "-r", filepath.Join(b.feed, "global"), filepath.Join(b.feed, "PG_VERSION"), data)
	b.run.Must(lab.User1, "touch", filepath.Join(data, "recovery.signal"))
	settle()
	for _, name := range b.names {
		total.add(b.measured(data, append(c.fetch[:len(c.fetch):len(c.fetch)], name, dest)...))
		b.run.Must(lab.User1, "cmp", dest, filepath.Join(b.feed, "pg_wal", name))
		b.must(os.Remove(dest))
	}
	b.must(os.RemoveAll(data))
	return total
}
