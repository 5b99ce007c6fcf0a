package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/file"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is when every command of the tests runs.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const (
	system = postgres.SystemIdentifier(7301234567890123456)
	size   = postgres.DefaultSegmentSize
)

// host is a database host with a repository in a directory.
type host struct {
	t          *testing.T
	dir        string
	repository string
	config     string
	uid        int
}

func newHost(t *testing.T) *host {
	dir := t.TempDir()
	h := &host{t: t, dir: dir, repository: filepath.Join(dir, "repository"), config: filepath.Join(dir, "config.yaml"), uid: 1000}
	if err := os.Mkdir(h.repository, 0o700); err != nil {
		t.Fatal(err)
	}
	h.write("config.yaml", fmt.Sprintf("cluster: {scope: main, state_dir: %s/state}\nrepositories: [{name: nas, type: file, file: {path: %s}}]\n", dir, h.repository))
	return h
}

func (h *host) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// run executes one command line in this process.
func (h *host) run(args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	a := newApp(&out, &errs)
	a.uid, a.now = h.uid, func() time.Time { return noon }
	code = run(h.t.Context(), a, append([]string{"--config", h.config}, args...))
	return code, out.String(), errs.String()
}

func (h *host) catalog(id postgres.SystemIdentifier) *catalog.Repository {
	return catalog.New(file.New(h.repository), catalog.Location{Scope: "main", System: id}, catalog.Options{})
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// archive stores segments first to last; a commit happens in each, a second after the other.
func (h *host) archive(tli postgres.TimelineID, first, last uint64) {
	h.t.Helper()
	for n := first; n <= last; n++ {
		f := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.SegmentAt(tli, postgres.LSN(n*uint64(size)), size)}
		facts := &postgres.SegmentFacts{MaxTime: noon.Add(-time.Hour + time.Duration(n)*time.Second)}
		_, err := h.catalog(system).PutWAL(h.t.Context(), f, fmt.Appendf(nil, "timeline %d segment %d", tli, n), facts)
		h.must(err)
	}
}

func (h *host) history(tli postgres.TimelineID, text string) {
	h.t.Helper()
	_, err := h.catalog(system).PutWAL(h.t.Context(), postgres.HistoryFile(tli), []byte(text), nil)
	h.must(err)
}

// backup stores one from the middle of segment start to the middle of segment stop.
func (h *host) backup(id catalog.BackupID, start, stop uint64, damage ...catalog.Damage) {
	h.t.Helper()
	ctx := h.t.Context()
	run, err := h.catalog(system).StartRun(ctx, catalog.Started{ID: id, Timeline: 1})
	h.must(err)
	pack, err := run.NewPack(ctx, catalog.PackName(0, 1))
	h.must(err)
	h.must(pack.Begin(catalog.Entry{Path: "PG_VERSION", Size: 3, Mode: 0o600, Modified: noon}))
	_, err = pack.Write([]byte("15\n"))
	h.must(err)
	_, err = pack.End()
	h.must(err)
	contents, info, err := pack.Close()
	h.must(err)
	at := func(n uint64) postgres.LSN { return postgres.LSN(n*uint64(size) + uint64(size)/2) }
	_, err = run.Commit(ctx, catalog.Manifest{Type: catalog.Full, Member: "pg1", Role: "primary", Source: "file-copy", Tool: "0.1.0",
		Version: 150018, SegmentSize: size, Timeline: 1, StopTLI: 1, StartLSN: at(start), Checkpoint: at(start), StopLSN: at(stop),
		StartTime: id.Time(), StopTime: id.Time().Add(90 * time.Second), Files: 1, Bytes: 812 << 30, Packs: []catalog.PackInfo{info}, Damage: damage},
		catalog.Index{Packs: []catalog.Pack{contents}}, []byte("{}"))
	h.must(err)
}

// stock makes the repository of most tests: a failover, three backups, one gap.
func (h *host) stock() {
	h.t.Helper()
	_, err := h.catalog(system).Create(h.t.Context(), size, "required", noon)
	h.must(err)
	h.archive(1, 1, 4)
	h.archive(1, 6, 9)
	h.history(2, "1\t0/A800000\tno recovery target specified\n")
	h.archive(2, 10, 12)
	h.backup("20261120T020000Z-nightly", 2, 3)
	h.backup("20261121T020000Z-nightly", 7, 8)
	h.backup("20261121T090000Z-manual-1f0a", 8, 9, catalog.Damage{Path: "base/5/16384", Blocks: []uint32{7, 8}})
	h.settle()
}

// settle makes every object five minutes old.
func (h *host) settle() {
	h.t.Helper()
	h.must(filepath.WalkDir(h.repository, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, noon, noon.Add(-5*time.Minute)))
	}))
}

// object finds the path of the only object whose name ends so.
func (h *host) object(suffix string) string {
	h.t.Helper()
	found := ""
	h.must(filepath.WalkDir(h.repository, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, suffix) {
			found = path
		}
		return err
	}))
	if found == "" {
		h.t.Fatalf("no object %s", suffix)
	}
	return found
}

var (
	runName = regexp.MustCompile(`Z-([a-z0-9-]+)/[0-9a-f]{8}/`)
	random  = regexp.MustCompile(`"(run|sha256|stored_crc32c)": "[0-9a-f]+"`)
	// The index holds the run's random name, so its compressed size varies a little.
	indexSize = regexp.MustCompile(`\b(?:1[89]|[23][0-9])[0-9]( B|,\n|\n)`)
)

// golden compares an output with testdata/<name>.
func (h *host) golden(name, got string) {
	h.t.Helper()
	got = strings.ReplaceAll(got, h.dir, "/DIR")
	got = runName.ReplaceAllString(got, "Z-$1/RUN/")
	got = random.ReplaceAllString(got, `"$1": "RANDOM"`)
	got = indexSize.ReplaceAllString(got, "30x$1")
	path := filepath.Join("testdata", name)
	if *update {
		h.must(os.MkdirAll("testdata", 0o755))
		h.must(os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	h.must(err)
	if got != string(want) {
		h.t.Errorf("%s differs:\n--- got\n%s--- want\n%s", name, got, want)
	}
}

func postgresSystem(id uint64) postgres.SystemIdentifier { return postgres.SystemIdentifier(id) }

// runNow is run by the real clock.
func (h *host) runNow(args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	a := newApp(&out, &errs)
	a.uid = h.uid
	code = run(h.t.Context(), a, append([]string{"--config", h.config}, args...))
	return code, out.String(), errs.String()
}
