package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const walSize = 1 << 20

func walRepository(bucket storage.Bucket) *Repository {
	return New(bucket, Location{Scope: "main", System: 77}, Options{})
}

func segmentFile(t *testing.T, name string) postgres.WALFile {
	t.Helper()
	f, err := postgres.ParseWALFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// segment is some content that is valid up to an end, and the facts that a scan
// would have found.
func segment(end int, fill, tail byte) ([]byte, *postgres.SegmentFacts) {
	b := bytes.Repeat([]byte{fill}, walSize)
	for i := end; i < walSize; i++ {
		b[i] = tail
	}
	return b, &postgres.SegmentFacts{Walked: true, ValidEnd: uint32(end)}
}

// A bit that turned in the stored header does not hold up who has the same content: it is
// there, byte by byte. A content that is damaged is not acknowledged.
func TestPutWALBehindDamagedHeader(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	body, facts := segment(5000, 'a', 0)
	bucket := mem.New()
	r := walRepository(bucket)
	if _, err := r.PutWAL(t.Context(), file, body, facts); err != nil {
		t.Fatal(err)
	}
	stored, err := storage.ReadAll(t.Context(), bucket, r.keys.wal(file), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int]PutOutcome{bytes.Index(stored, []byte(`"valid_end"`)) + 1: Already, len(stored) - 9: ""} {
		damaged := bytes.Clone(stored)
		damaged[bytes.Index(stored, []byte(`"valid_end"`))+1] ^= 1
		if want == "" {
			damaged[at] ^= 1
		}
		if err := bucket.Put(t.Context(), r.keys.wal(file), damaged, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		outcome, err := r.PutWAL(t.Context(), file, body, facts)
		if outcome != want || (want == "") != errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("at %d: %q, %v", at, outcome, err)
		}
	}
}

// What is the same, and what is a conflict (R3).
func TestPutWALTwice(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	first, facts := segment(5000, 'a', 0)
	tail, tailFacts := segment(5000, 'a', 'x')
	longer, longerFacts := segment(6000, 'a', 0)
	earlier, earlierFacts := segment(4000, 'a', 0)
	other, otherFacts := segment(5000, 'b', 0)
	unwalked := &postgres.SegmentFacts{ValidEnd: walSize}
	for name, c := range map[string]struct {
		body  []byte
		facts *postgres.SegmentFacts
		same  bool
	}{
		"equal":                      {first, facts, true},
		"recycled tail":              {tail, tailFacts, true},
		"the stored one ends before": {longer, longerFacts, false},
		"ours ends before":           {earlier, earlierFacts, false},
		"other WAL":                  {other, otherFacts, false},
		"other, cannot be walked":    {tail, unwalked, false},
		"equal, cannot be walked":    {first, unwalked, true},
	} {
		bucket := mem.New()
		r := walRepository(bucket)
		if outcome, err := r.PutWAL(t.Context(), file, first, facts); err != nil || outcome != Stored {
			t.Fatal(outcome, err)
		}
		for range 2 { // a second try says the same
			outcome, err := r.PutWAL(t.Context(), file, c.body, c.facts)
			conflict, refused := errors.AsType[*ConflictError](err)
			if c.same != (err == nil && outcome == Already) || c.same == refused {
				t.Errorf("%s: %s, %v", name, outcome, err)
			}
			if refused {
				if kept, err := bucket.Head(t.Context(), conflict.Kept); err != nil || kept.Size == 0 {
					t.Errorf("%s: ours is not kept: %v", name, err)
				}
			}
		}
		var got bytes.Buffer
		if _, err := r.GetWAL(t.Context(), file, &got); err != nil || !bytes.Equal(got.Bytes(), first) {
			t.Errorf("%s: the stored file changed: %v", name, err)
		}
	}
}

// A lost answer is settled by comparison; a compared object that is damaged is never
// taken for the same.
func TestPutWALLostAnswer(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	body, facts := segment(walSize, 'a', 0)
	inner := mem.New()
	lost := faulty.New(inner, faulty.On("put", faulty.NthAfter(1, faulty.ErrInjected)))
	if _, err := walRepository(lost).PutWAL(t.Context(), file, body, facts); err == nil {
		t.Fatal("a lost answer was taken for success")
	}
	if outcome, err := walRepository(inner).PutWAL(t.Context(), file, body, facts); err != nil || outcome != Already {
		t.Errorf("%s, %v", outcome, err)
	}
	key := walRepository(inner).keys.wal(file)
	for name, damaged := range map[string][]byte{"empty": {}, "noise": bytes.Repeat([]byte("noise"), 100)} {
		if err := inner.Put(t.Context(), key, damaged, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if outcome, err := walRepository(inner).PutWAL(t.Context(), file, body, facts); err == nil {
			t.Errorf("%s: %s", name, outcome)
		}
		if _, err := walRepository(inner).GetWAL(t.Context(), file, &bytes.Buffer{}); !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cutting ends every body with a broken connection after n bytes.
type cutting struct {
	storage.Bucket
	n int64
}

func (c cutting) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	body, err := c.Bucket.Get(ctx, key, span)
	if err != nil {
		return nil, err
	}
	lost := iotest.ErrReader(&storage.Error{Op: "read", Key: key, Err: io.ErrUnexpectedEOF, Retry: true})
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, c.n), lost), body}, nil
}

