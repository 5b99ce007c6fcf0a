package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// archiver is a contender of the archive: a command for each segment, and where it has
// one the daemon behind it, which is started for each run.
type archiver struct {
	*contender
	command func(dataDir string) []string // archive-push, archive-get and what they need are added
	whole   func() []string               // or one command for all segments
	daemon  func(dataDir string) []string // may be nil
	socket  string
	scratch string // emptied before each run
}

// alone are both programs with both codecs in one place, without a daemon and without
// asynchronous archiving.
func (b *bench) alone(p *place) []*archiver {
	all := []*archiver{b.oursArchives("zstd", dense, p, false), b.peerArchives("zst", 3, dense, p, false),
		b.oursArchives("s2", fast, p, false), b.peerArchives("lz4", 1, fast, p, false)}
	if p.name == "file" {
		all = append(all, b.boundWAL("zstd", dense, 4<<20), b.boundWAL("s2", fast, 4<<20))
	}
	return all
}

// ahead are the same with what each has to work ahead.
func (b *bench) ahead(p *place) []*archiver {
	return []*archiver{b.oursArchives("zstd", dense, p, true), b.oursArchives("zstd, level: fastest", dense, p, true), b.peerArchives("zst", 3, dense, p, true),
		b.oursArchives("s2", fast, p, true), b.peerArchives("lz4", 1, fast, p, true)}
}

var spelled = strings.NewReplacer(" ", "", "+", "-", ",", "-", ":", "-")

func (b *bench) oursArchives(codec string, class class, p *place, ahead bool) *archiver {
	b.Helper()
	name, program := "alone-", "pgha-backup "
	if ahead {
		name, program = "ahead-", "pgha-wal "
	}
	r := b.room(spelled.Replace(name+codec), p)
	a := &archiver{contender: &contender{name: program + strings.ReplaceAll(codec, ", level:", ""), class: class, wal: []string{r.root + "/bench/*/wal/*"}, at: p}, scratch: r.scratch}
	socket := b.run.Path(r.name, "state", "socket")
	configured := func(dataDir string) string {
		return b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: bench, member: one, data_dir: %s, bin_dir: %s, state_dir: %s, dsn: "host=%s"}
repositories: [{name: main, codec: %s, %s}]
daemon: {socket: %s, listen: ""}
archive: {fill_after: 12h}
`, dataDir, lab.BinDir(b, 15), b.run.Mkdir(lab.User1, 0o700, r.name, "state"), b.run.Path(r.name), codec, r.ours(), socket), r.name, "config.yaml")
	}
	if !ahead {
		a.command = func(dataDir string) []string { return []string{b.program, "--config", configured(dataDir)} }
		return a
	}
	a.socket = socket
	a.daemon = func(dataDir string) []string { return []string{b.program, "--config", configured(dataDir), "daemon"} }
	a.command = func(dataDir string) []string {
		return []string{b.client, "--socket", socket, "--config", configured(dataDir)}
	}
	return a
}

func (b *bench) peerArchives(codec string, level int, class class, p *place, ahead bool) *archiver {
	b.Helper()
	name, program, async := "sync-", "pgBackRest ", "archive-async=n"
	if ahead {
		name, program, async = "async-", "pgBackRest async ", "archive-async=y"
	}
	r := b.room(name+codec, p)
	config := b.peerConfig(r, codec, level, async, "[main]")
	a := &archiver{contender: &contender{name: fmt.Sprintf("%s%s %d", program, codec, level), class: class, peer: true,
		wal: []string{r.root + "/archive/main/*-1/*"}, at: p}, scratch: r.scratch}
	a.command = func(dataDir string) []string {
		return []string{b.peer, "--config=" + config, "--stanza=main", "--pg1-path=" + dataDir}
	}
	b.run.Must(lab.User1, append(a.command(b.feed), "--no-online", "stanza-create")...)
	return a
}

// start begins a run: nothing of an earlier one is left but the archive.
func (b *bench) start(a *archiver, dataDir string) (end func() (cpu time.Duration, rss int64)) {
	b.Helper()
	b.clear(a.scratch + "/*")
	settle()
	if a.daemon == nil {
		return func() (time.Duration, int64) { return 0, 0 }
	}
	p := b.run.Start(lab.User1, "daemon-"+filepath.Base(filepath.Dir(a.scratch)), nil, a.daemon(dataDir)...)
	lab.Poll(b, socketWait, "the daemon's socket", func() error {
		c, err := net.Dial("unix", a.socket)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	before := b.used(p.Pid())
	return func() (time.Duration, int64) {
		cpu, rss := b.used(p.Pid())-before, b.peak(p.Pid())
		b.must(p.Stop(syscall.SIGTERM, 20*time.Second))
		return cpu, rss
	}
}

var hwm = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

func (b *bench) peak(pid int) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	b.must(err)
	kib, err := strconv.ParseInt(string(hwm.FindSubmatch(status)[1]), 10, 64)
	b.must(err)
	return kib << 10
}

// looped runs a loop as the server's user.
func (b *bench) looped(l loop) (s sample) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	in, err := json.Marshal(l)
	b.must(err)
	cmd := b.run.Command(ctx, lab.User1, nil, b.self, "-loop")
	cmd.Stdin = bytes.NewReader(in)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v\n%s", err, said.String())
	}
	var cost looped
	b.must(json.Unmarshal(out.Bytes(), &cost))
	return sample{wall: cost.Wall, cpu: cost.CPU, rss: cost.RSS, each: cost.Each}
}

// push archives the feed into an archive without WAL.
func (b *bench) push(a *archiver, pace time.Duration) sample {
	b.Helper()
	if a.whole != nil {
		settle()
		return b.measured(b.run.Dir, a.whole()...)
	}
	b.clear(a.wal...)
	b.ready()
	end := b.start(a, b.feed)
	asked := a.at.requests()
	s := b.looped(loop{Dir: b.feed, Command: append(a.command(b.feed), "archive-push"), Names: b.names, Push: filepath.Join(b.feed, "pg_wal"), Pace: pace})
	cpu, rss := end()
	s.requests = a.at.requests() - asked
	s.cpu, s.rss, s.stored = s.cpu+cpu, max(s.rss, rss), b.size(b.glob(a.wal...)...)
	return s
}

// get fetches the feed as recovery does, and compares every sixteenth of what came.
func (b *bench) get(a *archiver) sample {
	b.Helper()
	if a.whole != nil {
		settle()
		return b.measured(b.run.Dir, a.whole()...)
	}
	if len(b.glob(a.wal...)) == 0 {
		b.push(a, 0)
	}
	dir := b.dataDir("fetched")
	end := b.start(a, dir)
	asked := a.at.requests()
	s := b.looped(loop{Dir: dir, Command: append(a.command(dir), "archive-get"), Names: b.names, Keep: dir + "/kept"})
	cpu, rss := end()
	s.requests = a.at.requests() - asked
	s.cpu, s.rss = s.cpu+cpu, max(s.rss, rss)
	for _, kept := range b.glob(dir + "/kept/*0") {
		b.run.Must(lab.User1, "cmp", kept, filepath.Join(b.feed, "pg_wal", filepath.Base(kept)))
	}
	b.must(os.RemoveAll(dir))
	return s
}
