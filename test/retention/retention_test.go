// Package retention_test expires backups of a real server in a real S3 store and in
// a directory, and restores from what is left.
package retention_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is a server that archives into two repositories, without Patroni.
type world struct {
	*testing.T
	run     *lab.Run
	s3      *lab.S3
	pg      *lab.Postgres
	binary  string
	home    string
	objects string // the directory repository
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, run: lab.RunOf(t), s3: lab.StartS3(t, lab.S3Options{})}
	w.binary, w.objects, w.home = w.run.Build("pgha-backup"), w.run.Mkdir(lab.User1, 0o700, "objects"), w.run.Mkdir(lab.User1, 0o700, "copies")
	w.pg = lab.StartPostgres(t, lab.PGOptions{NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": w.line("s3", "archive-push", "%p") + " && " + w.line("file", "archive-push", "%p"),
		"fsync": "off", "shared_buffers": "32MB", "autovacuum": "off"}})
	for name, repository := range map[string]string{
		"s3": fmt.Sprintf(`{name: main, type: s3, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}`,
			w.s3.Endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey),
		"file": fmt.Sprintf("{name: main, type: file, file: {path: %s}}", w.objects),
	} {
		state := w.run.Mkdir(lab.User1, 0o700, "state-"+name)
		w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf("cluster: {scope: lab, member: one, data_dir: %s, bin_dir: %s, state_dir: %s, dsn: %s}\nrepositories: [%s]\n"+
			"retention: {keep: 2, wal_full: 2, grace: 1s}\n", w.pg.DataDir, w.pg.BinDir, state, w.pg.SocketDSN(), repository), name+".yaml")
		w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf("cluster: {scope: lab, member: one, data_dir: %s, bin_dir: %s, state_dir: %s, dsn: %s}\nrepositories: [%s]\n"+
			"backup: {rate_limit: 1MiB}\n", w.pg.DataDir, w.pg.BinDir, state, w.pg.SocketDSN(), repository), "slow-"+name+".yaml")
	}
	w.pg.Start()
	return w
}

func (w *world) line(config string, args ...string) string {
	return strings.Join(append([]string{w.binary, "--config", w.run.Path(config + ".yaml")}, args...), " ")
}

func (w *world) command(ctx context.Context, config string, args ...string) *exec.Cmd {
	w.Helper()
	return w.run.Command(ctx, lab.User1, nil, append([]string{w.binary, "--config", w.run.Path(config + ".yaml")}, args...)...)
}

// do runs our program, wants an exit code, and reads its JSON into v.
func (w *world) do(code int, v any, config string, args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	cmd := w.command(ctx, config, append(args, "--format", "json")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		w.Fatalf("%s %s exits %d, want %d\n%s%s", config, strings.Join(args, " "), got, code, stdout.String(), stderr.String())
	}
	if v != nil {
		if err := json.Unmarshal(stdout.Bytes(), v); err != nil {
			w.Fatalf("%s %s: %v in %s", config, strings.Join(args, " "), err, stdout.String())
		}
	}
	return stderr.String()
}

// row commits a row, switches segments, and names the one that ended.
func (w *world) row(n int) (segment string) {
	w.Helper()
	w.pg.Exec(fmt.Sprintf("insert into t values (%d)", n))
	w.pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &segment)
	return segment
}

