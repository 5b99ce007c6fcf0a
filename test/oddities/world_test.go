// Package oddities_test takes data directories that are as odd as PostgreSQL lets them
// be into the store and back, each with a ledger written through the real commands.
package oddities_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// shape is what is odd about a server.
type shape struct {
	major       int
	segmentMB   int  // of WAL; 0: as initdb likes it
	noChecksums bool // of pages
	group       bool // may read: initdb -g
	linkedWAL   bool // pg_wal is a link: initdb -X
	outside     bool // the configuration lies outside PGDATA, as Debian has it
	places      bool // PGDATA, configuration and WAL lie in odd places
	spaces      bool // oddly named tablespaces in oddly named places
	names       bool // of databases and what is in them
	strays      bool // things that nobody would expect in PGDATA
	daemon      bool // archives, asked by pgha-wal
	vast        bool // amcheck would take an hour
	conf        map[string]string
}

// world is a server of some shape that archives into a store through our program.
type world struct {
	*testing.T
	shape
	run       *lab.Run
	s3        *lab.S3
	pg        *lab.Postgres
	binary    string
	config    string // of our program
	wal       string // where pg_wal leads; "" if it is a directory
	journal   string
	service   *lab.Process // nil: archive_command pushes by itself
	moment    time.Time    // after the backups, before the ledger's last entries
	databases []string
	later     int // sights that the backup over the network had not
}

func newWorld(t *testing.T, s shape) *world {
	t.Helper()
	w := &world{T: t, shape: s, run: lab.RunOf(t), journal: t.TempDir()}
	w.s3, w.binary = lab.StartS3(t, lab.S3Options{}), w.run.Build("pgha-backup")
	state := w.run.Mkdir(lab.User1, 0o700, "state")
	home, etc, wal := "plain", "etc", "wal"
	if s.places {
		home, etc, wal = "my base dir/base/дата=%p", "its \"etc\"/15 & main", "w a l/pg_wal/$HOME"
	}
	w.config = filepath.Join(w.run.Mkdir(lab.User1, 0o700, etc), "pgha backup.yaml")
	o := lab.PGOptions{NoStart: true, Major: s.major, WALSegSizeMB: s.segmentMB, NoChecksums: s.noChecksums,
		InitDir: filepath.Join(w.run.Mkdir(lab.User1, 0o755, home), "pg"),
		Conf: map[string]string{"archive_mode": "on", "fsync": "off", "shared_buffers": "32MB", "autovacuum": "off",
			"archive_command": fmt.Sprintf(`%s --config "%s" archive-push %%p`, w.binary, strings.NewReplacer(`"`, `\"`, "$", `\$`).Replace(w.config))}}
	if s.daemon {
		o.Conf["archive_command"] = fmt.Sprintf(`%s --socket %s/socket --config "%s" archive-push %%p`, w.run.Build("pgha-wal"), state, w.config)
	}
	for k, v := range s.conf {
		o.Conf[k] = v
	}
	if s.group {
		o.InitArgs = append(o.InitArgs, "-g")
	}
	if s.linkedWAL {
		w.wal = w.run.Mkdir(lab.User1, 0o700, wal)
		o.InitArgs = append(o.InitArgs, "-X", w.wal)
	}
	if s.outside {
		o.Args = []string{"-c", "config_file=" + filepath.Join(filepath.Dir(w.config), "postgresql.conf")}
	}
	w.pg = lab.StartPostgres(t, o)
	w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: lab, member: one, data_dir: %q, bin_dir: %q, state_dir: %q, dsn: %q}
