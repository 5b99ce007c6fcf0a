package catalog

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// Expiry removes several segments at once: killed in between, it leaves some behind those that are gone, and nobody
// may take that for a loss. Of the beginnings that went one record stays.
func TestInterruptedRemoval(t *testing.T) {
	ctx, bucket := t.Context(), mem.New()
	r := walRepository(bucket)
	if _, err := r.Create(ctx, walSize, "required", gapTime); err != nil {
		t.Fatal(err)
	}
	file := func(n int) postgres.WALFile {
		return postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.SegmentAt(1, postgres.LSN(n*int(walSize)), walSize)}
	}
	for n := 1; n <= 30; n++ {
		if _, err := r.PutWAL(ctx, file(n), fmt.Append(nil, n), &postgres.SegmentFacts{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []uint64{9, 19} {
		archive, err := r.Archive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		gone := func(s postgres.Segment) bool { return s.Number(walSize) <= end }
		if err := r.RecordExpired(ctx, archive, gone, gapTime); err != nil {
			t.Fatal(err)
		}
		for n := int(end) - 8; n <= int(end); n++ { // killed: one of them is left
			if n != int(end)-3 {
				if err := bucket.Delete(ctx, r.keys.wal(file(n))); err != nil {
					t.Fatal(err)
				}
			}
		}
		if archive, err = r.Archive(ctx); err != nil || len(archive.Missing()) > 0 {
			t.Errorf("half of the segments up to %d removed: missing are %v, %v", end, archive.Missing(), err)
		}
		if _, err := r.RemoveWAL(ctx, []postgres.TimelineID{1}, gone); err != nil {
			t.Fatal(err)
		}
	}
	records := slices.DeleteFunc(keysOf(t, r), func(key string) bool { return !strings.Contains(key, "/gap/") })
	if len(records) != 1 || !strings.HasSuffix(records[0], "000000010000000000000001-000000010000000000000013.expired") {
		t.Errorf("records are %q", records)
	}
}
