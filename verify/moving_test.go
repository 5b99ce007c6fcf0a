package verify_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/verify"
)

// moving is a store in which something happens before an object is read.
type moving struct {
	storage.Bucket
	before func(key storage.Key) error
}

func (m *moving) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	if err := m.before(key); err != nil {
		return nil, err
	}
	return m.Bucket.Get(ctx, key, span)
}

// Who looks for hours is no reason to stop expiry: what it removes since it was listed
// is no damage. What is listed and cannot be had is.
func TestExpiryMeanwhile(t *testing.T) {
	for _, level := range []verify.Level{verify.Hashes, verify.Full} {
		w := newWriter(t, "89ABCDE")
		w.write()
		var gone atomic.Int32
		oldest := func(key storage.Key) bool {
			return strings.HasSuffix(string(key), "/000000010000000000000008") || strings.HasSuffix(string(key), "/000000010000000000000009")
		}
		bucket := w.bucket
		w.Repository = catalog.New(&moving{bucket, func(key storage.Key) error {
			if oldest(key) {
				gone.Add(1)
				return bucket.Delete(t.Context(), key)
			}
			return nil
		}}, w.Location(), catalog.Options{})
		if found := w.findings(level); len(found) > 0 || gone.Load() == 0 {
			t.Errorf("%s: %+v", level, found)
		}
		w = newWriter(t, "89ABCDE")
		w.write()
		w.Repository = catalog.New(&moving{w.bucket, func(key storage.Key) error {
			if oldest(key) {
				return storage.ErrNotExist
			}
			return nil
		}}, w.Location(), catalog.Options{})
		if found := w.findings(level); len(found) != 2 {
			t.Errorf("%s: it is listed and cannot be read: %+v", level, found)
		}
	}
}

// Several push at once: a segment whose follower came first is not missing if it comes
// while we look.
func TestArrivesMeanwhile(t *testing.T) {
	w := newWriter(t, "89ABCDE")
	w.write()
	late := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.SegmentAt(1, 0xA00000, size)}
	key := w.key("/" + late.String())
	body := w.get(key)
	w.must(w.bucket.Delete(t.Context(), storage.Key(key)))
	a, err := w.Archive(t.Context())
	w.must(err)
	v := &verify.Verifier{Repository: w.Repository, Archive: a, Level: verify.Presence}
	w.put(key, body)
	w.must(v.WAL(t.Context()))
	if found, _ := v.Found(); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}
