package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
	"github.com/pgha-backup/pgha-backup/wal"
)

// dropper is a daemon whose host has given up some WAL.
type dropper struct {
	*service
	t     *testing.T
	state string
	store *mem.Bucket
	down  error
	said  bytes.Buffer
}

const segmentSize = 16 << 20

func newDropper(t *testing.T, files ...string) *dropper {
	t.Helper()
	d := &dropper{service: alive(t), t: t, store: mem.New()}
	d.state = d.config.Cluster.StateDir
	d.log = slog.New(slog.NewTextHandler(&d.said, nil))
	bucket := faulty.New(d.store, func(faulty.Call) faulty.Fault { return faulty.Fault{Before: d.down} })
	d.opener = func(id postgres.SystemIdentifier) *catalog.Repository {
		return catalog.New(bucket, catalog.Location{Scope: "main", System: id}, catalog.Options{})
	}
	for i, file := range files {
		d.drop(wal.Drop{File: file, System: system, Size: segmentSize, At: time.Unix(int64(1e9+i), 0), Member: "n1"})
	}
	return d
}

func (d *dropper) drop(drop wal.Drop) {
	d.t.Helper()
	b, _ := json.Marshal(drop)
	dir := wal.DroppedDir(d.state)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, drop.File), b, 0o600)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dropper) left() int {
	entries, _ := os.ReadDir(wal.DroppedDir(d.state))
	return len(entries)
}

// records are the names of gap records in the store.
func (d *dropper) records() (names []string) {
	for object, err := range d.store.List(d.t.Context(), "", "") {
		if err != nil {
			d.t.Fatal(err)
		}
		if _, name, ok := strings.Cut(string(object.Key), "/gap/"); ok {
			names = append(names, name)
		}
	}
	return names
}

func TestBringDropped(t *testing.T) {
	name := func(n int) string { return fmt.Sprintf("0000000100000000%08X", n) }
	d := newDropper(t, name(0xFE), name(0xFE)+".00000028.backup", name(0xFF), "000000010000000100000000", "000000010000000100000002", "000000020000000100000003",
		"000000020000000100000003.partial")
	d.down = errors.New("no answer")
	for range 2 {
		d.bringDropped(t.Context())
	}
	if d.left() != 5 || len(d.records()) > 0 || strings.Count(d.said.String(), "event=archive.unrecorded") != 1 {
		t.Errorf("without a store: %d left, %v\n%s", d.left(), d.records(), &d.said)
	}
	// Another member has stored one of them.
	file, _ := postgres.ParseWALFile("000000010000000100000002")
	if _, err := catalog.New(d.store, catalog.Location{Scope: "main", System: system}, catalog.Options{}).PutWAL(t.Context(), file, make([]byte, segmentSize), nil); err != nil {
		t.Fatal(err)
	}
	d.down = nil
	d.bringDropped(t.Context())
	want := []string{"00000001/0000000100000000000000FE-000000010000000100000000.dropped", "00000002/000000020000000100000003-000000020000000100000003.dropped"}
	if got := d.records(); !slices.Equal(got, want) || d.left() != 0 {
		t.Errorf("%d left, records %v, want %v", d.left(), got, want)
	}
	body, err := d.store.Get(t.Context(), "main/7301234567890123456/gap/00000001/0000000100000000000000FE-000000010000000100000000.dropped", storage.Whole)
	if err != nil {
		t.Fatal(err)
	}
	var g catalog.GapRecord
	if err := json.NewDecoder(body).Decode(&g); err != nil {
		t.Fatal(err)
	}
	if g.By != "n1" || !g.At.Equal(time.Unix(1e9+3, 0)) ||
		g.Reason != "pg_wal was nearly full and the store did not answer" {
		t.Errorf("%+v", g)
	}
	if said := d.said.String(); strings.Count(said, "event=archive.recorded") != 2 {
		t.Error(said)
	}
	select {
	case <-d.again:
	default:
		t.Error("no survey is wanted")
	}
	// A daemon that ended before it forgot says the same again.
	d.drop(wal.Drop{File: "000000020000000100000003", System: system, Size: segmentSize, At: time.Unix(1e9+5, 0), Member: "n1"})
	d.bringDropped(t.Context())
	if d.left() != 0 || len(d.records()) != 2 {
		t.Errorf("again: %d left, %v", d.left(), d.records())
	}
}

// What PostgreSQL has not removed yet is not lost, if it can be stored.
func TestDroppedIsStoredAfterAll(t *testing.T) {
	d := newDropper(t, "000000010000000000000001", "000000010000000000000002", "000000010000000000000003")
	d.config.Cluster.DataDir = t.TempDir()
	dir := filepath.Join(d.config.Cluster.DataDir, "pg_wal")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "000000010000000000000002"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "000000010000000000000003"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var tried []string
	d.hooks.fill = func(_ context.Context, path string) (catalog.PutOutcome, error) {
		if tried = append(tried, filepath.Base(path)); len(tried) == 1 {
			return catalog.Stored, nil
		}
		return "", errors.New("incomplete")
	}
	d.bringDropped(t.Context())
	want := []string{"00000001/000000010000000000000001-000000010000000000000001.dropped", "00000001/000000010000000000000003-000000010000000000000003.dropped"}
	if got := d.records(); !slices.Equal(got, want) || d.left() != 0 || !slices.Equal(tried, []string{"000000010000000000000002", "000000010000000000000003"}) {
		t.Errorf("tried %v, records %v, want %v", tried, got, want)
	}
}

