package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// measureArchive is for the continuous archive: ours through the daemon, pgBackRest
// with asynchronous archiving, on the same stores.
func (b *bench) measureArchive() {
	w := &world{run: lab.RunOf(b)}
	b.world = w
	w.program, b.client = w.run.Build("pgha-backup"), w.run.Build("pgha-wal")
	b.peer = "/var/cache/pgha-backup/pgbackrest/usr/bin/pgbackrest"
	if cache := os.Getenv("PGHA_CACHE"); cache != "" {
		b.peer = cache + "/pgbackrest/usr/bin/pgbackrest"
	}
	self, err := os.Executable()
	b.must(err)
	b.self = w.run.Path("bench")
	w.run.Must("root", "install", "-m", "755", self, b.self)
	b.locked(func() { b.makeFeed(b.segments) })
	b.describeArchive()
	file, near, far := b.places()
	for _, w := range []struct {
		name string
		at   *place
	}{{"ahead-file", file}, {"ahead-s3", near}, {"ahead-far", far}} {
		if !b.wants(w.name) {
			continue
		}
		columns := walColumns(len(b.names), true)
		if w.at.proxy != nil {
			columns = append(columns, column{title: "requests/segment", format: "%.2f", figure: func(s sample) float64 { return float64(s.requests) / float64(len(b.names)) }})
		}
		table(os.Stdout, "WAL push, "+w.at.name, interleaved(b, w.name, b.archivers(w.at), func(a *archiver) sample { return b.pushAhead(a, 0) }), columns)
	}
	if b.wants("fetch", "replay") {
		all := b.archivers(near)
		b.locked(func() {
			for _, a := range all {
				b.pushAhead(a, 0)
			}
		})
		if b.wants("fetch") {
			table(os.Stdout, "WAL get, s3", interleaved(b, "fetch", all, b.getAhead), walColumns(len(b.names), false))
		}
		if b.wants("replay") {
			copies := &archiver{contender: &contender{name: "cp", class: fast, peer: true}}
			table(os.Stdout, fmt.Sprintf("Replay of %d segments, s3", len(b.names)), interleaved(b, "replay", append([]*archiver{copies}, all...), b.replay),
				[]column{{title: "s", format: "%.2f", figure: wall, ratio: true}})
		}
	}
	if b.wants("hook") {
		nothing := &archiver{contender: &contender{name: "/bin/true"}, command: func(string) []string { return []string{"/bin/true"} }}
		all := []*archiver{nothing, b.oursAhead("s2", fast, near), b.asynchronous("lz4", 1, fast, near)}
		columns := []column{}
		for _, q := range []float64{0.5, 0.9, 0.99, 1} {
			columns = append(columns, column{title: fmt.Sprintf("p%g ms", 100*q), format: "%.1f", figure: func(s sample) float64 { return quantile(s.each, q) }})
		}
		table(os.Stdout, "One call of archive_command, four a second", interleaved(b, "hook", all, func(a *archiver) sample {
			nothing.scratch = b.run.Mkdir(lab.User1, 0o700, "nothing")
			return b.pushAhead(a, 250*time.Millisecond)
		}), columns)
	}
	if b.wants("commit") {
		b.locked(func() { b.commits(near) })
	}
}

func (b *bench) describeArchive() {
	b.Helper()
	for _, argv := range [][]string{{lab.BinDir(b, 15) + "/postgres", "--version"}, {b.peer, "version"}, {b.program, "version"}} {
		fmt.Print(b.run.Must(lab.User1, argv...))
	}
	fmt.Printf("%d WAL segments of 16 MiB, medians of %d interleaved runs; two processes or workers each; S3 over TLS on the same machine\n", len(b.names), b.runs)
}

var redo = regexp.MustCompile(`(?m)^(\S+ \S+) UTC \[\d+\] LOG:  redo (starts|done) at`)

// replay recovers the feed's backup with the feed, and takes the time that the server's log tells.
func (b *bench) replay(a *archiver) (s sample) {
	b.Helper()
	dir := filepath.Join(b.run.Mkdir(lab.User1, 0o700, "replayed"), "data")
	b.must(os.RemoveAll(dir))
	b.run.Must(lab.User1, "cp", "-r", filepath.Join(b.feed, "base"), dir)
	command, end := fmt.Sprintf("cp %s/pg_wal/%%f %%p", b.feed), func() (time.Duration, int64) { return 0, 0 }
	if a.command != nil {
		command = ""
		for _, arg := range a.command(dir) {
			command += arg + " "
		}
		command += `archive-get %f %p`
		end = b.start(a, dir)
	}
	settle()
	b.run.Must(lab.User1, "touch", dir+"/recovery.signal")
	pg := lab.StartPostgres(b, lab.PGOptions{DataDir: dir, NoStart: true})
	pg.Configure(map[string]string{"archive_mode": "off", "restore_command": command, "fsync": "off", "shared_buffers": "256MB",
		"listen_addresses": "", "log_line_prefix": "%m [%p] ", "log_timezone": "UTC", "max_wal_size": "4GB", "recovery_target_action": "promote"})
	pg.Launch()
	var at []time.Time
	lab.Poll(b, 5*time.Minute, "the end of recovery", func() error {
		log, err := os.ReadFile(pg.Log)
		if err != nil {
			return err
		}
		at = nil
		for _, found := range redo.FindAllStringSubmatch(string(log), -1) {
			t, err := time.Parse("2006-01-02 15:04:05.000", found[1])
			b.must(err)
			at = append(at, t)
		}
		if len(at) < 2 {
			return fmt.Errorf("redo has not ended: see %s", pg.Log)
		}
		return nil
	})
	pg.Stop("immediate")
	s.wall = at[1].Sub(at[0])
	s.cpu, s.rss = end()
	b.must(os.RemoveAll(dir))
	return s
}

var latency = regexp.MustCompile(`latency average = ([0-9.]+) ms`)

// commits tells what an application sees while the store is down: the same load twice
// with the store, and once without.
func (b *bench) commits(p *place) {
	b.Helper()
	pg := lab.StartPostgres(b, lab.PGOptions{NoStart: true, Conf: map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}})
	a := b.oursAhead("s2", fast, p)
	command := ""
	for _, arg := range a.command(pg.DataDir) {
		command += arg + " "
	}
	pg.Configure(map[string]string{"archive_mode": "on", "archive_command": command + "archive-push %p"})
	pg.Start()
	end := b.start(a, pg.DataDir)
	load := func(args ...string) string {
		argv := []string{pg.Bin("pgbench"), "-h", pg.SocketDir, "-p", fmt.Sprint(pg.Port), "-U", "postgres"}
		return b.run.Must(lab.User1, append(append(argv, args...), "postgres")...)
	}
	load("-i", "-q", "-s", "10")
	fmt.Printf("\n### Commit latency, pgbench -c 4, 15 s each\n\n| store | ms |\n| ----- | ---: |\n")
	for i := range max(2, b.runs) {
		for _, store := range []string{"up", "up again", "down"} {
			pg.Exec("CHECKPOINT")
			if store == "down" {
				p.s3.Stop()
			}
			ms, err := strconv.ParseFloat(latency.FindStringSubmatch(load("-n", "-c", "4", "-j", "2", "-T", "15"))[1], 64)
			b.must(err)
			fmt.Printf("| %s, %d | %.2f |\n", store, i+1, ms)
			if store == "down" {
				p.s3.Start()
			}
		}
	}
	end()
}
