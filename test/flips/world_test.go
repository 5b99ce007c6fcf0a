// Package flips_test flips single bits in every kind of object of a real repository:
// each must be found by verify at level full.
package flips_test

import (
	"bytes"
	"fmt"
	"io/fs"
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
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/verify"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is the repository of a server that has gone.
type world struct {
	*testing.T
	dir     string
	at      catalog.Location
	objects map[string][]string // paths by kind
}

// open is the repository as somebody sees it who has not seen it before.
func (w *world) open(name codec.Name) *catalog.Repository {
	return catalog.New(file.New(w.dir), w.at, catalog.Options{Codec: name, Author: "one"})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// newWorld makes a repository with every kind of object: a backup in zstd and one in
// s2, with a tablespace, WAL of two timelines in both, and all kinds of documents.
func newWorld(t *testing.T) *world {
	t.Helper()
	run := lab.RunOf(t)
	w := &world{T: t, dir: run.Mkdir(lab.User1, 0o700, "repository")}
	pg := lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, NoStart: true})
	binary, config := run.Build("pgha-backup"), run.Path("pgha.yaml")
	write := func(name codec.Name) {
		run.WriteFile(lab.User1, 0o600, fmt.Sprintf("cluster: {scope: lab, member: one, state_dir: %s}\nrepositories:\n  - {name: nas, type: file, file: {path: %s}, codec: %s}\n",
			run.Path("state"), w.dir, name), "pgha.yaml")
	}
	write(codec.Zstd)
	pg.Configure(map[string]string{"archive_mode": "on", "archive_command": binary + " --config " + config + " archive-push %p",
		"min_wal_size": "2MB", "max_wal_size": "8MB", "autovacuum": "off", "wal_level": "replica", "hot_standby": "on", "fsync": "off"})
	pg.Start()
	var system int64
	pg.QueryRow("select system_identifier from pg_control_system()", &system)
	w.at = catalog.Location{Scope: "lab", System: postgres.SystemIdentifier(system)}
	archived := func() {
		var last string
		pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &last)
		lab.Poll(t, time.Minute, last+" in the archive", func() error {
			found, err := filepath.Glob(filepath.Join(w.dir, "lab/*/wal/*/*", last))
			if err == nil && len(found) == 0 {
				err = fmt.Errorf("it is not there")
			}
			return err
		})
	}
	take := func(name codec.Name) {
		session, err := server.Connect(t.Context(), pg.SocketDSN())
		w.must(err)
		defer session.Close()
		_, err = backup.Take(t.Context(), backup.Source{Server: session, PGDATA: pg.DataDir, Member: "one", Reason: "a test asked for it"}, w.open(name),
			backup.Options{ID: catalog.ManualID(time.Now()), PackSize: 2 << 20, Comment: "in " + string(name)})
		w.must(err)
	}
	archived() // the server's user makes the directories: we are root
	pg.Exec("create tablespace aside location '" + run.Mkdir(lab.User1, 0o700, "aside") + "'")
	pg.Exec("create table t tablespace aside as select g, md5(g::text) as v from generate_series(1, 5000) g; select pg_create_restore_point('here')")
	take(codec.Zstd)
	write(codec.S2)
	pg.Exec("update t set v = v || g; select pg_create_restore_point('there')")
	take(codec.S2)
	pg.Stop("fast")
	w.must(os.WriteFile(filepath.Join(pg.DataDir, "standby.signal"), nil, 0o644))
	pg.Start()
	pg.Exec("select pg_promote()")
	pg.Exec("insert into t values (1, 'on the second timeline')")
	archived()
	pg.Stop("fast")
	w.documents()
	w.sort()
	return w
}

