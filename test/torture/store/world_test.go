// Package store_test torments our program through the S3 store: a server that is killed
// around every request, and one that behaves as badly as FoundationDB's simulator.
package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/torture"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const scope = "torture"

// world is a server that archives into the bucket living, past the proxy; and the bucket
// work, which a reset makes what ready holds. Our program comes to both through the proxy.
type world struct {
	*testing.T
	run    *lab.Run
	s3     *lab.S3
	proxy  *faultproxy.Proxy
	pg     *lab.Postgres
	bin    string
	system postgres.SystemIdentifier
	node   string // what archive clients look at of PGDATA
	ready  string

	archived torture.Ledger    // of ready
	contents map[string][]byte // of all segments
	fresh    []string          // not in ready
	old      []string          // in ready, oldest first
	backs    sync.WaitGroup

	after, final torture.Tree // see expired
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, run: lab.RunOf(t), s3: lab.StartS3(t, lab.S3Options{Bucket: "work"}), archived: torture.Ledger{}, contents: map[string][]byte{}}
	w.must(w.s3.MakeBucket("living"))
	var err error
	w.proxy, err = faultproxy.Start(w.s3.Addr)
	w.must(err)
	t.Cleanup(w.proxy.Close)
	w.bin, w.ready = w.run.Build("pgha-backup"), w.run.Mkdir("root", 0o700, "ready")
	w.node = w.run.Mkdir(lab.User1, 0o700, "node")
	w.run.Mkdir(lab.User1, 0o700, "node", "global")
	w.run.Mkdir(lab.User1, 0o700, "node", "pg_wal")
	w.pg = lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": w.bin + " --config " + w.run.Path("archiver.yaml") + " archive-push %p", "fsync": "off",
		"shared_buffers": "16MB", "autovacuum": "off", "max_connections": "20", "min_wal_size": "32MB", "max_wal_size": "256MB", "wal_keep_size": "64MB",
		"checkpoint_timeout": "1h"}})
	w.configure("archiver", w.s3.Addr, "living", w.pg.DataDir)
	w.configure("living", w.proxy.Addr(), "living", w.pg.DataDir)
	w.configure("work", w.proxy.Addr(), "work", "")
	w.configure("hasty", w.proxy.Addr(), "work", "")
	w.configure("rotated", w.proxy.Addr(), "living", w.pg.DataDir)
	w.pg.Start()
	w.fill()
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) configure(name, addr, bucket, dataDir string) {
	state := w.run.Mkdir(lab.User1, 0o700, "state-"+name)
	keys, patience := fmt.Sprintf("access_key: %s, secret_key: %s", w.s3.AccessKey, w.s3.SecretKey), "15m"
	switch name {
	case "rotated":
		keys = fmt.Sprintf("credentials_file: %q", w.run.Path("credentials"))
	case "hasty":
		patience = "1s"
	}
	w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: %s, member: one, data_dir: %q, bin_dir: %s, state_dir: %s, dsn: %q}
repositories:
  - name: main
    type: s3
    s3: {endpoint: "http://%s", bucket: %s, region: %s, %s, path_style: path, tls: "off"}
    level: fastest