// A header may be longer than the first look at it; a connection that breaks in it
// is trouble, not damage.
func TestLongHeader(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	body, facts := segment(walSize, 'a', 0)
	for i := range 200 {
		facts.Tablespaces = append(facts.Tablespaces, postgres.Tablespace{OID: uint32(i + 1), Path: "/a/long/enough/path"})
	}
	bucket := mem.New()
	if _, err := walRepository(bucket).PutWAL(t.Context(), file, body, facts); err != nil {
		t.Fatal(err)
	}
	object, err := walRepository(bucket).StatWAL(t.Context(), file)
	if err != nil || len(object.Facts.Tablespaces) != 200 {
		t.Fatal(object, err)
	}
	for _, n := range []int64{0, 3, 16, 100, 3000, 7000} {
		r := walRepository(cutting{bucket, n})
		_, statErr := r.StatWAL(t.Context(), file)
		_, getErr := r.GetWAL(t.Context(), file, io.Discard)
		for _, err := range []error{statErr, getErr} {
			if !storage.IsRetryable(err) || errors.Is(err, codec.ErrCorrupt) {
				t.Errorf("cut after %d bytes: %v", n, err)
			}
		}
	}
}

// Every reader follows a resolution, and the rightful push returns without error (R4).
func TestResolvedConflict(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	wrong, wrongFacts := segment(5000, 'w', 0)
	right, rightFacts := segment(5000, 'r', 0)
	bucket := mem.New()
	put := func(body []byte, facts *postgres.SegmentFacts) error {
		_, err := walRepository(bucket).PutWAL(t.Context(), file, body, facts)
		return err
	}
	if err := put(wrong, wrongFacts); err != nil {
		t.Fatal(err)
	}
	conflict, ok := errors.AsType[*ConflictError](put(right, rightFacts))
	if !ok {
		t.Fatal("no conflict")
	}
	b, err := json.Marshal(Resolution{Format: 1, SHA256: conflict.Ours.SHA256, By: "test", At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	r := walRepository(bucket)
	if err := bucket.Put(t.Context(), r.keys.resolved(file), b, storage.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	if err := put(right, rightFacts); err != nil {
		t.Errorf("the rightful push: %v", err)
	}
	if _, refused := errors.AsType[*ConflictError](put(wrong, wrongFacts)); !refused {
		t.Error("the other author's push is no longer refused")
	}
	var got bytes.Buffer
	if _, err := r.GetWAL(t.Context(), file, &got); err != nil || !bytes.Equal(got.Bytes(), right) {
		t.Errorf("get: %v", err)
	}
	for entry, err := range r.ListWAL(t.Context(), 1, postgres.WALFile{}) {
		if err != nil {
			t.Fatal(err)
		}
		if object, err := r.StatWALEntry(t.Context(), entry); err != nil || object.SHA256 != conflict.Ours.SHA256 {
			t.Errorf("list: %s, %v", object.SHA256, err)
		}
	}
}

func TestAnyAfter(t *testing.T) {
	r := walRepository(mem.New())
	body, facts := segment(walSize, 'a', 0)
	for _, name := range []string{
		"000000010000000000000005", "0000000100000000000000FF", "000000010000000100000000",
		"000000020000000100000000", "000000020000000100000001.partial",
	} {
		if _, err := r.PutWAL(t.Context(), segmentFile(t, name), body, facts); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{
		"000000010000000000000006": true, "0000000100000000000000FF": true, "000000010000000100000000": false,
		"000000010000000100000001": false, "000000020000000100000000": true, "000000020000000100000001": false,
		"000000030000000000000001": false, "00000002.history": true, "00000003.history": false,
		"000000010000000000000005.00000028.backup": true,
	} {
		if got, err := r.AnyAfter(t.Context(), segmentFile(t, name)); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	broken := walRepository(faulty.New(mem.New(), faulty.On("list", faulty.Nth(2, faulty.ErrInjected))))
	if _, err := broken.AnyAfter(context.Background(), segmentFile(t, "000000010000000000000006")); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("a broken list: %v", err)
	}
}

// A timeline that was left behind a missing segment needs it, even where nothing
// else of it is archived; one left within it does not (R9).
func TestAnyAfterAFork(t *testing.T) {
	for _, c := range []struct {
		name, history, text string
		want                map[string]bool
	}{
		{"at the segment's end", "00000002.history", "1\t0/700000\tx\n",
			map[string]bool{"000000010000000000000006": true, "000000010000000000000007": false, "000000020000000000000007": false}},
		{"within it", "00000002.history", "1\t0/6FFFF8\tx\n", map[string]bool{"000000010000000000000006": false}},
		{"behind it", "00000002.history", "1\t0/780000\tx\n", map[string]bool{"000000010000000000000006": true, "000000010000000000000007": false}},
		{"at its start", "00000002.history", "1\t0/600000\tx\n", map[string]bool{"000000010000000000000006": false}},
		{"by a grandchild", "00000003.history", "1\t0/700000\tx\n2\t0/900000\tx\n", map[string]bool{"000000010000000000000006": true,
			"000000010000000000000007": false, "000000020000000000000008": true, "000000020000000000000009": false}},
		{"by a recovery to before the last fork", "00000003.history", "1\t0/900000\tx\n2\t0/700000\tx\n",
			map[string]bool{"000000010000000000000006": true, "000000010000000000000007": false, "000000020000000000000006": false}},
		{"by a stranger", "00000003.history", "2\t0/900000\tx\n", map[string]bool{"000000010000000000000006": false}},
	} {
		bucket := mem.New()
		r := walRepository(bucket)
		if _, err := r.Create(t.Context(), walSize, "required", time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.PutWAL(t.Context(), segmentFile(t, c.history), []byte(c.text), nil); err != nil {
			t.Fatal(err)
		}
		for name, want := range c.want {
			if got, err := r.AnyAfter(t.Context(), segmentFile(t, name)); err != nil || got != want {
				t.Errorf("left %s: %s goes on %v, want %v, %v", c.name, name, got, want, err)
			}
		}
		if err := bucket.Put(t.Context(), r.keys.wal(segmentFile(t, c.history)), []byte("torn"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.AnyAfter(t.Context(), segmentFile(t, "000000010000000000000006")); !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("a torn history: %v", err)
		}
	}
}

// A resolution that is listed and gone when it is read tells nothing of the WAL file:
// least of all that it is absent.
func TestResolutionGone(t *testing.T) {
	bucket := mem.New()
	r := walRepository(bucket)
	body, facts := segment(walSize, 'a', 0)
	file := segmentFile(t, "000000010000000000000005")
	if _, err := r.PutWAL(t.Context(), file, body, facts); err != nil {
		t.Fatal(err)
	}
	if err := bucket.Put(t.Context(), r.keys.conflicts()+"000000010000000000000005/resolved", []byte("{}"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := walRepository(faulty.New(bucket, faulty.On("get", faulty.Nth(1, storage.ErrNotExist))))
	if _, err := gone.GetWAL(t.Context(), file, io.Discard); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("the segment: %v", err)
	}
}
