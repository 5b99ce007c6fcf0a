package restore_test

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
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

// A host that cannot read the data directory backs it up over the network, as a role
// that is no superuser: under load, with a tablespace, from a primary and from its
// standby, with damaged pages, and not at all where the server dies.
func TestStreamed(t *testing.T) {
	w := newWorld(t)
	h := newHost(w)
	space := w.run.Mkdir(lab.User1, 0o700, "space")
	w.pg.Exec("create tablespace space location '" + space + "'")
	w.pg.Exec("create table a tablespace space as select g, repeat('x', 300) pad from generate_series(1, 20000) g")
	w.pg.Exec("create unlogged table u tablespace space as select generate_series(1, 1000) g")

	h.refused("the role may not replicate: ALTER ROLE ... REPLICATION")
	w.pg.Exec("alter role distant replication")
	leave := h.occupy()
	h.refused("raise max_wal_senders")
	leave()

	journal := t.TempDir()
	stop := w.work(journal)
	ofPrimary := h.backup(0)
	if m := ofPrimary; m.Source != "base-backup" || m.Role != "primary" || m.Member != "one" || m.Damaged() || m.Files < 900 || m.Bytes < 25<<20 ||
		len(m.Tablespaces) != 1 || m.Tablespaces[0].Path != space || m.Settings.MaxConnections != 120 || m.Settings.PGDATA != w.pg.DataDir {
		t.Errorf("manifest %+v", m)
	}
	standby := w.standby(space)
	ofStandby := w.streamOf(standby)
	standby.Stop("fast")
	if m := ofStandby; m.Source != "base-backup" || m.Role != "replica" || m.Member != "two" || m.StopLSN <= ofPrimary.StopLSN {
		t.Errorf("manifest %+v", m)
	}
	stop()
	w.archived()
	for _, c := range []struct {
		of     catalog.Manifest
		target string
		whole  bool
	}{{ofPrimary, "--target-timeline=1", true}, {ofStandby, "--target-timeline=1", true}, {ofStandby, "--target-immediate", false}} {
		name := fmt.Sprintf("%s-%v", c.of.Role, c.whole)
		pgdata := w.place(name)
		r := w.want(0, w.restore("--pgdata", pgdata, "--backup", string(c.of.ID), c.target, "--tablespace-mapping", c.of.Tablespaces[0].Path+"="+w.place(name+"-space"), "--start"))
		w.judge(name, pgdata, journal, c.whole)
		w.shell(r.End)
	}
	h.damage()
	h.death()
}

// work runs the ledger's clients; stop insists that they worked until then.
func (w *world) work(journal string) (stop func()) {
	w.Helper()
	seed := rand.Uint64()
	w.Logf("ledger seed %d", seed)
	load, err := ledger.Start(w.Context(), w.pg.DSN(), ledger.Options{Clients: 2, Dir: journal, Seed: seed, Pause: 2 * time.Millisecond})
	if err != nil {
		w.Fatal(err)
	}
	more := func() {
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		if err := load.WaitAcked(ctx, 100); err != nil {
			w.Fatal(err)
		}
	}
	more()
	return func() {
		more()
		if _, err := load.Stop(); err != nil {
			w.Fatal(err)
		}
	}
}

// judge holds a copy against the journal: all of it, or what lies before its stop.
func (w *world) judge(name, pgdata, journal string, whole bool) {
	w.Helper()
	conn, err := pgx.Connect(w.Context(), "host="+pgdata+" port=5432 user=postgres dbname=postgres")
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	records, err := ledger.ReadJournal(journal)
	if err != nil {
		w.Fatal(err)
	}
	cut := ledger.Cut{}
	if !whole {
		if cut.Lineage, err = ledger.ServerLineage(w.Context(), conn); err != nil {
			w.Fatal(err)
		}
	}
	report, err := ledger.Verify(w.Context(), conn, records, cut)
	if err != nil || report.Expected == 0 || whole && report.Excluded > 0 {
		w.Errorf("%s: %+v, %v", name, report, err)
	}
	w.Logf("%s: %+v", name, report)
	w.shell(fmt.Sprintf("%s --install-missing --heapallindexed -h %s -p 5432 -U postgres postgres", w.pg.Bin("pg_amcheck"), pgdata))
	if got := w.ask(pgdata, "select (select count(*) from a), (select count(*) from u)"); got != "20000|0" {
		w.Errorf("%s: %s rows of the logged and of the unlogged table", name, got)
	}
}

// standby makes a pair of the server.
func (w *world) standby(space string) *lab.Postgres {
	w.Helper()
	dir := w.place("standby")
	w.shell(fmt.Sprintf("%s -D %s -R -X stream -c fast -T %s=%s -d '%s'", w.pg.Bin("pg_basebackup"), dir, space, w.place("standby-space"), w.pg.SocketDSN()))
	pg := lab.StartPostgres(w, lab.PGOptions{DataDir: dir})
	lab.Poll(w, time.Minute, "streaming", func() error {
		if pg.Psql("-c", "select status from pg_stat_wal_receiver") != "streaming" {
			return errors.New("not yet")
		}
		return nil
	})
	return pg
}

