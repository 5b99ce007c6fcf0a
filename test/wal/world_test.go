package wal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const scope = "main"

// world is an S3 server behind a fault proxy, and our program.
type world struct {
	t     *testing.T
	run   *lab.Run
	s3    *lab.S3
	proxy *faultproxy.Proxy
	bin   string
	n     int
	// program is how the archive clients are called. Where hooked is set, way makes
	// it pgha-wal, with a daemon to ask.
	program []string
	hooked  bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, run: lab.RunOf(t), s3: lab.StartS3(t, lab.S3Options{})}
	var err error
	if w.proxy, err = faultproxy.Start(w.s3.Addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.proxy.Close)
	w.bin = w.run.Build("pgha-backup")
	w.program = []string{w.bin}
	return w
}

// config writes a configuration with a state directory of its own and returns its
// path. extra are lines below "archive:".
func (w *world) config(extra ...string) (path, state string) { return w.configFor("", extra...) }

// configFor is config with a data directory and a socket for its daemon.
func (w *world) configFor(dataDir string, extra ...string) (path, state string) {
	w.t.Helper()
	w.n++
	name := fmt.Sprintf("conf%d", w.n)
	state = w.run.Mkdir(lab.User1, 0o700, name, "state")
	text := fmt.Sprintf(`cluster: {scope: %s, state_dir: %s, data_dir: %q}
daemon: {listen: "", socket: %s}
repositories:
  - name: lab
    type: s3
    s3: {endpoint: "http://%s", bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}
archive: {%s}
`, scope, state, dataDir, filepath.Join(state, "socket"), w.proxy.Addr(), w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey, strings.Join(extra, ", "))
	return w.run.WriteFile(lab.User1, 0o600, text, name, "config.yaml"), state
}

func (w *world) archiveCommand(config string) string { return w.command(config, "archive-push %p") }
func (w *world) restoreCommand(config string) string { return w.command(config, "archive-get %f %p") }

func (w *world) command(config, args string) string {
	return strings.Join(w.program, " ") + " --config " + config + " " + args
}

