package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestGap takes a segment out of the store, and wants the daemon to find that, to give
// it up, to record it and to take a backup behind it, all by itself; a person to see
// the span and to accept it; and a restore into it to be refused.
func TestGap(t *testing.T) {
	run := lab.RunOf(t)
	w := &world{T: t, s3: lab.StartS3(t, lab.S3Options{}), listen: run.Prefix + "200:8018"}
	binary, path := run.Build("pgha-backup"), run.Path("pgha.yaml")
	w.pg = lab.StartPostgres(t, lab.PGOptions{NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": binary + " --config " + path + " archive-push %p", "fsync": "off", "shared_buffers": "32MB"}})
	run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: alone, member: one, data_dir: %s, state_dir: %s, dsn: %s}
repositories:
  - {name: main, type: s3, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
archive: {lost_after: 10s}
daemon: {listen: %q}
schedules: [{name: yearly, cron: '0 0 1 1 *', retry_delay: 1s}]
`, w.pg.DataDir, run.Mkdir(lab.User1, 0o700, "state"), w.pg.SocketDSN(), w.s3.Endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey, w.listen), "pgha.yaml")
	cli := func(code int, args ...string) (out string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := run.Command(ctx, lab.User1, nil, append([]string{binary, "--config", path}, args...)...)
		var all bytes.Buffer
		cmd.Stdout, cmd.Stderr = &all, &all
		err := cmd.Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != code) || err == nil && code != 0 {
			t.Fatalf("%s: %v, want exit %d\n%s", strings.Join(args, " "), err, code, all.String())
		}
		return all.String()
	}
	w.pg.Start()
	w.daemon = run.Start(lab.User1, "daemon", nil, binary, "--config", path, "daemon")
	w.until(90*time.Second, "the first backup", func(s daemon.Status) bool { return s.Last != nil })

	// commit is in a segment of its own.
	commit := func(name string) (segment string, at time.Time) {
		t.Helper()
		w.pg.Exec("create table " + name + " as select 1")
		w.pg.QueryRow("select clock_timestamp()", &at)
		w.pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &segment)
		return segment, at
	}
	_, before := commit("before")
	lost, within := commit("within")
	commit("behind")
	last, _ := commit("last")
	key := func(name string) (found string) {
		for key := range w.s3.Keys() {
			if strings.HasSuffix(key, "/"+name) {
				found = key
			}
		}
		return found
	}
	lab.Poll(t, time.Minute, "the archive to have it all", func() error {
		if key(last) == "" {
			return fmt.Errorf("%s is not there", last)
		}
		return nil
	})
	cli(0, "status")
	if err := os.Remove(filepath.Join(w.s3.Dir, w.s3.Bucket, key(lost))); err != nil {
		t.Fatal(err)
	}
	s := w.until(75*time.Second, "the gap to be found", func(s daemon.Status) bool { return len(s.Gaps) > 0 })
	if g := s.Gaps[0]; len(s.Gaps) != 1 || g.First.Name() != lost || g.Segments != 1 || g.State != catalog.GapLate || !strings.HasPrefix(g.Why, "somebody may bring it until ") {
		t.Errorf("%+v", s.Gaps)
	}
	if out := cli(10, "wal", "gaps"); !strings.Contains(out, lost) || !strings.Contains(out, "somebody may bring it until ") {
		t.Error(out)
	}
	s = w.until(150*time.Second, "a backup behind it", func(s daemon.Status) bool { return s.Last.ID.Schedule() == catalog.GapSchedule })
	if key(lost+"-"+lost+".lost") == "" || len(s.Gaps) != 1 || s.Gaps[0].State != catalog.GapLost {
		t.Errorf("no record: %+v", s.Gaps)
	}
	if !slices.Contains(s.Problems, "archive: "+lost+" is missing (lost)") {
		t.Errorf("problems %q", s.Problems)
	}

	// The span that people see: from the last commit before it to the end of the backup.
	clock := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
	out := cli(10, "wal", "gaps")
	if !strings.Contains(out, " .. "+clock(s.Last.Stop)+" ") || !strings.Contains(out, "one: nobody brought it within 10s") {
		t.Errorf("the backup ended at %s\n%s", s.Last.Stop, out)
	}
	_, from, _ := strings.Cut(out, lost+" | "+lost)
	from, _, _ = strings.Cut(from, " .. ")
	if from = from[strings.LastIndex(from, "| ")+2:]; from > clock(before) || from < clock(before.Add(-2*time.Second)) {
		t.Errorf("the span begins at %s, the last commit before it was at %s", from, before)
	}
	into := cli(4, "restore", "--plan", "--target-time", within.UTC().Format(time.RFC3339Nano))
	if !strings.Contains(into, lost+" is missing") || !strings.Contains(into, string(s.Last.ID)) {
		t.Error(into)
	}
	cli(0, "restore", "--plan")

	cli(10, "status")
	cli(0, "wal", "gaps", "accept", lost, "--reason", "a test took it")
	cli(0, "status")
	if out := cli(0, "wal", "gaps"); !strings.Contains(out, "| accepted |") || !strings.Contains(out, "one: a test took it") {
		t.Error(out)
	}
	cli(4, "restore", "--plan", "--target-time", within.UTC().Format(time.RFC3339Nano))
	if ids := w.manifests(); len(ids) != 2 {
		t.Errorf("more backups than wanted: %v", ids)
	}
	log, err := os.ReadFile(w.daemon.Log)
	for _, event := range []string{"gap.found", "gap.lost"} {
		if n := strings.Count(string(log), "event="+event); err != nil || n != 1 {
			t.Errorf("%s is said %d times: %v", event, n, err)
		}
	}
}
