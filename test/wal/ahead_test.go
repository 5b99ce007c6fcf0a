package wal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// seen is a daemon that shows its metrics.
type seen struct {
	*world
	config, state, addr string
	proc                *lab.Process
}

func (w *world) seen(dataDir string, more ...string) *seen {
	w.t.Helper()
	config, state := w.configFor(dataDir)
	s := &seen{world: w, config: config, state: state, addr: fmt.Sprintf("%s200:%d", w.run.Prefix, 8100+w.n)}
	b, err := os.ReadFile(config)
	for i := 0; i+1 < len(more) && err == nil; i += 2 {
		b = bytes.Replace(b, []byte(more[i]), []byte(more[i+1]), 1)
	}
	if err == nil {
		err = os.WriteFile(config, bytes.Replace(b, []byte(`listen: ""`), []byte("listen: "+s.addr), 1), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.program = []string{w.lonely(), "--socket", filepath.Join(state, "socket")}
	s.start()
	return s
}

func (s *seen) start() { s.proc = s.serve(s.config, s.state) }

// metric is a number that the daemon shows.
func (s *seen) metric(name string) (value int) {
	s.t.Helper()
	answer, err := http.Get("http://" + s.addr + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, name+"{") {
			if _, err := fmt.Sscan(line[strings.LastIndex(line, " "):], &value); err != nil {
				s.t.Fatal(err)
			}
			return value
		}
	}
	s.t.Fatalf("no %s, %v:\n%s", name, err, b)
	return 0
}

// highest is the most memory that the daemon had, in MiB.
func (s *seen) highest() (mib int) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.proc.Pid()))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(rest, &mib); err != nil {
		s.t.Fatal(err)
	}
	return mib >> 10
}

// noise makes n segments of WAL that no codec makes smaller.
func noise(t *testing.T, p *lab.Postgres, n int) {
	t.Helper()
	c, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	b := make([]byte, 1<<20)
	for range n * 16 {
		_, _ = rand.Read(b)
		if _, err := c.Exec(t.Context(), "SELECT pg_logical_emit_message(false, 'noise', $1::bytea)", b); err != nil {
			t.Fatal(err)
		}
	}
}

// A backlog of a real server goes through the daemon: most of it is stored before it is
// asked for, in bounded memory, and a daemon that dies in the middle loses nothing.
func TestPushedAhead(t *testing.T) {
	const segments = 44
	w := newWorld(t)
	p := lab.StartPostgres(t, lab.PGOptions{Conf: map[string]string{"archive_mode": "on", "archive_command": "/bin/false",
		"wal_level": "replica", "fsync": "off", "max_wal_size": "4GB", "wal_keep_size": "4GB"}})
	noise(t, p, segments)
	w.proxy.Set(faultproxy.Rule{Method: "PUT", Match: "/wal/", Fault: faultproxy.Fault{Delay: 50 * time.Millisecond}})
	d := w.seen(p.DataDir, "type: s3", "type: s3\n    codec: s2")
	p.Configure(map[string]string{"archive_command": w.archiveCommand(d.config)})
	p.Exec("SELECT pg_reload_conf()")
	done := func(least int) func() error {
		return func() error {
			files, err := filepath.Glob(filepath.Join(p.DataDir, "pg_wal", "archive_status", "*.done"))
			if err == nil && len(files) < least {
				err = fmt.Errorf("%d archived", len(files))
			}
			return err
		}
	}
	lab.Poll(t, 90*time.Second, "some segments", done(segments/4))
	hits, most := d.metric("pgha_push_ahead_hits_total"), d.highest()
	d.proc.Kill9()
	noise(t, p, 1)
	d.start()
	lab.Poll(t, 90*time.Second, "all segments", done(segments))
	hits, most = hits+d.metric("pgha_push_ahead_hits_total"), max(most, d.highest())
	t.Logf("%d hits, %d MiB", hits, most)
	if hits < segments/2 {
		t.Errorf("%d of %d pushes were answered from memory", hits, segments)
	}
	if most > 200 {
		t.Errorf("the daemon had %d MiB", most)
	}
	w.program = []string{w.bin}
	files, err := filepath.Glob(filepath.Join(p.DataDir, "pg_wal", "archive_status", "*.done"))
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(p.DataDir, "brought")
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".done")
		if code, out := w.call("/", "--config", d.config, "archive-get", name, to); code != 0 {
			t.Fatalf("%s: exit %d\n%s", name, code, out)
		}
		got, err := os.ReadFile(to)
		want, readErr := os.ReadFile(filepath.Join(p.DataDir, "pg_wal", name))
		if err = errors.Join(err, readErr); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what was archived: %v", name, err)
		}
	}
	if len(files) < segments {
		t.Errorf("%d files are archived", len(files))
	}
}

// A server recovers through a daemon, and most of what it was given was there before it
// asked for it.
func TestFetchedAhead(t *testing.T) {
	const rows = 30
	w := newWorld(t)
	l := newLedger(w, rows)
	p := l.copy("recovery.signal", "", nil)
	d := w.seen(p.DataDir)
	p.Configure(map[string]string{"restore_command": w.restoreCommand(d.config)})
	if end := l.recover(p, rows); end != whole {
		t.Fatal(end)
	}
	hits := d.metric("pgha_get_spool_hits_total")
	t.Logf("%d hits, %d MiB", hits, d.highest())
	if hits < rows/2 {
		t.Errorf("%d of %d segments were fetched ahead", hits, rows)
	}
	if spooled, _ := filepath.Glob(filepath.Join(d.state, "spool", "*", "*", "*")); len(spooled) > 7 {
		t.Errorf("the spool holds %v", spooled)
	}
}