// streamOf backs up a standby.
func (w *world) streamOf(standby *lab.Postgres) catalog.Manifest {
	w.Helper()
	session, err := server.Connect(w.Context(), standby.DSN())
	if err != nil {
		w.Fatal(err)
	}
	defer session.Close()
	m, err := backup.Take(w.Context(), backup.Source{Server: session, Streamed: true, Member: "two",
		Leader: func(ctx context.Context) (*server.Server, error) { return server.Connect(ctx, w.pg.DSN()) }},
		w.repository(), backup.Options{ID: catalog.ManualID(time.Now()), PackSize: 4 << 20})
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// host is a backup host: another user than the server's, who may log in as distant.
type host struct {
	*world
	config string
	state  string
}

func newHost(w *world) *host {
	w.pg.Exec(`create role distant login password 'far'; grant pg_monitor, pg_checkpoint to distant;
		grant execute on function pg_switch_wal(), pg_create_restore_point(text) to distant`)
	h := &host{world: w, config: w.run.Path("distant.yaml"), state: w.run.Mkdir(lab.UserInfra, 0o700, "distant")}
	h.configure("")
	if out, err := h.command("/bin/ls", w.pg.DataDir).CombinedOutput(); err == nil {
		w.Fatalf("the backup host reads the data directory: %s", out)
	}
	return h
}

func (h *host) configure(more string) {
	h.run.WriteFile(lab.UserInfra, 0o600, fmt.Sprintf(`cluster:
  scope: lab
  member: one
  state_dir: %s
  dsn: host=%s port=%d user=distant password=far dbname=postgres
repositories:
  - name: main
    type: s3
    s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}
%s`, h.state, h.pg.Host, h.pg.Port, h.s3.Endpoint, h.s3.Bucket, h.s3.Region, h.s3.AccessKey, h.s3.SecretKey, more), "distant.yaml")
}

func (h *host) command(argv ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	h.Cleanup(cancel)
	return h.run.Command(ctx, lab.UserInfra, nil, argv...)
}

func (h *host) start() (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	h.Helper()
	cmd, stdout, stderr = h.command(h.binary, "--config", h.config, "backup", "--method", "base-backup", "--format", "json"), new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	return cmd, stdout, stderr
}

// backup insists on an exit code and returns the manifest, if there is one.
func (h *host) backup(code int) (m catalog.Manifest) {
	h.Helper()
	cmd, stdout, stderr := h.start()
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != code {
		h.Fatalf("exit %d, want %d: %s%s", got, code, stdout, stderr)
	}
	if err := json.Unmarshal(stdout.Bytes(), &m); err != nil {
		h.Fatalf("%v in %s", err, stdout)
	}
	return m
}

// refused insists on exit 4 with a hint, and on a repository without any backup.
func (h *host) refused(hint string) {
	h.Helper()
	cmd, _, stderr := h.start()
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 4 || !strings.Contains(stderr.String(), hint) {
		h.Errorf("exit %d, want 4 and %q: %s", cmd.ProcessState.ExitCode(), hint, stderr)
	}
	for key := range h.s3.Keys() {
		if strings.Contains(key, "/backup/") {
			h.Errorf("%s: left %s", hint, key)
		}
	}
}

// occupy takes every WAL sender.
func (h *host) occupy() (leave func()) {
	h.Helper()
	var senders []*pgx.Conn
	for {
		config, err := pgx.ParseConfig(h.pg.SocketDSN() + " replication=database")
		if err != nil {
			h.Fatal(err)
		}
		conn, err := pgx.ConnectConfig(h.Context(), config)
		if err != nil && strings.Contains(err.Error(), "max_wal_senders") {
			return func() {
				for _, sender := range senders {
					_ = sender.Close(h.Context())
				}
				lab.Poll(h, time.Minute, "free WAL senders", func() error {
					if n := h.pg.Psql("-c", "select count(*) from pg_stat_replication"); n != "0" {
						return errors.New(n + " are taken")
					}
					return nil
				})
			}
		}
		if err != nil {
			h.Fatal(err)
		}
		senders = append(senders, conn)
	}
}

// damage: bad pages are stored, listed, and exit 10.
func (h *host) damage() {
	h.Helper()
	var path string
	h.pg.QueryRow("select pg_relation_filepath('a')", &path)
	h.pg.Stop("fast")
	want := []catalog.Damage{{Path: path, Blocks: []uint32{3, 200}}}
	for _, block := range want[0].Blocks {
		f, err := os.OpenFile(filepath.Join(h.pg.DataDir, path), os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("damage"), int64(block)*8192+4000)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			h.Fatal(err)
		}
	}
	h.pg.Start()
	if m := h.backup(10); !reflect.DeepEqual(m.Damage, want) {
		h.Errorf("damage %v, want %v", m.Damage, want)
	}
}

// death: a server that is killed in mid stream leaves no backup behind.
func (h *host) death() {
	h.Helper()
	h.configure("backup: {rate_limit: 1MiB}\n")
	manifests := func() (n int) {
		for key := range h.s3.Keys() {
			if strings.HasSuffix(key, "/manifest.json") {
				n++
			}
		}
		return n
	}
	before := manifests()
	cmd, _, stderr := h.start()
	lab.Poll(h, time.Minute, "the stream", func() error {
		if phase := h.pg.Psql("-c", "select phase, backup_streamed > 2000000 from pg_stat_progress_basebackup"); phase != "streaming database files|t" {
			return errors.New(phase)
		}
		return nil
	})
	h.pg.Kill9()
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 8 || manifests() != before {
		h.Errorf("exit %d, %d backups instead of %d: %s", cmd.ProcessState.ExitCode(), manifests(), before, stderr)
	}
	h.Logf("the server died: %s", stderr)
}
