package restore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"reflect"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// A bit that turned in the header of a segment is not in the way of a plan: what it said
// is found out again, from a content that is whole.
func TestHeadersDamaged(t *testing.T) {
	const name = "00000001000000000000000C"
	f, err := os.Open("../postgres/testdata/pg15.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for r := tar.NewReader(z); data == nil; {
		h, err := r.Next()
		if err == nil && path.Base(h.Name) == name {
			data, err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const system, size = postgres.SystemIdentifier(7710483170361142842), postgres.SegmentSize(1 << 20)
	bucket := mem.New()
	repo := catalog.New(bucket, catalog.Location{Scope: "demo", System: system}, catalog.Options{})
	file, err := postgres.ParseWALFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := postgres.ScanSegment(file, data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Create(t.Context(), size, "required", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutWAL(t.Context(), file, data, &want); err != nil {
		t.Fatal(err)
	}
	headers := func() ([]postgres.SegmentFacts, error) {
		a := &archive{repo: repo, size: int64(size), entries: map[postgres.Segment]catalog.WALEntry{}, headers: map[postgres.Segment]postgres.SegmentFacts{}}
		entries, err := repo.Segments(t.Context(), 1, postgres.Segment{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			a.entries[e.File.Segment] = e
		}
		return a.Headers(t.Context(), []postgres.Segment{file.Segment})
	}
	before, err := headers()
	if err != nil {
		t.Fatal(err)
	}
	key := storage.Key(repo.WALKey(file))
	body, err := storage.ReadAll(t.Context(), bucket, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	turn := func(at int) {
		t.Helper()
		body[at] ^= 1
		if err := bucket.Put(t.Context(), key, body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	turn(bytes.Index(body, []byte(`"first_lsn"`)) + 1)
	if after, err := headers(); err != nil || !reflect.DeepEqual(after[0].FirstLSN, before[0].FirstLSN) || after[0].FirstLSN == 0 {
		t.Errorf("%+v, %v; want %+v", after, err, before)
	}
	turn(len(body) - 100)
	if _, err := headers(); !errors.Is(err, codec.ErrCorrupt) {
		t.Errorf("with a damaged content: %v", err)
	}
}