archive: {get_batch: 3, push_timeout: %s, get_recovery_timeout: %s}
backup: {pack_size: 16MiB, part_size: 5MiB}
retention: {keep: 1, grace: 1s}
`, scope, dataDir, w.pg.BinDir, state, w.pg.SocketDSN(), addr, bucket, w.s3.Region, keys, map[bool]string{true: "2s", false: "60s"}[name == "hasty"], patience), name+".yaml")
}

// fill gives the server a history of three backups, the oldest of them hidden already.
func (w *world) fill() {
	w.Helper()
	w.pg.Exec("create table t (n int, pad text); create table r as select sha256(g::text::bytea) from generate_series(1, 200000) g")
	var system int64
	w.pg.QueryRow("select system_identifier from pg_control_system()", &system)
	w.system = postgres.SystemIdentifier(system)
	for _, args := range [][]string{{"backup"}, {"backup"}, {"expire", "--yes"}, {"backup"}} {
		w.segments(2)
		if r := w.call("living", w.pg.DataDir, args...); r.code != 0 {
			w.Fatalf("%s exits %d: %s", args, r.code, r.output())
		}
	}
	w.old = w.segments(2)
	w.must(exec.Command("cp", "-a", filepath.Join(w.s3.Dir, "living")+"/.", w.ready).Run())
	files, err := os.ReadDir(filepath.Join(w.pg.DataDir, "pg_wal/archive_status"))
	w.must(err)
	oldest := "G" // what came before was needed by nothing and is expired
	for key := range w.objects("living") {
		if name := filepath.Base(key); strings.Contains(key, "/wal/") {
			oldest = min(oldest, name)
		}
	}
	for _, f := range files {
		if name, done := strings.CutSuffix(f.Name(), ".done"); done && name >= oldest {
			w.archived.Acknowledge(name, w.walFile(name))
		}
	}
	w.fresh = w.segments(3)
	for _, name := range []string{"PG_VERSION", "global/pg_control"} {
		content, err := os.ReadFile(filepath.Join(w.pg.DataDir, name))
		w.must(err)
		w.run.WriteFile(lab.User1, 0o600, string(content), "node", name)
	}
	for _, name := range w.fresh {
		w.run.WriteFile(lab.User1, 0o600, string(w.contents[name]), "node/pg_wal", name)
	}
}

// segments writes and ends some segments and waits until they are archived.
func (w *world) segments(n int) (names []string) {
	w.Helper()
	for range n {
		w.pg.Exec("insert into t select g, repeat(md5(g::text), 10) from generate_series(1, 1000) g")
		var name string
		w.pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &name)
		names = append(names, name)
	}
	lab.Poll(w, time.Minute, "the archiver", func() error {
		if last := w.pg.Psql("-c", "select coalesce(last_archived_wal, '') from pg_stat_archiver"); last[:min(24, len(last))] < names[n-1] {
			return fmt.Errorf("%s is archived, not yet %s", last, names[n-1])
		}
		return nil
	})
	for _, name := range names {
		w.contents[name] = w.walFile(name)
	}
	return names
}

func (w *world) walFile(name string) []byte {
	w.Helper()
	content, err := os.ReadFile(filepath.Join(w.pg.DataDir, "pg_wal", name))
	w.must(err)
	return content
}

// reset makes the bucket work what ready is.
func (w *world) reset() {
	w.Helper()
	dir := filepath.Join(w.s3.Dir, "work")
	names, err := os.ReadDir(dir)
	w.must(err)
	for _, n := range names {
		w.must(os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	w.must(exec.Command("cp", "-a", w.ready+"/.", dir).Run())
}

// withoutBackups leaves the bucket living its WAL.
func (w *world) withoutBackups() {
	w.Helper()
	w.must(os.RemoveAll(filepath.Join(w.s3.Dir, "living", w.root(), "backup")))
	w.must(os.RemoveAll(filepath.Join(w.s3.Dir, "living", ".sgwtmp")))
}

func (w *world) root() string { return fmt.Sprintf("%s/%s", scope, w.system) }

// bucket is a way to a bucket past the proxy.
func (w *world) bucket(name string) storage.Bucket {
	w.Helper()
	b, err := s3.New(s3.Options{Endpoint: w.s3.Endpoint, Bucket: name, Region: w.s3.Region, Style: s3.Path, AccessKey: w.s3.AccessKey, SecretKey: w.s3.SecretKey})
	w.must(err)
	return retry.New(b, retry.Options{GiveUp: 20 * time.Second, Log: slog.New(slog.DiscardHandler)})
}

func (w *world) repository(name string) *catalog.Repository {
	return catalog.New(w.bucket(name), catalog.Location{Scope: scope, System: w.system}, catalog.Options{})
}

// objects are what a bucket holds, by key; but for what is new with each run.
func (w *world) objects(name string) torture.Tree {
	w.Helper()
	all, err := torture.Objects(w.Context(), w.bucket(name), "")
	w.must(err)
	maps.DeleteFunc(all, func(key, _ string) bool {
		return strings.Contains(key, "/report/") || strings.Contains(key, "/hold/") || strings.Contains(key, "/gap/")
	})
	for key := range all {
		if strings.HasSuffix(key, "/expired.json") || strings.HasSuffix(key, "/removal.json") { // they tell the time
			all[key] = "some"
		}
	}
	return all
}

// uploads are how many multipart uploads a bucket has that nobody has ended.
func (w *world) uploads(name string) int {
	found, err := filepath.Glob(filepath.Join(w.s3.Dir, name, ".sgwtmp/multipart/*/*"))
	w.must(err)
	return len(found)
}

type outcome struct {
	code           int
	stdout, stderr string
}

func (o outcome) output() string { return o.stdout + o.stderr }

// call runs our program to its end, or for three minutes: no command may hang.
func (w *world) call(config, dir string, args ...string) outcome {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	cmd := w.run.Command(ctx, lab.User1, nil, append([]string{w.bin, "--config", w.run.Path(config + ".yaml")}, args...)...)
	cmd.Dir = dir
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		w.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), log.String()}
}

// strike kills the server at once, and starts it again after a moment.
func (w *world) strike(pause time.Duration) func() {
	return func() {
		w.s3.Process().Kill9()
		w.backs.Go(func() {
			time.Sleep(pause)
			if err := w.s3.Process().Restart(); err != nil {
				w.Errorf("%v", err)
			}
		})
	}
}

// recovered waits until a server that was killed listens again.
func (w *world) recovered() {
	w.Helper()
	w.backs.Wait()
	lab.Poll(w, 20*time.Second, "the S3 server", func() error {
		c, err := net.DialTimeout("tcp", w.s3.Addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}
