// Package restore_test brings real clusters back from a real S3 store with the
// real command, beside the cluster that they come from.
package restore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/restore"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is a server that archives into a store through our program, without Patroni.
type world struct {
	*testing.T
	run    *lab.Run
	s3     *lab.S3
	pg     *lab.Postgres
	binary string
	config string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, run: lab.RunOf(t)}
	w.s3, w.binary = lab.StartS3(t, lab.S3Options{}), w.run.Build("pgha-backup")
	state := w.run.Mkdir(lab.User1, 0o700, "state")
	w.config = w.run.Path("pgha.yaml")
	w.pg = lab.StartPostgres(t, lab.PGOptions{NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": w.binary + " --config " + w.config + " archive-push %p",
		"fsync": "off", "shared_buffers": "32MB", "autovacuum": "off", "max_connections": "120"}})
	w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster:
  scope: lab
  member: one
  data_dir: %s
  bin_dir: %s
  state_dir: %s
  dsn: %s
repositories:
  - name: main
    type: s3
    s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}
`, w.pg.DataDir, w.pg.BinDir, state, w.pg.SocketDSN(), w.s3.Endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey), "pgha.yaml")
	w.pg.Start()
	return w
}

// backup takes a full backup.
func (w *world) backup() catalog.Manifest {
	w.Helper()
	session, err := server.Connect(w.Context(), w.pg.SocketDSN())
	if err != nil {
		w.Fatal(err)
	}
	defer session.Close()
	m, err := backup.Take(w.Context(), backup.Source{Server: session, PGDATA: w.pg.DataDir, Member: "one"}, w.repository(),
		backup.Options{ID: catalog.ManualID(time.Now()), PackSize: 4 << 20})
	if err != nil {
		w.Fatal(err)
	}
	return m
}

func (w *world) repository() *catalog.Repository {
	w.Helper()
	bucket, err := s3.New(s3.Options{Endpoint: w.s3.Endpoint, Bucket: w.s3.Bucket, Region: w.s3.Region, Style: s3.Path,
		AccessKey: w.s3.AccessKey, SecretKey: w.s3.SecretKey})
	if err != nil {
		w.Fatal(err)
	}
	var system int64
	w.pg.QueryRow("select system_identifier from pg_control_system()", &system)
	return catalog.New(bucket, catalog.Location{Scope: "lab", System: postgres.SystemIdentifier(system)}, catalog.Options{})
}

// insert commits a row and returns the position after the commit.
func (w *world) insert(n int) string {
	w.Helper()
	w.pg.Exec(fmt.Sprintf("insert into t values (%d)", n))
	var lsn string
	w.pg.QueryRow("select pg_current_wal_insert_lsn()::text", &lsn)
	return lsn
}

// archived ends the current segment and waits until it is in the archive.
func (w *world) archived() {
	w.Helper()
	var name string
	w.pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &name)
	lab.Poll(w, 60*time.Second, "the archiver", func() error {
		var last string
		w.pg.QueryRow("select coalesce(last_archived_wal, '') from pg_stat_archiver", &last)
		if last < name {
			return fmt.Errorf("%q is archived, not yet %s", last, name)
		}
		return nil
	})
}

// command is our program as the user that owns the data.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	w.Helper()
	return w.run.Command(ctx, lab.User1, nil, append([]string{w.binary, "--config", w.config}, args...)...)
}

// result is what restore said.
type result struct {
	code           int
	stdout, stderr string

	Stop      restore.Stop     `json:"stop"`
	Recovered *restore.Outcome `json:"recovered"`
	Connect   string           `json:"connect"`
	End       string           `json:"stop_command"`
}

func (w *world) restore(args ...string) result {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	cmd := w.command(ctx, append([]string{"restore", "--format", "json", "--verify-files"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Fatal(err)
	}
	r := result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if r.code == 0 {
		if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
			w.Fatalf("%v in %s", err, r.stdout)
		}
	}
	return r
}

// want insists on an exit code.
func (w *world) want(code int, r result) result {
	w.Helper()
	if r.code != code {
		w.Fatalf("restore exits %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// place is a directory that a copy may be made in.
func (w *world) place(name string) string { return filepath.Join(w.home(), name) }

func (w *world) home() string { return w.run.Mkdir(lab.User1, 0o700, "copies") }

// ask runs a query on a copy on its private socket.
func (w *world) ask(pgdata, sql string) string {
	w.Helper()
	return w.shell(fmt.Sprintf("%s -X -A -t -v ON_ERROR_STOP=1 -h %s -p 5432 -U postgres -d postgres -c %q", w.pg.Bin("psql"), pgdata, sql))
}

func (w *world) shell(line string) string {
	w.Helper()
	out := w.run.Must(lab.User1, "/bin/sh", "-ec", line)
	return string(bytes.TrimSpace([]byte(out)))
}

func exists(parts ...string) bool {
	_, err := os.Lstat(filepath.Join(parts...))
	return err == nil
}
