package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// place is a store that several contenders keep their archives in, at the same time.
type place struct {
	name     string
	s3       *lab.S3 // nil: files
	addr, ca string
	proxy    *faultproxy.Proxy
}

// archiver is a contender of the continuous archive: a command for each segment, and
// where it has one the daemon behind it, which is started for each run.
type archiver struct {
	*contender
	command func(dataDir string) []string // archive-push, archive-get and what they need are added
	daemon  func(dataDir string) []string // may be nil
	socket  string
	scratch string // emptied before each run
	at      *place
}

func (b *bench) places() (file, near, far *place) {
	b.Helper()
	file = &place{name: "file"}
	s := lab.StartS3(b, lab.S3Options{TLS: true})
	near = &place{name: "s3", s3: s, addr: s.Addr, ca: s.CAFile}
	s = lab.StartS3(b, lab.S3Options{})
	proxy, err := faultproxy.Start(s.Addr)
	b.must(err)
	b.Cleanup(proxy.Close)
	proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{Delay: 20 * time.Millisecond}})
	server := httptest.NewTLSServer(proxy)
	b.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	far = &place{name: "s3 + 20 ms", s3: s, proxy: proxy, addr: server.Listener.Addr().String(),
		ca: b.run.WriteFile(lab.User1, 0o644, string(ca), "far.pem")}
	return file, near, far
}

// archivers are both programs with both codecs in one place.
func (b *bench) archivers(p *place) []*archiver {
	return []*archiver{b.oursAhead("s2", fast, p), b.asynchronous("lz4", 1, fast, p), b.oursAhead("zstd", dense, p), b.oursAhead("zstd, level: fastest", dense, p), b.asynchronous("zst", 3, dense, p)}
}

var spelled = strings.NewReplacer(" ", "", "+", "-", ",", "-", ":", "-")

func (b *bench) room(name string, p *place) (root, scratch string) {
	b.Helper()
	scratch = b.run.Mkdir(lab.User1, 0o700, name, "scratch")
	if p.s3 == nil {
		return b.run.Mkdir(lab.User1, 0o700, name, "repository"), scratch
	}
	c, err := p.s3.Client()
	b.must(err)
	if found, err := c.BucketExists(context.Background(), name); err != nil || !found {
		b.must(p.s3.MakeBucket(name))
	}
	return filepath.Join(p.s3.Dir, name), scratch
}

func (b *bench) oursAhead(codec string, class class, p *place) *archiver {
	b.Helper()
	name := spelled.Replace("ahead-" + codec + "-" + p.name)
	root, scratch := b.room(name, p)
	where := fmt.Sprintf("type: file, file: {path: %s}", root)
	if p.s3 != nil {
		where = fmt.Sprintf(`type: s3, s3: {endpoint: "https://%s", bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, ca_file: %s}`,
			p.addr, name, p.s3.Region, p.s3.AccessKey, p.s3.SecretKey, p.ca)
	}
	a := &archiver{contender: &contender{name: "pgha-wal " + strings.ReplaceAll(codec, ", level:", ""), class: class, wal: []string{root + "/bench/*/wal/*"}},
		socket: b.run.Path(name, "state", "socket"), scratch: scratch, at: p}
	configured := func(dataDir string) string {
		return b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: bench, member: one, data_dir: %s, bin_dir: %s, state_dir: %s, dsn: "host=%s"}
repositories: [{name: main, codec: %s, %s}]
daemon: {socket: %s, listen: ""}
archive: {fill_after: 12h}
`, dataDir, lab.BinDir(b, 15), b.run.Mkdir(lab.User1, 0o700, name, "state"), b.run.Path(name), codec, where, a.socket), name, "config.yaml")
	}
	a.daemon = func(dataDir string) []string { return []string{b.program, "--config", configured(dataDir), "daemon"} }
	a.command = func(dataDir string) []string {
		return []string{b.client, "--socket", a.socket, "--config", configured(dataDir)}
	}
	return a
}

func (b *bench) asynchronous(codec string, level int, class class, p *place) *archiver {
	b.Helper()
	name := spelled.Replace("async-" + codec + "-" + p.name)
	root, scratch := b.room(name, p)
	where := "repo1-path=" + root
	if p.s3 != nil {
		host, port, err := net.SplitHostPort(p.addr)
		b.must(err)
		where = fmt.Sprintf("repo1-type=s3\nrepo1-path=/\nrepo1-s3-bucket=%s\nrepo1-s3-endpoint=localhost\nrepo1-s3-uri-style=path\nrepo1-s3-region=%s\nrepo1-s3-key=%s\nrepo1-s3-key-secret=%s\n"+
			"repo1-storage-host=%s\nrepo1-storage-port=%s\nrepo1-storage-verify-tls=n", name, p.s3.Region, p.s3.AccessKey, p.s3.SecretKey, host, port)
	}
	config := b.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`[global]
%s
compress-type=%s
compress-level=%d
process-max=2
archive-async=y
log-level-console=warn
log-level-file=off
lock-path=%[4]s/lock
spool-path=%[4]s/spool
[main]
`, where, codec, level, scratch), name, "pgbackrest.conf")
	a := &archiver{contender: &contender{name: fmt.Sprintf("pgBackRest async %s %d", codec, level), class: class, peer: true,
		wal: []string{root + "/archive/main/*-1/*"}}, scratch: scratch, at: p}
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

// requests is how many the store has had so far, where somebody counts them.
func (a *archiver) requests() int {
	if a.at == nil || a.at.proxy == nil {
		return 0
	}
	return a.at.proxy.Count("", "")
}

// pushAhead archives the feed into an archive without WAL.
func (b *bench) pushAhead(a *archiver, pace time.Duration) sample {
	b.Helper()
	b.clear(a.wal...)
	b.ready()
	end := b.start(a, b.feed)
	asked := a.requests()
	s := b.looped(loop{Dir: b.feed, Command: append(a.command(b.feed), "archive-push"), Names: b.names, Push: filepath.Join(b.feed, "pg_wal"), Pace: pace})
	cpu, rss := end()
	s.requests = a.requests() - asked
	s.cpu, s.rss, s.stored = s.cpu+cpu, max(s.rss, rss), b.size(b.glob(a.wal...)...)
	return s
}

// getAhead fetches the feed as recovery does, and compares every sixteenth of what came.
func (b *bench) getAhead(a *archiver) sample {
	b.Helper()
	dir := b.dataDir("fetched")
	end := b.start(a, dir)
	s := b.looped(loop{Dir: dir, Command: append(a.command(dir), "archive-get"), Names: b.names, Keep: dir + "/kept"})
	cpu, rss := end()
	s.cpu, s.rss = s.cpu+cpu, max(s.rss, rss)
	for _, kept := range b.glob(dir + "/kept/*0") {
		b.run.Must(lab.User1, "cmp", kept, filepath.Join(b.feed, "pg_wal", filepath.Base(kept)))
	}
	b.must(os.RemoveAll(dir))
	return s
}