// stored are the names of a repository's objects.
func (w *world) stored(config string) map[string]bool {
	w.Helper()
	found := map[string]bool{}
	if config == "s3" {
		for key := range w.s3.Keys() {
			found[key[strings.LastIndexByte(key, '/')+1:]] = true
		}
		return found
	}
	err := filepath.WalkDir(w.objects, func(path string, _ os.DirEntry, err error) error {
		found[filepath.Base(path)] = true
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return found
}

// plan is what expire prints.
type plan struct {
	Backups []struct {
		Backup  catalog.BackupID `json:"backup"`
		Action  string           `json:"action"`
		Reasons []string         `json:"reasons"`
	} `json:"backups"`
	Outcome *struct {
		Hidden, Removed []catalog.BackupID
		WAL             int `json:"wal_objects"`
	} `json:"outcome"`
}

func (p plan) actions() (words string) {
	for _, b := range p.Backups {
		words += b.Action + " "
	}
	return strings.TrimSpace(words)
}

// Backups expire by count while one is held and one is being taken; the oldest that
// is kept and the held one restore, and the WAL that nobody needs is gone.
func TestExpire(t *testing.T) {
	w := newWorld(t)
	w.pg.Exec("create table t (n int)")
	type taken map[string][]catalog.Manifest
	backups := taken{}
	take := func() {
		w.Helper()
		for _, config := range []string{"s3", "file"} {
			var m catalog.Manifest
			w.do(0, &m, config, "backup")
			backups[config] = append(backups[config], m)
		}
		id := backups["file"][len(backups["file"])-1].ID // of one second, they would be in any order
		lab.Poll(t, 5*time.Second, "the next second", func() error {
			if !time.Now().After(id.Time().Add(time.Second)) {
				return errors.New("not yet")
			}
			return nil
		})
		w.row(100)
	}
	w.row(1)
	take()
	for _, config := range []string{"s3", "file"} {
		w.do(0, nil, config, "hold", string(backups[config][0].ID), "--reason", "the audit of 2026")
	}
	w.row(2)
	take()
	w.row(3)
	slow := w.command(t.Context(), "slow-s3", "backup")
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Process.Kill(); _ = slow.Wait() }()
	var running struct {
		Unfinished []struct{ ID catalog.BackupID } `json:"unfinished"`
	}
	lab.Poll(t, 30*time.Second, "a backup under way", func() error {
		if w.do(0, &running, "s3", "list", "--all"); len(running.Unfinished) != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := slow.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.row(4)
	take()
	w.row(5)
	take()
	name := w.row(6)
	lab.Poll(t, 60*time.Second, "the archiver", func() error {
		var last string
		if w.pg.QueryRow("select coalesce(last_archived_wal, '') from pg_stat_archiver", &last); last < name {
			return fmt.Errorf("%q is archived, not yet %s", last, name)
		}
		return nil
	})
	for _, config := range []string{"s3", "file"} {
		var printed, done plan
		w.do(0, &printed, config, "expire", "--plan")
		before := w.stored(config)
		w.do(0, &done, config, "expire", "--yes")
		if printed.actions() != "keep hide keep keep" || done.actions() != printed.actions() || done.Outcome == nil || len(done.Outcome.Hidden) != 1 {
			t.Fatalf("%s: printed %+v, did %+v", config, printed, done)
		}
		lab.Poll(t, 20*time.Second, "the end of the grace period", func() error {
			if w.do(0, &printed, config, "expire", "--plan"); printed.actions() == "keep wait keep keep" {
				return errors.New("not yet")
			}
			return nil
		})
		w.do(0, &done, config, "expire", "--yes")
		if done.actions() != "keep remove keep keep" || len(done.Outcome.Removed) != 1 || done.Outcome.WAL == 0 {
			t.Fatalf("%s: did %+v", config, done)
		}
		w.do(0, &done, config, "expire", "--yes")
		if done.actions() != "keep keep keep" || done.Outcome.WAL != 0 {
			t.Errorf("%s: a third time it did %+v", config, done)
		}
		w.left(config, before, backups[config])
		w.restored(config, backups[config])
	}
	if !strings.Contains(w.do(6, nil, "s3", "hold", string(backups["s3"][1].ID), "--reason", "too late"), "no such backup") {
		t.Error("a removed backup can be held")
	}
}

// left looks at what is gone and what is not.
func (w *world) left(config string, before map[string]bool, backups []catalog.Manifest) {
	w.Helper()
	stored := w.stored(config)
	name := func(m catalog.Manifest, lsn postgres.LSN) string {
		return postgres.SegmentAt(1, lsn, m.SegmentSize).Name()
	}
	for what, c := range map[string]struct {
		segment string
		there   bool
	}{
		"the held one's start":           {name(backups[0], backups[0].StartLSN), true},
		"the removed one's start":        {name(backups[1], backups[1].StartLSN), false},
		"behind the held one":            {name(backups[0], backups[0].StopLSN+postgres.LSN(backups[0].SegmentSize)), false},
		"the oldest kept one's start":    {name(backups[2], backups[2].StartLSN), true},
		"before the oldest kept one":     {name(backups[2], backups[2].StartLSN-postgres.LSN(backups[2].SegmentSize)), config == "s3"}, // the running one needs it
		"between the kept ones":          {name(backups[3], backups[3].StartLSN-postgres.LSN(backups[3].SegmentSize)), true},
		"behind the newest one's stop":   {name(backups[3], backups[3].StopLSN+postgres.LSN(backups[3].SegmentSize)), true},
		"the removed one's backup label": {name(backups[1], backups[1].StartLSN) + fmt.Sprintf(".%08X.backup", uint64(backups[1].StartLSN)%uint64(backups[1].SegmentSize)), false},
	} {
		if stored[c.segment] != c.there || !before[c.segment] {
			w.Errorf("%s: %s, %s: there %t, was %t, want %t", config, what, c.segment, stored[c.segment], before[c.segment], c.there)
		}
	}
	var wal struct {
		Timelines []catalog.TimelineWAL `json:"timelines"`
	}
	w.do(0, &wal, config, "wal", "list")
	if len(wal.Timelines) != 1 || len(wal.Timelines[0].Ranges) != 2 || len(wal.Timelines[0].Missing) != 0 {
		w.Errorf("%s: the archive is %+v", config, wal)
	}
	w.do(0, nil, config, "verify", "--level", "presence")
}

// restored starts copies from the oldest kept backup, to the end, and from the held one.
func (w *world) restored(config string, backups []catalog.Manifest) {
	w.Helper()
	type copied struct {
		backup catalog.Manifest
		rows   string
		args   []string
	}
	copies := []copied{{backups[2], "421", nil}}
	if config == "s3" {
		copies = append(copies, copied{backups[0], "1", []string{"--target-immediate"}})
	}
	for _, c := range copies {
		pgdata := filepath.Join(w.home, config+"-"+string(c.backup.ID))
		var out struct {
			End string `json:"stop_command"`
		}
		stderr := w.do(0, &out, config, append([]string{"restore", "--backup", string(c.backup.ID), "--pgdata", pgdata, "--start"}, c.args...)...)
		if strings.Contains(stderr, "will not judge the copy") {
			w.Error("pg_verifybackup was not there")
		}
		got := w.run.Must(lab.User1, w.pg.Bin("psql"), "-XAt", "-h", pgdata, "-p", "5432", "-U", "postgres", "-c", "select sum(n) from t")
		if strings.TrimSpace(got) != c.rows {
			w.Errorf("%s: the copy of %s has %s, want %s", config, c.backup.ID, got, c.rows)
		}
		w.run.Must(lab.User1, "/bin/sh", "-ec", out.End)
	}
	var all struct {
		Holds []catalog.Hold `json:"holds"`
	}
	if w.do(0, &all, config, "list", "--all"); len(all.Holds) != 1 {
		w.Errorf("%s: holds %+v", config, all.Holds)
	}
}
