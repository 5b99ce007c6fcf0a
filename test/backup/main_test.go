// Package backup_test takes base backups of real servers into a real S3 store and
// restores them by hand, with tar and zstd, as a person without this program would.
package backup_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/verify"
)

// The test program is also the archive_command of its servers, so that WAL goes
// through the catalog and nothing else.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "push" {
		if err := push(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "push:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(lab.Main(m))
}

func bucketOf(getenv func(string) string) (storage.Bucket, error) {
	if dir := getenv("TEST_DIR"); dir != "" {
		return file.New(dir), nil
	}
	return s3.New(s3.Options{Endpoint: getenv("TEST_ENDPOINT"), Bucket: getenv("TEST_BUCKET"), Region: "us-east-1", Style: s3.Path,
		AccessKey: getenv("TEST_KEY"), SecretKey: getenv("TEST_SECRET")})
}

func push(path string) error {
	bucket, err := bucketOf(os.Getenv)
	if err != nil {
		return err
	}
	content, err := os.ReadFile("global/pg_control")
	if err != nil {
		return err
	}
	control, err := postgres.ParseControlData(content)
	if err != nil {
		return err
	}
	wal, err := postgres.ParseWALFile(filepath.Base(path))
	if err != nil {
		return err
	}
	plain, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var facts *postgres.SegmentFacts
	if wal.Kind == postgres.WALSegment {
		found, err := postgres.ScanSegment(wal, plain)
		if err != nil {
			fmt.Fprintln(os.Stderr, "scan:", err)
		}
		facts = &found
	}
	repository := catalog.New(bucket, catalog.Location{Scope: "test", System: control.System}, catalog.Options{})
	_, err = repository.PutWAL(context.Background(), wal, plain, facts)
	return err
}

// world is a server that archives into a store.
type world struct {
	t      *testing.T
	run    *lab.Run
	pg     *lab.Postgres
	bucket storage.Bucket
	env    []string
	pusher string
	// streamed backups come over the replication protocol, files are not looked at.
	streamed bool
}

