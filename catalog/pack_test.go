package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const testID = BackupID("20261121T020000Z-nightly")

var testTime = time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)

func testRepository(b storage.Bucket, name codec.Name) *Repository {
	return New(b, Location{Scope: "demo", System: 42}, Options{Codec: name, PartSize: 5 << 20})
}

// testFile is a file of a backup; a nil content is a directory.
type testFile struct {
	path    string
	content []byte
}

// testFiles cover frames' edges: empty, below, at and above a frame, and names
// that tar, JSON or a shell could trip over.
func testFiles(seed uint64) []testFile {
	random := rand.NewChaCha8([32]byte{byte(seed)})
	files := []testFile{{"base/5", nil}, {"empty", []byte{}}, {"base/5/\xff\xfe name", []byte("x")},
		{"base/5/=[#\\ \"'\n", []byte("odd")}, {"base/" + strings.Repeat("long/", 60) + "name", []byte("deep")}}
	for i, size := range []int{1, 511, 512, 513, FrameSize - 1, FrameSize, FrameSize + 1, 7 << 20} {
		content := make([]byte, size)
		_, _ = random.Read(content)
		clear(content[:size/2])
		files = append(files, testFile{fmt.Sprintf("base/5/%d", 16384+i), content})
	}
	return files
}

func writeBackup(ctx context.Context, r *Repository, files []testFile) (Manifest, error) {
	run, err := r.StartRun(ctx, Started{ID: testID, Timeline: 1, StartLSN: 100, At: testTime})
	if err != nil {
		return Manifest{}, err
	}
	pack, err := run.NewPack(ctx, PackName(0, 1))
	if err != nil {
		return Manifest{}, err
	}
	for _, f := range files {
		e := Entry{Path: f.path, Size: int64(len(f.content)), Mode: 0o600, Modified: testTime}
		if f.content == nil {
			if err := pack.Directory(e); err != nil {
				pack.Abort()
				return Manifest{}, err
			}
			continue
		}
		err := pack.Begin(e)
		if err == nil {
			_, err = pack.Write(f.content)
		}
		if err == nil {
			_, err = pack.End()
		}
		if err != nil {
			pack.Abort()
			return Manifest{}, err
		}
	}
	index, info, err := pack.Close()
	if err != nil {
		return Manifest{}, err
	}
	return run.Commit(ctx, testManifest(info), Index{Packs: []Pack{index}}, []byte("{}"))
}

func testManifest(packs ...PackInfo) Manifest {
	return Manifest{Type: Full, Timeline: 1, StopTLI: 1, StartLSN: 100, StopLSN: 200, StartTime: testTime, StopTime: testTime,
		Version: 150018, SegmentSize: postgres.DefaultSegmentSize, Packs: packs}
}

