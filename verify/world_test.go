package verify_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
	"github.com/pgha-backup/pgha-backup/verify"
)

const (
	size   = postgres.SegmentSize(1 << 20)
	id     = catalog.BackupID("20261121T020000Z-nightly")
	system = postgres.SystemIdentifier(7710483170361142842) // of the sample's server
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// sample is what a real server of version 15 left: see postgres/testdata.
var sample = sync.OnceValues(func() (map[string][]byte, error) {
	f, err := os.Open("../postgres/testdata/pg15.tar.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err == nil {
			all[path.Base(h.Name)], err = io.ReadAll(r)
		}
		if err != nil {
			return nil, err
		}
	}
})

// file is one of a backup; a nil content is a directory.
type file struct {
	path    string
	content []byte
}

// writer writes a repository, and lies where it is told to: hashes and sizes always
// agree with what it stored.
type writer struct {
	*testing.T
	bucket storage.Bucket
	*catalog.Repository
	files    []file
	manifest catalog.Manifest
	wal      map[string][]byte
	// facts, index and listed change what is said of what was stored.
	facts  func(name string, f *postgres.SegmentFacts)
	index  func(*catalog.Index)
	listed func([]postgres.ManifestFile) []postgres.ManifestFile
	ranges []postgres.WALRange
}

const relation = "base/5/16385"

// newWriter is one that has nothing to lie about: a backup of a server with a
// tablespace map, and the segments of both timelines whose last digit is in wal; with
// E comes the second timeline's history.
func newWriter(t *testing.T, wal string) *writer {
	t.Helper()
	s, err := sample()
	if err != nil {
		t.Fatal(err)
	}
	s = maps.Clone(s)
	for name := range s {
		s[name] = bytes.Clone(s[name]) // to be lied about
	}
	w := &writer{T: t, bucket: mem.New(), wal: map[string][]byte{}, facts: func(string, *postgres.SegmentFacts) {}, index: func(*catalog.Index) {},
		listed: func(f []postgres.ManifestFile) []postgres.ManifestFile { return f }}
	w.Repository = catalog.New(w.bucket, catalog.Location{Scope: "main", System: system}, catalog.Options{})
	for name, content := range s {
		if _, err := postgres.ParseWALFile(name); err == nil && strings.Contains(wal, name[len(name)-1:]) || name == "00000002.history" && strings.Contains(wal, "E") {
			w.wal[name] = content
		}
	}
	w.wal["00000001000000000000000C.00000028.backup"] = s["backup_label"]
	spaces, err := postgres.ParseTablespaceMap(string(s["tablespace_map"]))
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := postgres.LSN(0xC00060)
	w.files = []file{{"base", nil}, {"base/5", nil}, {"PG_VERSION", []byte("15\n")}, {relation, s["pg_class.relation"]},
		{relation + "_fsm", make([]byte, 3*postgres.PageSize)}, {"empty", []byte{}},
		{"backup_label", s["backup_label"]}, {"tablespace_map", s["tablespace_map"]}, {"global/pg_control", controlAt(s["pg_control"], 1, checkpoint, 0xC00028)}}
	c, err := postgres.ParseControlData(s["pg_control"])
	if err != nil {
		t.Fatal(err)
	}
	w.manifest = catalog.Manifest{Type: catalog.Full, Member: "pg1", Role: "primary", Source: "file-copy", Version: 150018, SegmentSize: size,
		Timeline: 1, StopTLI: 1, StartLSN: 0xC00028, Checkpoint: checkpoint, StopLSN: 0xC00100, StartTime: noon, StopTime: noon.Add(time.Minute), Tablespaces: spaces,
		Settings: catalog.Settings{DataChecksumVersion: 1, BlockSize: 8192, RelationSegmentSize: 131072, CatalogVersion: int(c.CatalogVersion)}}
	w.ranges = []postgres.WALRange{{Timeline: 1, Start: 0xC00028, End: 0xC00100}}
	return w
}

// controlAt is pg_control with another checkpoint.
func controlAt(content []byte, tli uint32, checkpoint, redo postgres.LSN) []byte {
	c := bytes.Clone(content)
	le := binary.LittleEndian
	le.PutUint64(c[32:], uint64(checkpoint))
	le.PutUint64(c[40:], uint64(redo))
	le.PutUint32(c[48:], tli)
	return resum(c)
}

func resum(c []byte) []byte {
	binary.LittleEndian.PutUint32(c[288:], postgres.CRC32C(c[:288]))
	return c
}