repositories:
  - {name: main, type: s3, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
backup: {wal_timeout: 1m, rate_limit: %s}
daemon: {listen: "", socket: %s/socket}
`, w.pg.DataDir, w.pg.BinDir, state, w.pg.SocketDSN(), w.s3.Endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey, "0", state),
		etc, "pgha backup.yaml")
	if s.outside {
		w.moveConfiguration()
	}
	if s.daemon {
		w.service = w.run.Start(lab.User1, "daemon", nil, w.binary, "--config", w.config, "daemon")
		lab.Poll(t, 30*time.Second, "the daemon's socket", func() error {
			_, err := os.Stat(filepath.Join(state, "socket"))
			return err
		})
	}
	w.pg.Start()
	w.archived()
	return w
}

// moveConfiguration leaves nothing but postgresql.auto.conf in PGDATA.
func (w *world) moveConfiguration() {
	w.Helper()
	etc := filepath.Dir(w.config)
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		if err := os.Rename(filepath.Join(w.pg.DataDir, name), filepath.Join(etc, name)); err != nil {
			w.Fatal(err)
		}
	}
	text := fmt.Sprintf("data_directory = '%s'\nhba_file = '%s/pg_hba.conf'\nident_file = '%s/pg_ident.conf'\ninclude_dir = 'conf.d'\n", w.pg.DataDir, etc, etc)
	w.shell(`cd "$1" && printf %s "$2" >>postgresql.conf && mkdir conf.d && echo "work_mem = 4321" >conf.d/10-ours.conf`, etc, text)
}

// shell runs a line as the owner of the data; its arguments are $1 and so on.
func (w *world) shell(line string, args ...string) string {
	w.Helper()
	return strings.TrimSpace(w.run.Must(lab.User1, append([]string{"/bin/sh", "-ec", line, "sh"}, args...)...))
}

// result is what a command of ours said.
type result struct {
	code           int
	stdout, stderr string
}

// ours runs our program.
func (w *world) ours(args ...string) (r result) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Minute)
	defer cancel()
	cmd := w.run.Command(ctx, lab.User1, nil, append([]string{w.binary, "--config", w.config}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must insists on success, and reads the document if there is one to read into.
func (w *world) must(document any, args ...string) result {
	w.Helper()
	if document != nil {
		args = append(args, "--format", "json")
	}
	r := w.ours(args...)
	if r.code != 0 {
		w.Fatalf("%q exits %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	if document != nil {
		if err := json.Unmarshal([]byte(r.stdout), document); err != nil {
			w.Fatalf("%q: %v in %s", args, err, r.stdout)
		}
	}
	return r
}

// work runs the ledger's clients until stop, which insists that they worked until then.
func (w *world) work() (stop func()) {
	w.Helper()
	seed := rand.Uint64()
	w.Logf("ledger seed %d", seed)
	load, err := ledger.Start(w.Context(), w.pg.SocketDSN(), ledger.Options{Clients: 2, Dir: w.journal, Seed: seed, Pause: 2 * time.Millisecond})
	if err != nil {
		w.Fatal(err)
	}
	more := func() {
		w.Helper()
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		if err := load.WaitAcked(ctx, 50); err != nil {
			w.Fatal(err)
		}
	}
	more()
	return func() {
		w.Helper()
		more()
		if _, err := load.Stop(); err != nil {
			w.Fatal(err)
		}
	}
}

// archived ends the current segment and waits until it is in the archive.
func (w *world) archived() {
	w.Helper()
	var name string
	w.pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &name)
	lab.Poll(w, time.Minute, "the archiver", func() error {
		var last string
		w.pg.QueryRow("select coalesce(last_archived_wal, '') from pg_stat_archiver", &last)
		if last < name {
			return fmt.Errorf("%q is archived, not yet %s", last, name)
		}
		return nil
	})
}

// complete insists that everything acknowledged is there.
func (w *world) complete(socketDir string) {
	w.Helper()
	conn, err := pgx.Connect(w.Context(), "host='"+strings.ReplaceAll(socketDir, "'", `\'`)+"' port=5432 user=postgres dbname=postgres")
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	records, err := ledger.ReadJournal(w.journal)
	if err != nil {
		w.Fatal(err)
	}
	if report, err := ledger.Verify(w.Context(), conn, records, ledger.Cut{}); err != nil || report.Expected == 0 {
		w.Fatalf("ledger: %+v, %v", report, err)
	}
}
