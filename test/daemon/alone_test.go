// Package daemon_test runs the daemon beside one server, without Patroni and etcd.
package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

type world struct {
	*testing.T
	s3     *lab.S3
	pg     *lab.Postgres
	daemon *lab.Process
	listen string
}

func (w *world) status() (s daemon.Status, err error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + w.listen + "/status")
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

func (w *world) until(limit time.Duration, what string, right func(daemon.Status) bool) (s daemon.Status) {
	w.Helper()
	lab.Poll(w, limit, what, func() (err error) {
		if s, err = w.status(); err == nil && !right(s) {
			text, _ := json.Marshal(s)
			err = fmt.Errorf("it says %s", text)
		}
		return err
	})
	return s
}

func (w *world) manifests() (ids []catalog.BackupID) {
	w.Helper()
	for key := range w.s3.Keys() {
		if path.Base(key) == "manifest.json" {
			ids = append(ids, catalog.BackupID(path.Base(path.Dir(key))))
		}
	}
	return ids
}

// TestAlone starts the daemon before its server, lets the archive fail and come back,
// and ends the daemon in the middle of a backup, gently and not.
func TestAlone(t *testing.T) {
	run := lab.RunOf(t)
	w := &world{T: t, s3: lab.StartS3(t, lab.S3Options{}), listen: run.Prefix + "200:8018"}
	binary, path := run.Build("pgha-backup"), run.Path("pgha.yaml")
	w.pg = lab.StartPostgres(t, lab.PGOptions{NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": binary + " --config " + path + " archive-push %p", "fsync": "off", "shared_buffers": "32MB"}})
	configure := func(more string) {
		run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: alone, member: one, data_dir: %s, state_dir: %s, dsn: %s}
repositories:
  - {name: main, type: s3, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
archive: {push_timeout: 1s}
daemon: {listen: %q}
%s`, w.pg.DataDir, run.Mkdir(lab.User1, 0o700, "state"), w.pg.SocketDSN(), w.s3.Endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey, w.listen, more), "pgha.yaml")
	}
	configure("schedules: [{name: yearly, cron: '0 0 1 1 *', retry_delay: 1s}]\n")
	w.daemon = run.Start(lab.User1, "daemon", nil, binary, "--config", path, "daemon")

	s := w.until(20*time.Second, "the daemon beside a server that is down", func(s daemon.Status) bool { return s.Local != nil && s.Local.Server == "down" })
	if !s.Single || s.Leader != "" || s.Local.System == 0 {
		t.Errorf("%+v", s)
	}
	w.pg.Start()
	s = w.until(90*time.Second, "the first backup, of a server that has archived nothing", func(s daemon.Status) bool { return s.Last != nil })
	if s.Last.ID.Schedule() != catalog.FirstSchedule || s.Last.Role != "primary" || s.Role != "primary" || s.Next.Schedule != "yearly" || s.Next.Member != "" && s.Next.Member != "one" {
		t.Errorf("%+v, next %+v", s.Last, s.Next)
	}

	w.s3.Stop()
	w.pg.Exec("create table t as select 1")
	w.pg.Exec("select pg_switch_wal()")
	s = w.until(time.Minute, "the archiver to fail", func(s daemon.Status) bool { return !s.Local.FailingSince.IsZero() })
	if s.Local.Backlog == 0 || !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.HasPrefix(p, "archiver: failing since ") }) {
		t.Errorf("%+v, problems %q", s.Local, s.Problems)
	}
	w.s3.Start()
	w.pg.Exec("create table u as select 1")
	w.pg.Exec("select pg_switch_wal()") // wakes the archiver, which has given up for a minute
	w.until(90*time.Second, "the archiver to recover", func(s daemon.Status) bool { return s.Local.FailingSince.IsZero() && s.Local.Backlog == 0 })

	// A backup that is slow enough to be ended.
	configure("schedules: [{name: now, cron: '@every 5s', source: leader, retry_delay: 1s}]\nbackup: {rate_limit: 1MiB}\n")
	copying := func() {
		t.Helper()
		w.until(time.Minute, "a backup in the middle of its copy", func(s daemon.Status) bool { return len(s.Running) > 0 && s.Running[0].Bytes > 0 })
	}
	if err := w.daemon.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	copying()
	if err := w.daemon.Stop(syscall.SIGTERM, 25*time.Second); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(w.daemon.Log)
	if err != nil || !strings.Contains(string(log), "event=daemon.stopped") || !strings.Contains(string(log), "event=daemon.single") {
		t.Errorf("the end was not clean: %v\n%s", err, log)
	}
	sessions := func() error {
		var n int
		w.pg.QueryRow("select count(*) from pg_stat_activity where application_name = 'pgha-backup'", &n)
		if n > 0 {
			return fmt.Errorf("%d sessions are left", n)
		}
		return nil
	}
	lab.Poll(t, 10*time.Second, "its sessions to end", sessions)
	if ids := w.manifests(); len(ids) != 1 {
		t.Errorf("what was given up is committed: %v", ids)
	}
	for range 2 {
		if err := w.daemon.Restart(); err != nil {
			t.Fatal(err)
		}
		copying()
		w.daemon.Kill9()
	}
	lab.Poll(t, 10*time.Second, "its sessions to end", sessions)
	configure("schedules: [{name: now, cron: '@every 5s', source: leader, retry_delay: 1s}]\n")
	if err := w.daemon.Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(time.Minute, "a backup after all", func(s daemon.Status) bool { return s.Last != nil && s.Last.ID.Schedule() == "now" })
	if err := w.daemon.Stop(syscall.SIGTERM, 25*time.Second); err != nil {
		t.Fatal(err)
	}
}
