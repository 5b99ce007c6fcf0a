package catalog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// Whichever call fails, before or after it took effect: what is acknowledged can be read
// back, and the next try succeeds. The object is what PutWAL makes.
func TestPutWALFromFaults(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	noise := rand.NewChaCha8([32]byte{1})
	plain := make([]byte, 9<<20)
	_, _ = noise.Read(plain)
	facts := &postgres.SegmentFacts{Walked: true, ValidEnd: 8 << 20}
	put := func(bucket *faulty.Bucket) (PutOutcome, error) {
		r := New(bucket, Location{Scope: "main", System: 77}, Options{Codec: codec.S2})
		return r.PutWALFrom(t.Context(), file, bytes.NewReader(plain), int64(len(plain)), facts)
	}
	for name, plan := range map[string]func(int, error) faulty.Plan{"nth": faulty.Nth, "nth after": faulty.NthAfter} {
		for n := 1; ; n++ {
			store := mem.New()
			bucket := faulty.New(store, plan(n, errors.New("planned")))
			outcome, err := put(bucket)
			reached := len(bucket.Calls()) >= n
			bucket.Set(nil)
			for range 2 {
				if err == nil {
					var got bytes.Buffer
					if _, readErr := New(bucket, Location{Scope: "main", System: 77}, Options{Codec: codec.S2}).GetWAL(t.Context(), file, &got); readErr != nil || !bytes.Equal(got.Bytes(), plain) {
						t.Fatalf("%s %d: %s, and %d bytes come back: %v", name, n, outcome, got.Len(), readErr)
					}
				}
				outcome, err = put(bucket)
				if err != nil {
					t.Fatalf("%s %d: the next try: %v", name, n, err)
				}
			}
			if !reached {
				if n < 6 {
					t.Fatalf("%s: only %d calls", name, n)
				}
				break
			}
		}
	}
	r := New(mem.New(), Location{Scope: "main", System: 77}, Options{Codec: codec.S2})
	if _, err := r.PutWALFrom(t.Context(), file, bytes.NewReader(plain[:8<<20]), int64(len(plain)), facts); err == nil {
		t.Error("a file that is shorter than it says is stored")
	}
	// Frame by frame it is the same object.
	packed, err := r.PackWAL(nil, file, plain, facts)
	if err != nil || codec.Detect(packed.body) != codec.S2 {
		t.Fatal(err)
	}
	if _, err := r.PutWALFrom(t.Context(), file, bytes.NewReader(plain), int64(len(plain)), facts); err != nil {
		t.Fatal(err)
	}
	object, err := storage.ReadAll(t.Context(), r.bucket, r.keys.wal(file), 1<<30)
	if err != nil || !bytes.Equal(object, packed.body) {
		t.Errorf("%d bytes, %v; want %d others", len(object), err, len(packed.body))
	}
}