// A history is stored, here or by another member, before it is forgotten.
func TestDroppedHistoryStays(t *testing.T) {
	d := newDropper(t, "00000002.history")
	d.bringDropped(t.Context())
	if said := d.said.String(); d.left() != 1 || !strings.Contains(said, "00000002.history is not stored yet: ") {
		t.Errorf("%d left\n%s", d.left(), said)
	}
	file := postgres.HistoryFile(2)
	if _, err := catalog.New(d.store, catalog.Location{Scope: "main", System: system}, catalog.Options{}).PutWAL(t.Context(), file, []byte("1\t0/3000000\tx\n"), nil); err != nil {
		t.Fatal(err)
	}
	d.bringDropped(t.Context())
	if d.left() != 0 || len(d.records()) > 0 {
		t.Errorf("stored by another: %d left, %v", d.left(), d.records())
	}
	d.drop(wal.Drop{File: "00000003.history", System: system, Size: 20, Member: "n1"})
	d.config.Cluster.DataDir = t.TempDir()
	path := filepath.Join(d.config.Cluster.DataDir, "pg_wal", "00000003.history")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var tried string
	d.hooks.fill = func(_ context.Context, path string) (catalog.PutOutcome, error) {
		tried = path
		return catalog.Stored, nil
	}
	if d.bringDropped(t.Context()); tried != path || d.left() != 0 {
		t.Errorf("tried %q, %d left", tried, d.left())
	}
}

// Whichever call fails, no record goes before the store has it.
func TestBringDroppedFaults(t *testing.T) {
	for n := 1; ; n++ {
		d := newDropper(t, "000000010000000000000001", "000000010000000000000003")
		calls := 0
		bucket := faulty.New(d.store, func(faulty.Call) (f faulty.Fault) {
			if calls++; calls == n {
				f.After = faulty.ErrInjected
			}
			return f
		})
		d.opener = func(id postgres.SystemIdentifier) *catalog.Repository {
			return catalog.New(bucket, catalog.Location{Scope: "main", System: id}, catalog.Options{})
		}
		d.bringDropped(t.Context())
		met := calls >= n
		if len(d.records())+d.left() < 2 {
			t.Fatalf("call %d: %d left, records %v", n, d.left(), d.records())
		}
		d.bringDropped(t.Context())
		if d.left() != 0 || len(d.records()) != 2 {
			t.Fatalf("call %d, again: %d left, records %v", n, d.left(), d.records())
		}
		if !met {
			break
		}
	}
}

// What cannot be read stays and is said; the rest is brought.
func TestBringDroppedUnreadable(t *testing.T) {
	d := newDropper(t, "000000010000000000000001")
	if err := os.WriteFile(filepath.Join(wal.DroppedDir(d.state), "000000010000000000000002"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.bringDropped(t.Context())
	if d.left() != 1 || len(d.records()) != 1 || !strings.Contains(d.said.String(), "event=archive.unrecorded") {
		t.Errorf("%d left, %v\n%s", d.left(), d.records(), &d.said)
	}
}

// New records are an event, once, and shown until the repository knows.
func TestDroppedIsSaid(t *testing.T) {
	d := newDropper(t, "000000010000000000000001", "000000010000000000000002")
	k := &looker{dsn: "host=/nonexistent user=postgres", pgdata: t.TempDir(), state: d.state}
	for range 2 {
		d.lookAtHost(context.Background(), k)
	}
	if said := d.said.String(); strings.Count(said, "event=archive.dropped") != 1 || !strings.Contains(said, "level=ERROR") || !strings.Contains(said, "files=2") {
		t.Error(said)
	}
	if p := d.status(time.Now()).Problems; !slices.Contains(p, "archive: 2 files of WAL given up for want of space, and the repository does not know yet") {
		t.Errorf("%q", p)
	}
}

func BenchmarkFiles(b *testing.B) {
	dir := b.TempDir()
	status := filepath.Join(dir, "pg_wal", "archive_status")
	if err := os.MkdirAll(status, 0o700); err != nil {
		b.Fatal(err)
	}
	for i := range 20_000 {
		name := postgres.SegmentAt(1, postgres.LSN(i)*segmentSize, segmentSize).Name()
		if err := errors.Join(os.WriteFile(filepath.Join(status, name+".ready"), nil, 0o600), os.WriteFile(filepath.Join(dir, "pg_wal", name), nil, 0o600)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		k := &looker{pgdata: dir}
		var l Local
		if k.files(&l, segmentSize, time.Now()); l.Backlog != 20_000 || l.WALBytes != 20_000*segmentSize {
			b.Fatal(l)
		}
	}
}
