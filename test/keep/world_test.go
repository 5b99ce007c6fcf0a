// Package keep_test lets real servers fail with an archive backlog, and looks for what
// is lost.
package keep_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

var errNotYet = errors.New("not yet")

type world struct {
	*testing.T
	run   *lab.Run
	s3    *lab.S3
	proxy *faultproxy.Proxy
	bin   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, run: lab.RunOf(t), s3: lab.StartS3(t, lab.S3Options{})}
	w.bin = w.run.Build("pgha-backup")
	var err error
	if w.proxy, err = faultproxy.Start(w.s3.Addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.proxy.Close)
	return w
}

// node is a server, and how our program is told of it.
type node struct {
	*world
	*lab.Postgres
	name, config, state, listen string
	daemon                      *lab.Process
}

// refuse is an archive_command that archives nothing, while the store answers.
const refuse = "/bin/false"

var blackHole = faultproxy.Rule{Fault: faultproxy.Fault{BlackHole: true}}

func (w *world) primary() *node {
	w.Helper()
	p := lab.StartPostgres(w, lab.PGOptions{WALSegSizeMB: 1, NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": refuse, "fsync": "off", "wal_level": "replica", "hot_standby": "on", "wal_keep_size": "0", "autovacuum": "off",
		"min_wal_size": "2MB", "max_wal_size": "2MB", "checkpoint_timeout": "1h", "shared_buffers": "16MB", "max_connections": "20", "wal_retrieve_retry_interval": "200ms"}})
	n := w.node(p)
	p.Start()
	p.Exec("create table t (i int)")
	return n
}

func (w *world) node(p *lab.Postgres) *node {
	name := strings.TrimSuffix(filepath.Base(p.Log), ".log")
	n := &node{world: w, Postgres: p, name: name, state: w.run.Mkdir(lab.User1, 0o700, name, "state"), listen: p.Host + ":8018"}
	n.configure("")
	return n
}

// configure writes the configuration; archive are lines of that section.
func (n *node) configure(archive string) {
	n.Helper()
	if !strings.Contains(archive, "full_below") {
		archive = "full_below: 64MiB, " + archive
	}
	n.config = n.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: main, member: %s, data_dir: %s, state_dir: %s, dsn: %s}
