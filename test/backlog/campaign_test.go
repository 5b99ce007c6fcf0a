//go:build campaign

// Package backlog lets a long queue of WAL files grow while the store is away, and drain.
package backlog

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

var (
	files   = flag.Int("files", 20_000, "WAL files of 1 MiB that wait when the store is back: that much disk is needed")
	command = flag.String("command", "pgha-wal", "what archive_command calls: pgha-wal, with a daemon, or archive-push")
	limit   = flag.Duration("limit", 60*time.Minute, "for the queue to drain")
	results = flag.String("results", "", "file that the outcome is appended to, and whose outcomes are not got again; .cache/backlog.jsonl")
)

// outcome is one line of the results.
type outcome struct {
	Files   int     `json:"files"`
	Command string  `json:"command"`
	At      string  `json:"at"`
	Grown   float64 `json:"grown_seconds"`
	Drained float64 `json:"drained_seconds"`
	Rate    float64 `json:"segments_per_second"`
	MiB     float64 `json:"mib_per_second"`
	Daemon  float64 `json:"daemon_peak_mib"`
	Passed  bool    `json:"passed"`
}

const size postgres.SegmentSize = 1 << 20

// TestCampaignBacklog: when the store is back, every file of a long queue is acknowledged
// in PostgreSQL's order and stored, and none is lost.
func TestCampaignBacklog(t *testing.T) {
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	if *results == "" {
		*results = filepath.Join(root, ".cache", "backlog.jsonl")
	}
	if content, err := os.ReadFile(*results); err == nil {
		for line := range strings.Lines(string(content)) {
			var o outcome
			if json.Unmarshal([]byte(line), &o) == nil && o.Passed && o.Files == *files && o.Command == *command {
				t.Logf("it has passed before: %s", line)
				return
			}
		}
	}
	o := outcome{Files: *files, Command: *command, At: time.Now().UTC().Format(time.RFC3339)}
	t.Cleanup(func() {
		o.Passed = !t.Failed()
		line, err := json.Marshal(o)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(*results), 0o755)
		}
		f, openErr := os.OpenFile(*results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err = errors.Join(err, openErr); err == nil {
			_, err = f.Write(append(line, '\n'))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Errorf("the results were not written: %v", err)
		}
		t.Logf("%s", line)
	})
	run(t, &o)
}

func run(t *testing.T, o *outcome) {
	r, s3 := lab.RunOf(t), lab.StartS3(t, lab.S3Options{})
	bin, config, state := r.Build("pgha-backup"), r.Path("pgha.yaml"), r.Mkdir(lab.User1, 0o700, "state")
	call := bin + " --config " + config + " archive-push %p"
	if o.Command == "pgha-wal" {
		call = r.Build("pgha-wal") + " --socket " + state + "/socket --config " + config + " archive-push %p"
	}
	pg := lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": call, "fsync": "off", "wal_init_zero": "off", "wal_recycle": "off", "full_page_writes": "off",
		"min_wal_size": "2MB", "max_wal_size": "1TB", "checkpoint_timeout": "1d", "autovacuum": "off", "log_min_messages": "debug1"}})
	r.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: main, member: one, data_dir: %s, state_dir: %s, dsn: %s}
repositories:
  - {name: lab, type: s3, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
archive: {push_timeout: 5s}
daemon: {listen: "", socket: %s/socket}
`, pg.DataDir, state, pg.SocketDSN(), s3.Endpoint, s3.Bucket, s3.Region, s3.AccessKey, s3.SecretKey, state), "pgha.yaml")
	daemon := r.Start(lab.User1, "daemon", nil, bin, "--config", config, "daemon")
	r.Must(lab.User1, bin, "--config", config, "backup")
	var first, last string
	pg.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &first)
	drained := func(name string, limit time.Duration) {
		t.Helper()
		lab.Poll(t, limit, name+" to be acknowledged", func() error {
			var archived string
			if pg.QueryRow("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver", &archived); archived < name {
				return fmt.Errorf("it is at %s", archived)
			}
			return nil
		})
	}
	drained(first, time.Minute)

	s3.Stop()
	began := time.Now()
	c, err := pg.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for left := o.Files; left > 0; left -= 500 {
		sql := fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_logical_emit_message(false, 'backlog', i::text); PERFORM pg_switch_wal(); END LOOP; END $$", min(left, 500))
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	o.Grown = time.Since(began).Seconds()
	if n := waiting(t, pg); n < o.Files {
		t.Fatalf("%d files wait, %d were to", n, o.Files)
	}
	pg.QueryRow("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)", &last)

	s3.Start()
	began = time.Now()
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}
	pg.Exec("SELECT pg_logical_emit_message(false, 'backlog', 'wake'); SELECT pg_switch_wal()") // the archiver
	drained(last, *limit)
	o.Drained = time.Since(began).Seconds()
	o.Rate = float64(o.Files) / o.Drained
	o.MiB = o.Rate * float64(size) / (1 << 20)
	if o.Daemon = peakMiB(t, daemon); o.Daemon > 200 {
		t.Errorf("the daemon had %.0f MiB", o.Daemon)
	}

	acknowledgedInOrder(t, pg, first, last)
	stored := map[string]bool{}
	for key := range s3.Keys() {
		stored[path.Base(key)] = true
	}
	for s, end := segment(t, first), segment(t, last).Next(size); s != end; s = s.Next(size) {
		if !stored[s.Name()] {
			t.Errorf("%s is lost", s)
		}
	}
	r.Must(lab.User1, bin, "--config", config, "verify", "--level", "presence")
}

func segment(t *testing.T, name string) (s postgres.Segment) {
	t.Helper()
	if err := s.UnmarshalText([]byte(name)); err != nil {
		t.Fatal(err)
	}
	return s
}

func waiting(t *testing.T, pg *lab.Postgres) (n int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(pg.DataDir, "pg_wal", "archive_status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".ready") {
			n++
		}
	}
	return n
}

// acknowledgedInOrder reads in PostgreSQL's own log what was acknowledged, and when.
func acknowledgedInOrder(t *testing.T, pg *lab.Postgres, first, last string) {
	t.Helper()
	log, err := os.ReadFile(pg.Log)
	if err != nil {
		t.Fatal(err)
	}
	next, end := segment(t, first), segment(t, last).Next(size)
	for line := range strings.Lines(string(log)) {
		_, name, found := strings.Cut(strings.TrimSpace(line), `archived write-ahead log file "`)
		name = strings.TrimSuffix(name, `"`)
		file, err := postgres.ParseWALFile(name)
		if !found || err != nil || file.Kind != postgres.WALSegment || name < next.Name() && next == segment(t, first) {
			continue
		}
		if next == end {
			return
		}
		if file.Segment != next {
			t.Fatalf("%s was acknowledged where %s was next", name, next)
		}
		next = next.Next(size)
	}
	if next != end {
		t.Fatalf("%s was never acknowledged", next)
	}
}

// peakMiB is the most memory that a process ever had.
func peakMiB(t *testing.T, p *lab.Process) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	t.Fatalf("the daemon does not say how large it is:\n%s", status)
	return 0
}