func newWorld(t *testing.T, o lab.PGOptions, local bool) *world {
	t.Helper()
	w := &world{t: t, run: lab.RunOf(t)}
	if local {
		w.env = []string{"TEST_DIR=" + w.run.Mkdir(lab.User1, 0o755, "store")}
	} else {
		s := lab.StartS3(t, lab.S3Options{})
		w.env = []string{"TEST_ENDPOINT=" + s.Endpoint, "TEST_BUCKET=" + s.Bucket, "TEST_KEY=" + s.AccessKey, "TEST_SECRET=" + s.SecretKey}
	}
	bucket, err := bucketOf(func(name string) string {
		for _, line := range w.env {
			if value, ok := strings.CutPrefix(line, name+"="); ok {
				return value
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	w.bucket = bucket
	w.run.Mkdir("root", 0o755, "programs")
	w.pusher = w.run.Path("programs", "archiver")
	copyFile(t, "/proc/self/exe", w.pusher, 0o755)
	conf := map[string]string{"archive_mode": "on", "archive_command": w.pusher + " push %p", "fsync": "off",
		"shared_buffers": "64MB", "max_wal_size": "1GB", "autovacuum": "off"}
	for k, v := range o.Conf {
		conf[k] = v
	}
	o.Conf, o.Env = conf, append(o.Env, w.env...)
	w.pg = lab.StartPostgres(t, o)
	if local { // the server's user makes the directories: we are root, and would lock it out
		w.pg.Exec("select pg_switch_wal()")
		lab.Poll(t, time.Minute, "the first segment in the store", func() error {
			if w.pg.Psql("-c", "select archived_count > 0 from pg_stat_archiver") != "t" {
				return fmt.Errorf("nothing archived")
			}
			return nil
		})
	}
	return w
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) repository(options catalog.Options) *catalog.Repository {
	w.t.Helper()
	var system int64
	w.pg.QueryRow("select system_identifier from pg_control_system()", &system)
	return catalog.New(w.bucket, catalog.Location{Scope: "test", System: postgres.SystemIdentifier(system)}, options)
}

// take takes a backup and logs what it warned of.
func (w *world) take(name codec.Name, o backup.Options) (catalog.Manifest, *catalog.Repository, error) {
	w.t.Helper()
	m, repository, err := w.attempt(name, o)
	if err == nil {
		w.sound(repository, m)
	}
	return m, repository, err
}

// attempt does not look at what it took.
func (w *world) attempt(name codec.Name, o backup.Options) (catalog.Manifest, *catalog.Repository, error) {
	w.t.Helper()
	ctx := w.t.Context()
	s, err := server.Connect(ctx, w.pg.SocketDSN())
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	repository := w.repository(catalog.Options{Codec: name})
	if o.ID == "" {
		o.ID = catalog.ManualID(time.Now())
	}
	warning := o.Events.Warning
	o.Events.Warning = func(text string) {
		w.t.Log("warning: ", text)
		if warning != nil {
			warning(text)
		}
	}
	m, err := backup.Take(ctx, backup.Source{Server: s, Streamed: w.streamed, PGDATA: w.pg.DataDir, Member: "one"}, repository, o)
	return m, repository, err
}

// sound looks at a backup as hard as we can.
func (w *world) sound(r *catalog.Repository, m catalog.Manifest) {
	w.t.Helper()
	a, err := r.Archive(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	v := &verify.Verifier{Repository: r, Archive: a, Level: verify.Full}
	err = v.Backup(w.t.Context(), m)
	if found, counts := v.Found(); err != nil || len(found) > 0 || counts.Files != int64(m.Files) {
		w.t.Errorf("verify: %+v, %+v, %v", found, counts, err)
	}
}

// restoreByHand unpacks a backup with the tools of any system and returns the
// data directory. Tablespaces go beside it.
func (w *world) restoreByHand(m catalog.Manifest, repository *catalog.Repository) string {
	w.t.Helper()
	to := w.run.Mkdir(lab.User1, 0o700, fmt.Sprintf("restored-%s", m.Run))
	places := map[string]string{"base": to}
	var spcmap strings.Builder
	for _, ts := range m.Tablespaces {
		oid := fmt.Sprint(ts.OID)
		places[oid] = w.run.Mkdir(lab.User1, 0o700, fmt.Sprintf("restored-%s-%s", m.Run, oid))
		fmt.Fprintf(&spcmap, "%s %s\n", oid, places[oid])
	}
	decode := map[codec.Name]string{codec.Zstd: "zstd -dc", codec.None: "cat"}[m.Codec]
	for _, pack := range m.Packs {
		volume, _, _ := strings.Cut(pack.Name, "-")
		key := storage.Key(fmt.Sprintf("%s/backup/%s/%s/%s", repository.Root(), m.ID, m.Run, pack.Name))
		stored := w.run.Path("pack")
		w.download(key, stored)
		if decode == "" { // s2: no system has a tool for it
			w.decodeS2(stored)
			w.shell("tar -x -C " + places[volume] + " -f " + stored)
		} else {
			w.shell(decode + " " + stored + " | tar -x -C " + places[volume])
		}
	}
	b, err := repository.Open(w.t.Context(), m)
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := b.BackupManifest(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for name, content := range map[string]string{"backup_manifest": string(text), "tablespace_map": spcmap.String(), "recovery.signal": ""} {
		if content == "" && name == "tablespace_map" {
			continue
		}
		if err := os.WriteFile(filepath.Join(to, name), []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, ts := range m.Tablespaces {
		if err := os.Symlink(places[fmt.Sprint(ts.OID)], filepath.Join(to, "pg_tblspc", fmt.Sprint(ts.OID))); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, place := range places {
		w.shell("chown -R " + lab.User1 + ": " + place)
	}
	return to
}

func (w *world) shell(line string) string { return w.run.Must("root", "sh", "-ec", line) }

func (w *world) download(key storage.Key, to string) {
	w.t.Helper()
	body, err := w.bucket.Get(w.t.Context(), key, storage.Whole)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	out, err := os.Create(to)
	if err == nil {
		_, err = io.Copy(out, body)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) decodeS2(path string) {
	w.t.Helper()
	stored, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	plain, err := codec.NewReader(codec.S2, bytes.NewReader(stored))
	if err != nil {
		w.t.Fatal(err)
	}
	content, err := io.ReadAll(plain)
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// fetchWAL brings every stored WAL file of the timeline into a directory, for
// pg_verifybackup and for restore_command.
func (w *world) fetchWAL(repository *catalog.Repository) string {
	w.t.Helper()
	dir := w.run.Mkdir(lab.User1, 0o755, "wal")
	for entry, err := range repository.ListWAL(w.t.Context(), 1, postgres.WALFile{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		var content bytes.Buffer
		if _, err := repository.GetWAL(w.t.Context(), entry.File, &content); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, entry.File.String()), content.Bytes(), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// verify judges a restored directory by PostgreSQL's own tool, its WAL included.
// Only tablespace_map was changed, to the places of the copy.
func (w *world) verify(dir, wal string) {
	w.t.Helper()
	w.run.Must(lab.User1, w.pg.Bin("pg_verifybackup"), "-w", wal, "-e", "-i", "tablespace_map", dir)
}

// recover starts a restored directory and waits until it is open for writing.
func (w *world) recover(dir, wal string) *lab.Postgres {
	w.t.Helper()
	conf := "archive_mode = off\nrestore_command = 'cp " + wal + "/%f %p'\nhot_standby = on\n"
	f, err := os.OpenFile(filepath.Join(dir, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(conf)
		_ = f.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	pg := lab.StartPostgres(w.t, lab.PGOptions{Major: w.pg.Major, DataDir: dir})
	lab.Poll(w.t, time.Minute, "end of recovery", func() error {
		if pg.Psql("-c", "select pg_is_in_recovery()") != "f" {
			return fmt.Errorf("in recovery")
		}
		return nil
	})
	return pg
}