repositories:
  - {name: main, type: s3, s3: {endpoint: "http://%s", bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
archive: {push_timeout: 5s, %s}
daemon: {listen: %q}
log: {level: debug}
`, n.name, n.DataDir, n.state, n.SocketDSN(), n.proxy.Addr(), n.s3.Bucket, n.s3.Region, n.s3.AccessKey, n.s3.SecretKey, archive, n.listen), n.name, "pgha.yaml")
}

func (n *node) archiveCommand() string { return n.bin + " --config " + n.config + " archive-push %p" }

// archives changes the primary's archive_command.
func (n *node) archives(command string) {
	n.Helper()
	n.Exec("alter system set archive_command = '" + command + "'")
	n.Exec("select pg_reload_conf()")
	n.Exec("insert into t values (0)")
	n.Exec("select pg_switch_wal()") // wakes an archiver that has given up for a minute
}

// standby is a new one that streams from n.
func (n *node) standby() *node {
	n.Helper()
	p := lab.StartPostgres(n.world, lab.PGOptions{NoStart: true, DataDir: n.run.Path(fmt.Sprintf("standby-%d", time.Now().UnixNano()))})
	dir := filepath.Join(filepath.Dir(p.SocketDir), "data")
	n.run.Must(lab.User1, n.Bin("pg_basebackup"), "-h", n.SocketDir, "-p", fmt.Sprint(n.Port), "-U", "postgres", "-D", dir, "-c", "fast", "--no-sync", "-R")
	p.DataDir = dir
	s := n.world.node(p)
	p.Start()
	s.streams()
	return s
}

func (n *node) follow(other *node) {
	n.Helper()
	n.Exec(fmt.Sprintf("alter system set primary_conninfo = 'host=%s port=%d user=postgres'", other.SocketDir, other.Port))
	n.Exec("select pg_reload_conf()")
	n.streams()
}

func (n *node) streams() {
	n.Helper()
	lab.Poll(n, 30*time.Second, n.name+" to stream", func() error {
		var streaming bool
		if n.QueryRow("select exists (select from pg_stat_wal_receiver where status = 'streaming')", &streaming); !streaming {
			return errNotYet
		}
		return nil
	})
}

// segments writes n whole segments and returns their names.
func (n *node) segments(count int) (names []string) {
	n.Helper()
	for range count {
		var name string
		n.Exec("insert into t select 1")
		n.QueryRow("select pg_walfile_name(pg_switch_wal())", &name)
		names = append(names, name)
	}
	return names
}

// catches waits until the standby has replayed all that the primary wrote.
func (n *node) catches(up *node) {
	n.Helper()
	var to string
	up.QueryRow("select pg_current_wal_lsn()::text", &to)
	lab.Poll(n, 30*time.Second, n.name+" to catch up", func() error {
		var done bool
		if n.QueryRow(fmt.Sprintf("select pg_last_wal_replay_lsn() >= '%s'::pg_lsn", to), &done); !done {
			return errNotYet
		}
		return nil
	})
}

// holds are the names of the segments in pg_wal up to one that the server has gone through.
func (n *node) holds(names []string) (held []string) {
	n.Helper()
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(n.DataDir, "pg_wal", name)); err == nil {
			held = append(held, name)
		}
	}
	return held
}

func (n *node) start() {
	n.Helper()
	n.daemon = n.run.Start(lab.User1, "daemon-"+n.name, nil, n.bin, "--config", n.config, "daemon")
	n.until(20*time.Second, "the daemon of "+n.name, func(daemon.Status) bool { return true })
}

func (n *node) stop() {
	n.Helper()
	if err := n.daemon.Stop(syscall.SIGTERM, 25*time.Second); err != nil {
		n.Fatal(err)
	}
}

func (n *node) reload() {
	n.Helper()
	if err := n.daemon.Signal(syscall.SIGHUP); err != nil {
		n.Fatal(err)
	}
}

func (n *node) status() (s daemon.Status, err error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + n.listen + "/status")
	if err != nil {
		return s, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

func (n *node) until(limit time.Duration, what string, right func(daemon.Status) bool) (s daemon.Status) {
	n.Helper()
	lab.Poll(n, limit, what, func() (err error) {
		if s, err = n.status(); err == nil && !right(s) {
			text, _ := json.Marshal(s.Keep)
			err = fmt.Errorf("it says %s", text)
		}
		return err
	})
	return s
}

// said counts an event of the daemon.
func (n *node) said(event string) int {
	b, _ := os.ReadFile(n.daemon.Log)
	return strings.Count(string(b), "event="+event+" ") + strings.Count(string(b), "event="+event+"\n")
}

func (n *node) says(event string, more int) {
	n.Helper()
	lab.Poll(n, 30*time.Second, event, func() error {
		if got := n.said(event); got < more {
			return fmt.Errorf("%d times", got)
		}
		return nil
	})
}

// call runs our program as the server's user.
func (n *node) call(args ...string) (code int, said string, took time.Duration) {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := n.run.Command(ctx, lab.User1, nil, append([]string{n.bin}, args...)...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		n.Fatalf("%q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out), time.Since(began)
}

// archived are the names of the WAL in the archive.
func (w *world) archived() (names []string) {
	w.Helper()
	for key := range w.s3.Keys() {
		if strings.Contains(key, "/wal/") {
			names = append(names, filepath.Base(key))
		}
		if strings.Contains(key, "/conflict/") {
			w.Errorf("a conflict: %s", key)
		}
	}
	slices.Sort(names)
	return names
}

// has waits until all of the names are in the archive.
func (w *world) has(names ...string) {
	w.Helper()
	lab.Poll(w, 60*time.Second, "the archive to have all", func() error {
		got := w.archived()
		lacks := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(got, name) })
		if len(lacks) > 0 {
			return fmt.Errorf("it lacks %v", lacks)
		}
		return nil
	})
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(some, name) })
}