// call runs our program as the server's user, without any environment to speak of.
func (w *world) call(dir string, args ...string) (code int, output string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := w.run.Command(ctx, lab.User1, nil, slices.Concat(w.program, args)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.t.Fatalf("run %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// key is the only object whose key ends so.
func (w *world) key(suffix string) string {
	w.t.Helper()
	var found []string
	for key := range w.s3.Keys() {
		if strings.HasSuffix(key, suffix) {
			found = append(found, key)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("want one object that ends in %s, there are %v", suffix, found)
	}
	return found[0]
}

func (w *world) archived(suffix string) bool {
	for key := range w.s3.Keys() {
		if strings.HasSuffix(key, suffix) {
			return true
		}
	}
	return false
}

func (w *world) object(key string) []byte {
	w.t.Helper()
	c, err := w.s3.Client()
	if err != nil {
		w.t.Fatal(err)
	}
	o, err := c.GetObject(w.t.Context(), w.s3.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// replace puts another body under a key, past every rule of ours; nil removes it.
func (w *world) replace(key string, body []byte) {
	w.t.Helper()
	c, err := w.s3.Client()
	if err == nil && body == nil {
		err = c.RemoveObject(w.t.Context(), w.s3.Bucket, key, minio.RemoveObjectOptions{})
	} else if err == nil {
		_, err = c.PutObject(w.t.Context(), w.s3.Bucket, key, bytes.NewReader(body), int64(len(body)), minio.PutObjectOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// ledger is a primary whose archive and base backup the tests recover from: row i
// was committed in a segment of its own, named files[i].
type ledger struct {
	*world
	primary *lab.Postgres
	base    string         // a backup from before the first row
	files   map[int]string // row -> segment
	rows    int
}

func newLedger(w *world, rows int) *ledger {
	w.t.Helper()
	l := &ledger{world: w, rows: rows, files: map[int]string{}}
	l.primary = lab.StartPostgres(w.t, lab.PGOptions{WALSegSizeMB: 1, NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "wal_level": "replica", "fsync": "off",
		"min_wal_size": "2MB", "max_wal_size": "32MB", "wal_keep_size": "64MB", "shared_buffers": "16MB", "max_connections": "20",
	}})
	config, _ := w.way(w.t, l.primary.DataDir)
	l.primary.Configure(map[string]string{"archive_command": w.archiveCommand(config)})
	l.primary.Start()
	l.primary.Exec("CREATE TABLE ledger(id int PRIMARY KEY)")
	l.base = w.run.Path("base")
	w.run.Must(lab.User1, "install", "-d", "-m", "700", filepath.Join(filepath.Dir(l.primary.DataDir), "base"))
	l.base = filepath.Join(filepath.Dir(l.primary.DataDir), "base")
	w.run.Must(lab.User1, l.primary.Bin("pg_basebackup"), "-h", l.primary.SocketDir, "-p", fmt.Sprint(l.primary.Port), "-U", "postgres",
		"-D", l.base, "-X", "none", "-c", "fast", "--no-sync")
	for i := 1; i <= rows; i++ {
		l.add(i)
	}
	l.waitArchived(l.files[rows])
	var archived, failed int
	l.primary.QueryRow("SELECT archived_count, failed_count FROM pg_stat_archiver", &archived, &failed)
	if archived < rows || failed > 0 {
		w.t.Errorf("the archiver archived %d files and failed %d times", archived, failed)
	}
	l.primary.Stop("fast")
	l.waitArchived(l.files[rows])
	return l
}

// add commits a row and closes its segment.
func (l *ledger) add(i int) {
	l.t.Helper()
	l.primary.Exec(fmt.Sprintf("INSERT INTO ledger VALUES (%d)", i))
	var name string
	l.primary.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &name)
	l.files[i] = name
}

// copy is a server on a copy of the base backup, not started.
func (l *ledger) copy(signal, restoreCommand string, conf map[string]string) *lab.Postgres {
	l.t.Helper()
	l.n++
	dir := filepath.Join(filepath.Dir(l.primary.DataDir), fmt.Sprintf("copy%d", l.n))
	l.run.Must(lab.User1, "cp", "-a", l.base, dir)
	if signal != "" {
		l.run.Must(lab.User1, "touch", filepath.Join(dir, signal))
	}
	all := map[string]string{"archive_mode": "off", "restore_command": restoreCommand, "hot_standby": "on",
		"wal_retrieve_retry_interval": "100ms", "recovery_target_timeline": "latest"}
	for k, v := range conf {
		all[k] = v
	}
	p := lab.StartPostgres(l.t, lab.PGOptions{DataDir: dir, NoStart: true})
	p.Configure(all)
	return p
}

// How a recovery ended.
const (
	stopped = "stopped"        // the server ended, and can be started again
	short   = "promoted short" // the server is open and rows are lost
	whole   = "promoted whole"
)

// recover starts a server in recovery and tells how that ended.
func (l *ledger) recover(p *lab.Postgres, rows int) string {
	l.t.Helper()
	if err := p.TryStart(60 * time.Second); err != nil {
		if !p.Process().Running() {
			return stopped
		}
		l.t.Fatal(err)
	}
	end := ""
	lab.Poll(l.t, 60*time.Second, "the end of recovery", func() error {
		if !p.Process().Running() {
			end = stopped
			return nil
		}
		n, recovering, err := state(p)
		switch {
		case err != nil:
			return err
		case recovering:
			return fmt.Errorf("in recovery with %d rows", n)
		case n < rows:
			end = short
		default:
			end = whole
		}
		return nil
	})
	return end
}

// state is how many rows a server has, and whether it is in recovery.
func state(p *lab.Postgres) (rows int, recovering bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := p.Connect(ctx)
	if err != nil {
		return 0, false, err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, "SELECT count(*), pg_is_in_recovery() FROM ledger").Scan(&rows, &recovering)
	return rows, recovering, err
}

func sha256Hex(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
