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

// measureWAL is for the archive: one process for each segment, alone and with what works
// ahead behind it.
func (b *bench) measureWAL() {
	if b.only != "prepare" && !b.wants("push-file", "push-s3", "push-far", "get-file", "get-s3", "get-far", "ahead-file", "ahead-s3", "ahead-far", "fetch", "hook", "replay", "commit") {
		return
	}
	b.locked(func() { b.makeFeed(b.segments) })
	for _, name := range []string{"file", "s3", "far"} {
		if p := b.at; b.wants("push-"+name, "get-"+name) {
			all := b.alone(p(name))
			if b.wants("push-" + name) {
				table(os.Stdout, "WAL push, "+p(name).title(), interleaved(b, "push-"+name, all, func(a *archiver) sample { return b.push(a, 0) }), walColumns(p(name), len(b.names), true))
			}
			if b.wants("get-" + name) {
				all = all[:4]
				if name == "file" {
					all = append(all, b.boundWAL("zstd", dense, 1<<20, all[0].wal[0]+"/*/*"), b.boundWAL("s2", fast, 1<<20, all[2].wal[0]+"/*/*"))
				}
				table(os.Stdout, "WAL get, "+p(name).title(), interleaved(b, "get-"+name, all, b.get), walColumns(p(name), len(b.names), false))
			}
		}
	}
	for _, name := range []string{"file", "s3", "far"} {
		if b.wants("ahead-" + name) {
			p := b.at(name)
			table(os.Stdout, "WAL push ahead, "+p.title(), interleaved(b, "ahead-"+name, b.ahead(p), func(a *archiver) sample { return b.push(a, 0) }), walColumns(p, len(b.names), true))
		}
	}
	if b.wants("fetch", "replay") {
		p := b.at("s3")
		all := b.ahead(p)
		if b.wants("fetch") {
			table(os.Stdout, "WAL get ahead, "+p.title(), interleaved(b, "fetch", all, b.get), walColumns(p, len(b.names), false))
		}
		if b.wants("replay") {
			copies := &archiver{contender: &contender{name: "cp", class: fast, peer: true}}
			table(os.Stdout, fmt.Sprintf("Replay of %d segments, %s", len(b.names), p.title()), interleaved(b, "replay", append([]*archiver{copies}, all...), b.replay),
				[]column{{title: "s", format: "%.2f", figure: wall, ratio: true}})
		}
	}
	if b.wants("hook") {
		b.hooks()
	}
	if b.wants("commit") {
		b.locked(func() { b.commits(b.at("s3")) })
	}
}

// hooks is what one call of archive_command takes while there is time to be ahead.
func (b *bench) hooks() {
	p := b.at("s3")
	nothing := &archiver{contender: &contender{name: "/bin/true"}, command: func(string) []string { return []string{"/bin/true"} }}
	all := []*archiver{nothing, b.oursArchives("s2", fast, p, true), b.peerArchives("lz4", 1, fast, p, true)}
	columns := []column{}
	for _, q := range []float64{0.5, 0.9, 0.99, 1} {
		columns = append(columns, column{title: fmt.Sprintf("p%g ms", 100*q), format: "%.1f", figure: func(s sample) float64 { return quantile(s.each, q) }})
	}
	table(os.Stdout, "One call of archive_command, four a second", interleaved(b, "hook", all, func(a *archiver) sample {
		nothing.scratch = b.run.Mkdir(lab.User1, 0o700, "nothing")
		return b.push(a, 250*time.Millisecond)
	}), columns)
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
		if len(b.glob(a.wal...)) == 0 {
			b.push(a, 0)
		}
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
	a := b.oursArchives("s2", fast, p, true)
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