// content is that of one of the files, to be changed.
func (w *writer) content(path string) *[]byte {
	w.Helper()
	i := slices.IndexFunc(w.files, func(f file) bool { return f.path == path })
	if i < 0 {
		w.Fatalf("no file %s", path)
	}
	w.files[i].content = bytes.Clone(w.files[i].content)
	return &w.files[i].content
}

func (w *writer) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// write stores it all.
func (w *writer) write() {
	w.Helper()
	ctx := w.Context()
	_, err := w.Create(ctx, size, "required", noon)
	w.must(err)
	for name, content := range w.wal {
		f, err := postgres.ParseWALFile(name)
		w.must(err)
		var facts *postgres.SegmentFacts
		if f.Kind == postgres.WALSegment {
			found, _ := postgres.ScanSegment(f, content)
			w.facts(name, &found)
			facts = &found
		}
		_, err = w.PutWAL(ctx, f, content, facts)
		w.must(err)
	}
	run, err := w.StartRun(ctx, catalog.Started{ID: id, Timeline: 1, StartLSN: w.manifest.StartLSN, At: noon})
	w.must(err)
	var index catalog.Index
	last := slices.IndexFunc(w.files, func(f file) bool { return f.path == "backup_label" })
	for i, files := range [][]file{w.files[:last], w.files[last:]} {
		pack, err := run.NewPack(ctx, catalog.PackName(0, i+1))
		w.must(err)
		for _, f := range files {
			e := catalog.Entry{Path: f.path, Size: int64(len(f.content)), Mode: 0o600, Modified: noon}
			if f.content == nil {
				w.must(pack.Directory(e))
				continue
			}
			w.must(pack.Begin(e))
			_, err := pack.Write(f.content)
			w.must(err)
			_, err = pack.End()
			w.must(err)
		}
		contents, info, err := pack.Close()
		w.must(err)
		index.Packs, w.manifest.Packs = append(index.Packs, contents), append(w.manifest.Packs, info)
	}
	var listed []postgres.ManifestFile
	files, total := 0, int64(0)
	for _, pack := range index.Packs {
		for _, e := range pack.Entries {
			if e.Kind == catalog.File {
				listed = append(listed, postgres.ManifestFile{Path: e.Path, Size: e.Size, Modified: e.Modified, CRC32C: e.CRC32C})
				files, total = files+1, total+e.Size
			}
		}
	}
	w.manifest.Files, w.manifest.Bytes = w.manifest.Files+files, w.manifest.Bytes+total // a lie may stand there already
	w.index(&index)
	var text bytes.Buffer
	w.must(postgres.WriteBackupManifest(&text, w.manifest.Version, system, slices.Values(w.listed(listed)), w.ranges))
	w.manifest, err = run.Commit(ctx, w.manifest, index, text.Bytes())
	w.must(err)
}

// look looks at everything, as the command does.
func (w *writer) look(level verify.Level) (*verify.Verifier, error) {
	w.Helper()
	return look(w, w.Repository, level)
}

func look(t testing.TB, r *catalog.Repository, level verify.Level) (*verify.Verifier, error) {
	t.Helper()
	survey, err := r.Survey(t.Context())
	if err != nil {
		return nil, err
	}
	v := &verify.Verifier{Repository: r, Archive: survey.Archive, Level: level, WholeArchive: true}
	for _, b := range survey.Backups {
		if err := v.Backup(t.Context(), b.Manifest); err != nil {
			return nil, err
		}
	}
	if err := v.WAL(t.Context()); err != nil {
		return nil, err
	}
	if level == verify.Full {
		err = v.Documents(t.Context(), "")
	}
	return v, err
}

// findings looks and fails on trouble.
func (w *writer) findings(level verify.Level) []catalog.Finding {
	w.Helper()
	v, err := w.look(level)
	w.must(err)
	found, _ := v.Found()
	return found
}

// put replaces an object, or creates one.
func (w *writer) put(key string, body []byte) {
	w.Helper()
	w.must(w.bucket.Put(w.Context(), storage.Key(key), body, storage.PutOptions{}))
}

func (w *writer) get(key string) []byte {
	w.Helper()
	body, err := storage.ReadAll(w.Context(), w.bucket, storage.Key(key), 1<<30)
	w.must(err)
	return body
}

func (w *writer) key(suffix string) string {
	w.Helper()
	for object, err := range w.bucket.List(w.Context(), storage.Key(w.Root()), "") {
		w.must(err)
		if strings.HasSuffix(string(object.Key), suffix) {
			return string(object.Key)
		}
	}
	w.Fatalf("no object %s", suffix)
	return ""
}
