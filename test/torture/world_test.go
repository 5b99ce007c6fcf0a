package torture

import (
	"bytes"
	"context"
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
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

const scope = "torture"

// world is a living server that archives into one repository, and an arena in memory where what lies in ready is put
// before each run: node (the parts of PGDATA that archive clients look at), repo, spool, state, and restored copies.
type world struct {
	*testing.T
	run    *lab.Run
	pg     *lab.Postgres
	bin    string
	helper string
	system postgres.SystemIdentifier
	arena  string
	user   *syscall.Stat_t

	archived map[string][]byte // what the first repository holds, by name
	fresh    []string          // segments that came after it, in order
	contents map[string][]byte // of all segments
	backups  []string          // in the first repository, oldest first
}

func (w *world) at(names ...string) string {
	return filepath.Join(append([]string{w.arena}, names...)...)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, run: lab.RunOf(t), archived: map[string][]byte{}, contents: map[string][]byte{}}
	w.bin = w.run.Build("pgha-backup")
	w.helper = w.run.Path("bin", "torture")
	self, err := os.Executable()
	w.must(err)
	w.must(exec.Command("install", "-m", "755", self, w.helper).Run())
	w.arena = w.run.Mkdir(lab.User1, 0o700, "arena")
	info, err := os.Stat(w.arena)
	w.must(err)
	w.user = info.Sys().(*syscall.Stat_t)
	w.must(syscall.Mount("tmpfs", w.arena, "tmpfs", 0, fmt.Sprintf("size=2g,mode=0700,uid=%d,gid=%d", w.user.Uid, w.user.Gid)))
	t.Cleanup(func() { _ = syscall.Unmount(w.arena, syscall.MNT_DETACH) })
	for _, name := range []string{"live", "live-state", "ready", "ready/empty"} {
		w.mkdir(name)
	}
	w.mkdirAt(w.run.Path("elsewhere"))
	w.pg = lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, NoStart: true, Conf: map[string]string{
		"archive_mode": "on", "archive_command": w.bin + " --config " + w.run.Path("live.yaml") + " archive-push %p", "fsync": "off",
		"shared_buffers": "16MB", "autovacuum": "off", "max_connections": "20", "min_wal_size": "32MB", "max_wal_size": "256MB", "wal_keep_size": "256MB",
		"checkpoint_timeout": "1h"}})
	w.configure("live", w.at("live"), w.at("live-state"), w.at("live-spool"))
	w.configure("work", w.at("repo"), w.at("state"), w.at("spool"))
	w.configure("far", w.at("repo"), w.at("state"), w.run.Path("elsewhere"))
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

func (w *world) mkdir(name string) string { return w.mkdirAt(w.at(name)) }

func (w *world) mkdirAt(dir string) string {
	w.Helper()
	w.must(os.MkdirAll(dir, 0o700))
	w.must(os.Chown(dir, int(w.user.Uid), int(w.user.Gid)))
	return dir
}

// write makes a file of the server's user, and the directories to it.
func (w *world) write(path string, content []byte) {
	w.Helper()
	for dir := filepath.Dir(path); dir != w.arena && strings.HasPrefix(dir, w.arena); dir = filepath.Dir(dir) {
		w.mkdirAt(dir)
	}
	w.must(os.WriteFile(path, content, 0o600))
	w.must(os.Chown(path, int(w.user.Uid), int(w.user.Gid)))
}

func (w *world) configure(name, repo, state, spool string) {
	w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: %s, member: one, data_dir: %q, bin_dir: %s, state_dir: %s, dsn: %q}
repositories:
  - {name: main, type: file, file: {path: %s}, level: fastest}
archive: {spool: %s, get_batch: 3, get_recovery_timeout: 1s, get_rewind_timeout: 1s}
backup: {pack_size: 16MiB, part_size: 5MiB}
retention: {keep: 1, grace: 24h, garbage: 48h}
`, scope, map[bool]string{true: w.pg.DataDir}[name == "live"], w.pg.BinDir, state, w.pg.SocketDSN(), repo, spool), name+".yaml")
}

// fill gives the server a history and puts what it left into ready.
func (w *world) fill() {
	w.Helper()
	space := w.run.Mkdir(lab.User1, 0o700, "space")
	w.pg.Exec("update pg_database set datistemplate = false where datname = 'template0'")
	w.pg.Exec("drop database template0")
	w.pg.Exec("create tablespace aside location '" + space + "'")
	w.pg.Exec("create table t (n int, pad text); create table a (n int) tablespace aside; insert into a select generate_series(1, 5000)")
	var system int64
	w.pg.QueryRow("select system_identifier from pg_control_system()", &system)
	w.system = postgres.SystemIdentifier(system)
	for range 3 {
		w.segments(3)
		code, output := w.call("live", w.pg.DataDir, "backup")
		if code != 0 {
			w.Fatalf("backup exits %d: %s", code, output)
		}
	}
	w.segments(2)
	w.must(Put(w.at("live"), w.at("ready/base")))
	files, err := os.ReadDir(filepath.Join(w.pg.DataDir, "pg_wal/archive_status"))
	w.must(err)
	for _, f := range files {
		if name, done := strings.CutSuffix(f.Name(), ".done"); done {
			w.archived[name] = w.walFile(name)
		}
	}
	w.fresh = w.segments(4)
	seen, faults, err := JudgeRepository(w.Context(), w.repository(w.at("ready/base")))
	if err != nil || len(faults) > 0 || len(seen) != 3 || len(w.archived) < 8 {
		w.Fatalf("the first repository: %v %v %v, %d WAL files", seen, faults, err, len(w.archived))
	}
	for _, id := range seen {
		w.backups = append(w.backups, string(id))
	}
	node := w.at("ready/node")
	for _, name := range []string{"PG_VERSION", "global/pg_control"} {
		content, err := os.ReadFile(filepath.Join(w.pg.DataDir, name))
		w.must(err)
		w.write(filepath.Join(node, name), content)
	}
	for _, name := range w.fresh {
		w.write(filepath.Join(node, "pg_wal", name), w.contents[name])
	}
}

// segments writes and ends some segments, waits until they are archived, and returns their names.
func (w *world) segments(n int) (names []string) {
	w.Helper()
	for range n {
		w.pg.Exec("insert into t select g, repeat(md5(g::text), 10) from generate_series(1, 1500) g")
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

func (w *world) repository(dir string) *catalog.Repository { return w.catalog(file.New(dir)) }

func (w *world) catalog(bucket storage.Bucket) *catalog.Repository {
	return w.catalogOf(bucket, scope)
}

func (w *world) catalogOf(bucket storage.Bucket, scope string) *catalog.Repository {
	return catalog.New(bucket, catalog.Location{Scope: scope, System: w.system}, catalog.Options{})
}

// command is our program as the server's user.
func (w *world) command(ctx context.Context, config, dir string, args ...string) *exec.Cmd {
	cmd := w.run.Command(ctx, lab.User1, nil, append([]string{w.bin, "--config", w.run.Path(config + ".yaml")}, args...)...)
	cmd.Dir = dir
	return cmd
}

// call runs our program to its end.
func (w *world) call(config, dir string, args ...string) (code int, output string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	cmd := w.command(ctx, config, dir, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func removeAll(dir string) error { return os.RemoveAll(dir) }
