package wal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

const smallSegment postgres.SegmentSize = 1 << 20

// crowded is a server whose pg_wal lies on a small filesystem, and a daemon beside it.
type crowded struct {
	*world
	pg            *lab.Postgres
	config, state string
}

func (c *crowded) configure(onFull string) {
	c.t.Helper()
	c.config = c.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: %s, member: one, data_dir: %s, state_dir: %s, dsn: %s}
repositories:
  - {name: lab, type: s3, s3: {endpoint: "http://%s", bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
archive: {push_timeout: 1s, on_full: %s, full_below: 96MiB}
daemon: {listen: "%s200:8018", socket: %s/socket}
schedules: [{name: yearly, cron: "0 0 1 1 *"}]
`, scope, c.pg.DataDir, c.state, c.pg.SocketDSN(), c.s3.Addr, c.s3.Bucket, c.s3.Region, c.s3.AccessKey, c.s3.SecretKey, onFull, c.run.Prefix, c.state), "crowded", "config.yaml")
}

func (c *crowded) pgWAL() string { return filepath.Join(c.pg.DataDir, "pg_wal") }

func (c *crowded) free() int64 {
	c.t.Helper()
	var fsys syscall.Statfs_t
	if err := syscall.Statfs(c.pgWAL(), &fsys); err != nil {
		c.t.Fatal(err)
	}
	return int64(fsys.Bavail) * fsys.Bsize
}

// write commits a segment's worth of rows and returns the name of that segment.
func (c *crowded) write() (name string) {
	c.t.Helper()
	c.pg.Exec("INSERT INTO filler SELECT repeat(md5(random()::text), 20) FROM generate_series(1, 1200)")
	c.pg.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &name)
	return name
}

func (c *crowded) archiver() (archived, failed int) {
	c.t.Helper()
	var last string
	c.pg.QueryRow("SELECT archived_count || ' ' || failed_count FROM pg_stat_archiver", &last)
	if _, err := fmt.Sscan(last, &archived, &failed); err != nil {
		c.t.Fatal(err)
	}
	return archived, failed
}

// ready are the names that wait for the archiver.
func (c *crowded) ready() (names map[string]bool) {
	c.t.Helper()
	names = map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(c.pgWAL(), "archive_status"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".ready"); ok {
			names[name] = true
		}
	}
	return names
}

// says waits until a log holds a text.
func (c *crowded) says(log, text string) {
	c.t.Helper()
	lab.Poll(c.t, time.Minute, text, func() error {
		b, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(b), text) {
			err = errors.New("it is not said")
		}
		return err
	})
}

func (c *crowded) dropped() (names []string) {
	entries, err := os.ReadDir(filepath.Join(c.state, "dropped"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := postgres.ParseWALFile(e.Name()); err == nil { // else one that is not finished
			names = append(names, e.Name())
		}
	}
	return names
}

// TestFullDisk takes the store away from a server with a small pg_wal. With stop it keeps
// every segment; with drop-and-record it goes on for twice the size of its disk, and each
// segment is in the archive afterwards or said to be lost: through the daemon, and without
// it, when it was killed meanwhile.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	c := &crowded{world: w, state: w.run.Mkdir(lab.User1, 0o700, "crowded", "state")}
	config := w.run.Path("crowded", "config.yaml")
	c.pg = lab.StartPostgres(t, lab.PGOptions{NoStart: true, WALSegSizeMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": w.run.Build("pgha-wal") + " --socket " + c.state + "/socket --config " + config + " archive-push %p", "fsync": "off", "min_wal_size": "2MB", "max_wal_size": "16MB",
		"shared_buffers": "32MB", "max_connections": "20", "autovacuum": "off"}})
	kept := filepath.Join(filepath.Dir(c.pg.DataDir), "kept")
	w.run.Must(lab.User1, "cp", "-a", c.pgWAL(), kept)
	mountSmall(t, c.pgWAL(), "160m")
	w.run.Must(lab.User1, "cp", "-a", kept+"/.", c.pgWAL())
	c.configure("stop")
	c.pg.Start()
	daemon := w.run.Start(lab.User1, "daemon", nil, w.bin, "--config", config, "daemon")
	c.pg.Exec("CREATE TABLE filler(t text)")
	lab.Poll(t, 90*time.Second, "the first backup", func() error {
		if !w.archived("/manifest.json") {
			return errors.New("not yet")
		}
		return nil
	})
	first := c.write()
	w.waitArchived(first)

	// stop: below the mark, and with attempts that failed there, nothing is acknowledged.
	w.s3.Stop()
	var waits []string
	for c.free() > 80<<20 {
		waits = append(waits, c.write())
	}
	c.pg.Exec("CHECKPOINT")
	archived, failed := c.archiver()
	lab.Poll(t, time.Minute, "the archiver to fail on a full disk", func() error {
		c.pg.Exec("SELECT pg_switch_wal()")
		if _, now := c.archiver(); now < failed+3 {
			return fmt.Errorf("%d failures", now)
		}
		return nil
	})
	ready := c.ready()
	for _, name := range waits {
		if _, err := os.Stat(filepath.Join(c.pgWAL(), name)); err != nil || !ready[name] {
			t.Fatalf("%s was given up with stop: %v, waiting %v", name, err, ready[name])
		}
	}
	if now, _ := c.archiver(); now != archived || len(c.dropped()) > 0 {
		t.Fatalf("%d files were acknowledged with stop; dropped: %v", now-archived, c.dropped())
	}

	// drop-and-record: it writes more than the filesystem could hold.
	c.configure("drop-and-record")
	if err := daemon.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		c.write()
		if i == 100 {
			c.says(daemon.Log, "ALARM: pg_wal is nearly full")
			c.says(daemon.Log, "event=archive.dropped")
			daemon.Kill9()
		}
		if c.free() < 60<<20 {
			lab.Poll(t, 2*time.Minute, "room in pg_wal", func() error {
				c.pg.Exec("CHECKPOINT")
				if free := c.free(); free < 64<<20 {
					return fmt.Errorf("%d bytes are free, %d files wait, %d are dropped", free, len(c.ready()), len(c.dropped()))
				}
				return nil
			})
		}
	}
	drops := c.dropped()
	if len(drops) < 100 || drops[0] != waits[0] {
		t.Fatalf("dropped are %v", drops)
	}
	c.says(c.pg.Log, "ALARM: pg_wal is nearly full")
	if err := daemon.Restart(); err != nil {
		t.Fatal(err)
	}

	// The store is back: what is written now is archived, and what was lost is said.
	w.s3.Start()
	var last string
	lab.Poll(t, 2*time.Minute, "an archive that goes on, and the records in it", func() error {
		c.pg.Exec("CHECKPOINT")
		if last = c.write(); len(c.dropped()) > 0 || len(c.ready()) > 1 || !w.archived(".dropped") {
			return fmt.Errorf("%d are dropped, %d wait", len(c.dropped()), len(c.ready()))
		}
		return nil
	})
	w.waitArchived(last)
	stored, lost := c.everySegment(first, last)
	t.Logf("%d segments are stored, %d recorded as dropped", stored, lost)
	if lost == 0 {
		t.Errorf("%d were dropped, none of them is recorded", len(drops)) // what was still there is stored after all
	}
	for _, args := range [][]string{{"wal", "gaps"}, {"status"}} {
		if code, out := w.call("/", append([]string{"--config", config}, args...)...); code != 10 || !strings.Contains(out, "dropped") || !strings.Contains(out, drops[0]) {
			t.Errorf("%v: exit %d\n%s", args, code, out)
		}
	}
}

func (w *world) waitArchived(name string) {
	w.t.Helper()
	lab.Poll(w.t, time.Minute, name+" in the archive", func() error {
		if !w.archived("/" + name) {
			return errors.New("not yet")
		}
		return nil
	})
}

// everySegment wants each segment of a span in the archive or in a record.
func (c *crowded) everySegment(first, last string) (stored, lost int) {
	c.t.Helper()
	var s, end postgres.Segment
	if err := errors.Join(s.UnmarshalText([]byte(first)), end.UnmarshalText([]byte(last))); err != nil {
		c.t.Fatal(err)
	}
	known := map[postgres.Segment]bool{}
	names := map[string]bool{}
	for key := range c.s3.Keys() {
		names[filepath.Base(key)] = true
		if !strings.HasSuffix(key, ".dropped") {
			continue
		}
		var g struct{ First, Last postgres.Segment }
		if err := json.Unmarshal(c.object(key), &g); err != nil {
			c.t.Fatal(err)
		}
		for at := g.First; at != g.Last.Next(smallSegment); at = at.Next(smallSegment) {
			known[at] = true
		}
	}
	for ; s != end.Next(smallSegment); s = s.Next(smallSegment) {
		switch {
		case names[s.Name()]:
			stored++
		case known[s]:
			lost++
		default:
			c.t.Errorf("%s is neither stored nor recorded", s)
		}
	}
	return stored, lost
}