// documents adds what a long life leaves.
func (w *world) documents() {
	w.Helper()
	ctx, r, now := w.Context(), w.open(codec.S2), time.Now().UTC().Truncate(time.Second)
	s, err := r.Survey(ctx)
	w.must(err)
	w.must(r.Hold(ctx, catalog.Hold{Backup: s.Backups[0].Manifest.ID, Name: "court", Reason: "ticket 4711", By: "me", At: now, Until: now.Add(time.Hour)}))
	w.must(r.ReportMissed(ctx, catalog.Missed{Backup: "20261120T020000Z-nightly", Reason: "nobody led the cluster", By: "one", At: now}))
	w.must(r.Expire(ctx, "20200101T000000Z-old", catalog.Expired{At: now, Reason: "keep 7", By: "one"}))
	w.must(r.BeginRemoval(ctx, "20200101T000000Z-old", catalog.Removal{At: now, By: "one", Run: "0123abcd"}))
	all := s.Archive.Timelines[0].Ranges[0]
	before := postgres.SegmentAt(1, 0, s.Archive.SegmentSize)
	for _, state := range []catalog.GapState{catalog.GapLost, catalog.GapAccepted} {
		_, err = r.RecordGap(ctx, catalog.GapRecord{First: before, Last: before, At: now, By: "one", Reason: "every member was asked", Next: now}, state)
		w.must(err)
	}
	w.must(r.RecordExpired(ctx, s.Archive, func(s postgres.Segment) bool { return s == all.First.Next(1<<20) }, now))
	for n, segment := range []postgres.Segment{all.First, all.First.Next(1 << 20)} {
		f := postgres.WALFile{Kind: postgres.WALSegment, Segment: segment}
		var plain bytes.Buffer
		_, err := r.GetWAL(ctx, f, &plain)
		w.must(err)
		plain.Bytes()[70] ^= 1 // in its first record
		facts, err := postgres.ScanSegment(f, plain.Bytes())
		w.must(err)
		if _, err = r.PutWAL(ctx, f, plain.Bytes(), &facts); err == nil {
			w.Fatalf("%s is no conflict", f)
		}
		if n == 1 { // the stored one counts
			c, err := r.Conflicting(ctx, f.String())
			w.must(err)
			_, err = r.Resolve(ctx, c[0], catalog.Resolution{SHA256: c[0].Contents[0].SHA256, By: "me", Reason: "the other server was a copy", At: now})
			w.must(err)
		}
	}
}

// sort puts every object under its kind.
func (w *world) sort() {
	w.Helper()
	w.objects = map[string][]string{}
	w.must(filepath.WalkDir(filepath.Join(w.dir, "lab"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			kind := w.kind(path)
			w.objects[kind] = append(w.objects[kind], path)
		}
		return err
	}))
	for _, kind := range []string{"repository.json", "manifest.json", "started", "pack zstd", "pack s2", "index", "backup_manifest", "expired.json", "removal.json",
		"hold", "gap", "missed", "resolved", "conflict", "segment zstd", "segment s2", "partial", "history", "backup history"} {
		if len(w.objects[kind]) == 0 {
			w.Errorf("the repository has no %s", kind)
		}
	}
}

func (w *world) kind(path string) string {
	head, err := os.ReadFile(path)
	w.must(err)
	parts, name := strings.Split(path, string(filepath.Separator)), filepath.Base(path)
	has := func(dir string) bool { return strings.Contains(path, "/"+dir+"/") }
	wal, err := postgres.ParseWALFile(name)
	switch {
	case err == nil && wal.Kind == postgres.WALSegment:
		return "segment " + string(codec.Detect(head))
	case err == nil:
		return wal.Kind.String()
	case strings.HasSuffix(name, ".tar"):
		return "pack " + string(codec.Detect(head))
	case has("conflict") && name != "resolved":
		return "conflict"
	case has("gap"), has("hold"), has("missed"):
		for _, dir := range []string{"gap", "hold", "missed"} {
			if has(dir) {
				return dir
			}
		}
	}
	return parts[len(parts)-1]
}

// whole is the whole of verify --level full.
func (w *world) whole() ([]catalog.Finding, error) {
	r := w.open(codec.Zstd)
	s, err := r.Survey(w.Context())
	if err != nil {
		return nil, err
	}
	v := &verify.Verifier{Repository: r, Archive: s.Archive, Level: verify.Full, WholeArchive: true}
	for _, b := range s.Backups {
		if err := v.Backup(w.Context(), b.Manifest); err != nil {
			return nil, err
		}
	}
	if err := v.Documents(w.Context(), ""); err != nil {
		return nil, err
	}
	err = v.WAL(w.Context())
	found, _ := v.Found()
	return found, err
}
