package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const system postgres.SystemIdentifier = 7301234567890123456

// stocked is a repository with WAL 1 to 4 of timeline 1, 5 of timeline 2, and one backup.
func stocked(t *testing.T, bucket storage.Bucket) (*Repository, Manifest) {
	t.Helper()
	ctx := t.Context()
	r := New(bucket, Location{Scope: "main", System: system}, Options{})
	now := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	if _, err := r.Create(ctx, size, "required", now); err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 5; n++ {
		tli := postgres.TimelineID(1 + n/5)
		file := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.SegmentAt(tli, number(n), size)}
		if _, err := r.PutWAL(ctx, file, []byte(fmt.Sprint("content of ", n)), &postgres.SegmentFacts{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PutWAL(ctx, postgres.HistoryFile(2), []byte("1\t0/5800000\twhy\n"), nil); err != nil {
		t.Fatal(err)
	}
	run, err := r.StartRun(ctx, Started{ID: "20261121T020000Z-nightly", Timeline: 1, StartLSN: number(2)})
	if err != nil {
		t.Fatal(err)
	}
	pack, err := run.NewPack(ctx, PackName(0, 1))
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("page"), 600_000)
	if err := pack.Begin(Entry{Path: "base/1/1", Size: int64(len(data)), Mode: 0o600, Modified: now}); err != nil {
		t.Fatal(err)
	}
	_, err = pack.Write(data)
	_, err2 := pack.End()
	p, info, err3 := pack.Close()
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	m, err := run.Commit(ctx, Manifest{Type: Full, Member: "pg1", Role: "primary", Version: 150018, SegmentSize: size, Timeline: 1, StopTLI: 1,
		StartLSN: number(2) + 40, StopLSN: number(4) - 5, StartTime: now, StopTime: now.Add(time.Minute), Packs: []PackInfo{info}},
		Index{Packs: []Pack{p}}, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return r, m
}

// spoil replaces or, with a nil change, removes the object.
func spoil(t *testing.T, b storage.Bucket, key storage.Key, change func([]byte) []byte) {
	t.Helper()
	body, err := storage.ReadAll(t.Context(), b, key, 1<<30)
	if err == nil {
		err = b.Delete(t.Context(), key)
	}
	if err == nil && change != nil {
		err = b.Put(t.Context(), key, change(body), storage.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestConflicts(t *testing.T) {
	bucket := mem.New()
	r, _ := stocked(t, bucket)
	file := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.SegmentAt(1, number(3), size)}
	_, err := r.PutWAL(t.Context(), file, []byte("something else"), &postgres.SegmentFacts{})
	conflict, ok := errors.AsType[*ConflictError](err)
	if !ok {
		t.Fatal(err)
	}
	if open, _, err := r.Conflicts(t.Context()); err != nil || !slices.Equal(open, []string{file.String()}) {
		t.Fatal(open, err)
	}
	if err := r.createDocument(t.Context(), r.keys.resolved(file), Resolution{Format: Format, SHA256: conflict.Ours.SHA256}); err != nil {
		t.Fatal(err)
	}
	again := New(bucket, r.Location(), Options{})
	if open, _, err := again.Conflicts(t.Context()); err != nil || len(open) != 0 {
		t.Fatal(open, err)
	}
}

// A store that gives trouble makes nothing unreadable: whichever call fails, the
// survey does.
func TestSurveyOfATroubledStore(t *testing.T) {
	inner := mem.New()
	r, _ := stocked(t, inner)
	for n := 1; ; n++ {
		bucket := faulty.New(inner, faulty.Nth(n, faulty.ErrInjected))
		s, err := New(bucket, r.Location(), Options{}).Survey(t.Context())
		if len(bucket.Calls()) < n {
			break
		}
		if !errors.Is(err, faulty.ErrInjected) || n > 100 {
			t.Fatalf("call %d failed: %v, unreadable %v", n, err, s.Unreadable)
		}
	}
}

// repository.json alone takes nothing away: the newest manifest says what is needed of it.
func TestDamagedRepositoryDocument(t *testing.T) {
	bucket := mem.New()
	r, _ := stocked(t, bucket)
	before, err := r.Survey(t.Context())
	if err != nil || len(before.Backups) == 0 {
		t.Fatal(err, len(before.Backups))
	}
	key := r.keys.repository()
	if err := bucket.Put(t.Context(), key, []byte("{}"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := r.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Unreadable) != len(before.Unreadable)+1 || s.Unreadable[len(before.Unreadable)].Object != string(key) {
		t.Errorf("unreadable: %v", s.Unreadable)
	}
	if len(s.Backups) != len(before.Backups) || s.Archive.SegmentSize != before.Archive.SegmentSize || len(s.Windows) != len(before.Windows) {
		t.Errorf("%+v, before %+v", s, before)
	}
	alone := New(mem.New(), r.Location(), Options{})
	if err := alone.bucket.Put(t.Context(), key, []byte("{}"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := alone.Survey(t.Context()); !InfoDamaged(err) {
		t.Errorf("without a backup: %v", err)
	}
}