func readBackup(ctx context.Context, r *Repository) ([]testFile, error) {
	m, err := r.Manifest(ctx, testID)
	if err != nil {
		return nil, err
	}
	b, err := r.Open(ctx, m)
	if err != nil {
		return nil, err
	}
	var files []testFile
	for i := range m.Packs {
		pack, err := b.OpenPack(ctx, i)
		if err != nil {
			return nil, err
		}
		for {
			e, err := pack.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, errors.Join(err, pack.Close())
			}
			f := testFile{path: e.Path}
			if e.Kind == File {
				if f.content, err = readEntry(pack, e.Size, len(files)%3); err != nil {
					return nil, errors.Join(err, pack.Close())
				}
			}
			files = append(files, f)
		}
		if err := pack.Close(); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// readEntry reads, has written, or does both.
func readEntry(pack *PackReader, size int64, how int) ([]byte, error) {
	if how == 0 {
		return io.ReadAll(pack)
	}
	content := bytes.NewBuffer([]byte{})
	n, err := io.CopyN(content, pack, size/2*int64(how-1))
	if err != nil {
		return nil, err
	}
	m, err := pack.WriteTo(content)
	if err == nil && n+m != size {
		err = fmt.Errorf("%d and %d bytes of %d", n, m, size)
	}
	return content.Bytes(), err
}

func TestPackRoundTrip(t *testing.T) {
	for _, name := range []codec.Name{codec.Zstd, codec.S2, codec.None} {
		r, files := testRepository(mem.New(), name), testFiles(1)
		if _, err := writeBackup(t.Context(), r, files); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := readBackup(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(got) != len(files) {
			t.Fatalf("%s: %d entries, want %d", name, len(got), len(files))
		}
		for i, f := range files {
			if got[i].path != f.path || !bytes.Equal(got[i].content, f.content) || (got[i].content == nil) != (f.content == nil) {
				t.Errorf("%s: entry %d is %q of %d bytes, want %q of %d", name, i, got[i].path, len(got[i].content), f.path, len(f.content))
			}
		}
	}
}

// One flipped bit anywhere in a stored pack is found.
func TestPackDamageIsFound(t *testing.T) {
	for _, name := range []codec.Name{codec.Zstd, codec.S2, codec.None} {
		bucket := mem.New()
		r := testRepository(bucket, name)
		m, err := writeBackup(t.Context(), r, testFiles(2)[:9])
		if err != nil {
			t.Fatal(err)
		}
		key := r.keys.run(m.ID, m.Run, m.Packs[0].Name)
		stored, err := storage.ReadAll(t.Context(), bucket, key, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(stored); at += 1 + len(stored)/31 {
			damaged := bytes.Clone(stored)
			damaged[at] ^= 4
			if err := bucket.Put(t.Context(), key, damaged, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := readBackup(t.Context(), r); !errors.Is(err, codec.ErrCorrupt) {
				t.Errorf("%s: bit flipped at %d of %d: %v", name, at, len(stored), err)
			}
		}
	}
}

// The calls of a backup, in order: started first, manifest last, nothing twice.
func TestCommitSequence(t *testing.T) {
	bucket := faulty.New(mem.New(), nil)
	m, err := writeBackup(t.Context(), testRepository(bucket, codec.Zstd), testFiles(3)[:6])
	if err != nil {
		t.Fatal(err)
	}
	at := "demo/42/backup/" + string(testID) + "/"
	run := at + string(m.Run) + "/"
	want := []string{"put " + run + "started", "put " + run + "base-0001.tar", "list " + run,
		"put " + run + "index", "put " + run + "backup_manifest", "put " + at + "manifest.json",
		"head " + at + "expired.json", "head " + run + "started"}
	if got := strings.Join(bucket.Calls(), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("calls:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// Whatever call fails: a backup that exists can be read whole, and the next run
// commits. A lost answer is settled.
func TestCommitUnderFaults(t *testing.T) {
	lost := errors.New("the answer was lost")
	// Stored bare, one part and a little more: all kinds of call for few bytes.
	files := append(testFiles(4)[:5], testFile{"base/5/1", make([]byte, storage.MinPart)})
	for n := 1; ; n++ {
		for _, plan := range []faulty.Plan{faulty.Nth(n, lost), faulty.NthAfter(n, lost), faulty.From(n, lost)} {
			store := mem.New()
			bucket := faulty.New(store, plan)
			_, err := writeBackup(t.Context(), testRepository(bucket, codec.None), files)
			calls, clean := len(bucket.Calls()), testRepository(store, codec.None)
			if err == nil && calls >= n && bucket.Calls()[n-1] != "head "+string(clean.keys.backup(testID, expiredName)) { // absence has no answer to lose
				t.Errorf("call %d failed, the backup did not: %v", n, bucket.Calls()[n-1])
			}
			if _, readErr := readBackup(t.Context(), clean); readErr != nil && !(err != nil && errors.Is(readErr, storage.ErrNotExist)) {
				t.Errorf("call %d: the backup failed with %v and reads as %v", n, err, readErr)
			}
			if _, err := writeBackup(t.Context(), clean, files[:5]); err != nil && !errors.Is(err, ErrCommitted) {
				t.Errorf("call %d: the next run: %v", n, err)
			}
			if calls < n {
				return
			}
		}
	}
}

// retrying asks again after a lost answer, as the retry decorator does.
type retrying struct{ storage.Bucket }

func (r retrying) Put(ctx context.Context, key storage.Key, body []byte, o storage.PutOptions) error {
	if err := r.Bucket.Put(ctx, key, body, o); err == nil || errors.Is(err, storage.ErrExist) {
		return err
	}
	return r.Bucket.Put(ctx, key, body, o)
}

func TestLostAnswersAreSettled(t *testing.T) {
	lost := errors.New("the answer was lost")
	for n := 1; n <= 5; n++ {
		bucket := faulty.New(mem.New(), faulty.On("put", faulty.NthAfter(n, lost)))
		r := testRepository(retrying{bucket}, codec.Zstd)
		if _, err := writeBackup(t.Context(), r, testFiles(5)[:6]); err != nil {
			t.Errorf("put %d: %v", n, err)
		}
	}
}

func TestSecondRunIsRefused(t *testing.T) {
	r := testRepository(mem.New(), codec.Zstd)
	if _, err := writeBackup(t.Context(), r, testFiles(6)[:3]); err != nil {
		t.Fatal(err)
	}
	if _, err := writeBackup(t.Context(), r, testFiles(6)[:3]); !errors.Is(err, ErrCommitted) {
		t.Errorf("a second run of one backup: %v", err)
	}
}
