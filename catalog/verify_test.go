package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
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

func flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

func cut(b []byte) []byte { return b[:len(b)-1] }

func TestVerifyFindsEveryDamage(t *testing.T) {
	run := func(m Manifest, name string) storage.Key {
		return storage.Key(fmt.Sprintf("main/%s/backup/%s/%s/%s", system, m.ID, m.Run, name))
	}
	wal := func(name string) storage.Key {
		return storage.Key(fmt.Sprintf("main/%s/wal/%s/00000000/%s", system, name[:8], name))
	}
	for _, c := range []struct {
		name     string
		key      func(Manifest) storage.Key
		change   func([]byte) []byte
		presence string // a word of the problem; "" where presence cannot see it
		hashes   string
	}{
		{"nothing", nil, nil, "", ""},
		{"pack removed", func(m Manifest) storage.Key { return run(m, "base-0001.tar") }, nil, "is missing", "is missing"},
		{"pack cut", func(m Manifest) storage.Key { return run(m, "base-0001.tar") }, cut, "the manifest says", "the manifest says"},
		{"pack flipped", func(m Manifest) storage.Key { return run(m, "base-0001.tar") }, flip, "", "corrupt"},
		{"index removed", func(m Manifest) storage.Key { return run(m, "index") }, nil, "is missing", "is missing"},
		{"index flipped", func(m Manifest) storage.Key { return run(m, "index") }, flip, "", "sha256 is"},
		{"backup_manifest flipped", func(m Manifest) storage.Key { return run(m, "backup_manifest") }, flip, "", "sha256 is"},
		{"WAL of the backup removed", func(Manifest) storage.Key { return wal("000000010000000000000003") }, nil, "cannot become consistent", "cannot become consistent"},
		{"WAL of the backup flipped", func(Manifest) storage.Key { return wal("000000010000000000000003") }, flip, "", "corrupt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bucket := mem.New()
			r, m := stocked(t, bucket)
			var key storage.Key
			if c.key != nil {
				key = c.key(m)
				spoil(t, bucket, key, c.change)
			}
			a, err := r.Archive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for level, want := range map[VerifyLevel]string{Presence: c.presence, Hashes: c.hashes} {
				found, err := r.VerifyBackup(t.Context(), m, a, level)
				if err != nil {
					t.Fatal(level, err)
				}
				if want == "" && len(found) > 0 || want != "" && (len(found) != 1 || found[0].Object != string(key) ||
					found[0].Backup != m.ID || !strings.Contains(found[0].Problem, want)) {
					t.Errorf("%s: %+v, want %q of %s", level, found, want, key)
				}
			}
		})
	}
}

func TestVerifyWAL(t *testing.T) {
	bucket := mem.New()
	r, _ := stocked(t, bucket)
	look := func(level VerifyLevel) (lines []string) {
		a, err := r.Archive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found, err := r.VerifyWAL(t.Context(), a, level)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			lines = append(lines, f.Object[strings.LastIndexByte(f.Object, '/')+1:]+" "+f.Problem)
		}
		slices.Sort(lines)
		return lines
	}
	if found := look(Hashes); len(found) > 0 {
		t.Fatal(found)
	}
	root := "main/" + storage.Key(system.String()) + "/wal/"
	spoil(t, bucket, root+"00000001/00000000/000000010000000000000001", flip)
	spoil(t, bucket, root+"00000001/00000000/000000010000000000000002", nil)
	if found := look(Presence); !slices.Equal(found, []string{"000000010000000000000002 is missing"}) {
		t.Error(found)
	}
	found := look(Hashes)
	if len(found) != 2 || !strings.HasPrefix(found[0], "000000010000000000000001 ") || !strings.Contains(found[0], "corrupt") {
		t.Error(found)
	}
	spoil(t, bucket, root+"00000002.history", nil)
	if found := look(Presence); len(found) != 2 || found[1] != "00000002.history is missing" {
		t.Error(found)
	}
}

// A store that fails is not a damaged repository, and not a sound one either: for
// every call that may fail.
func TestVerifyTellsTroubleFromDamage(t *testing.T) {
	bucket := mem.New()
	_, m := stocked(t, bucket)
	broken := errors.New("connection reset")
	for n, done := 1, false; !done; n++ {
		b := faulty.New(bucket, func(c faulty.Call) faulty.Fault {
			if c.N == n {
				return faulty.Fault{Before: &storage.Error{Op: c.Op, Key: c.Key, Err: broken, Retry: true}}
			}
			return faulty.Fault{}
		})
		r := New(b, Location{Scope: "main", System: system}, Options{})
		a, err := r.Archive(t.Context())
		var found, more []Finding
		if err == nil {
			found, err = r.VerifyBackup(t.Context(), m, a, Hashes)
		}
		if err == nil {
			more, err = r.VerifyWAL(t.Context(), a, Hashes)
		}
		if len(found)+len(more) > 0 {
			t.Fatalf("call %d: trouble was taken for damage: %v %v", n, found, more)
		}
		if done = err == nil; !done && !errors.Is(err, broken) {
			t.Fatalf("call %d: %v", n, err)
		}
		if done && n < 15 {
			t.Fatalf("only %d calls", n)
		}
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

// A bit that turns on its way, in any answer, is no finding; one that turned in the store
// is, in TestVerify's cases.
func TestVerifyReadsAgain(t *testing.T) {
	bucket := mem.New()
	_, m := stocked(t, bucket)
	for n := 1; ; n++ {
		broken := faulty.New(bucket, nil)
		gets := 0
		broken.Set(faulty.On("get", func(faulty.Call) (f faulty.Fault) {
			if gets++; gets == n {
				f = faulty.Flip(100)
			}
			return f
		}))
		r := New(broken, Location{Scope: "main", System: system}, Options{})
		a, err := r.Archive(t.Context())
		var wal, backup []Finding
		if err == nil {
			wal, err = r.VerifyWAL(t.Context(), a, Hashes)
		}
		if err == nil {
			backup, err = r.VerifyBackup(t.Context(), m, a, Hashes)
		}
		if err != nil || len(backup) > 0 || len(wal) != 0 || len(a.Unreadable) > 0 {
			t.Errorf("get %d: %v, %v %v %v", n, err, wal, backup, a.Unreadable)
		}
		if gets < n {
			if n < 10 {
				t.Errorf("%d gets", gets)
			}
			return
		}
	}
}
