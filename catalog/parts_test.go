package catalog

import (
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// Some stores take no more than 1,000 parts of an upload. The largest that PostgreSQL
// makes, a segment of a relation, is far from that; a stranger's file need not be.
func TestPartsOfALargeFile(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name  string
		part  int // of the configuration, 0 is the default
		first int64
		want  int64 // bytes of a part
		room  map[int64]bool
	}{
		{"a relation", 0, gib, 16 << 20, map[int64]bool{gib: true, 14 * gib: true, 16 * gib: false, 100 * gib: false}},
		{"a relation in small parts", storage.MinPart, gib, storage.MinPart, map[int64]bool{gib: true, 4 * gib: true, 5 * gib: false}},
		{"a dump left in PGDATA", 0, 100 * gib, 112742892, map[int64]bool{gib: true}},
		{"a relation of 1 TiB, built with one segment", 0, 1 << 40, 1154487210, map[int64]bool{gib: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New(mem.New(), Location{Scope: "demo", System: 42}, Options{PartSize: c.part})
			run, err := r.StartRun(t.Context(), Started{ID: testID, Timeline: 1, StartLSN: 100, At: testTime})
			if err != nil {
				t.Fatal(err)
			}
			pack, err := run.NewPack(t.Context(), PackName(0, 1))
			if err != nil {
				t.Fatal(err)
			}
			defer pack.Abort()
			if !pack.Room(c.first) {
				t.Error("no room in an empty pack")
			}
			if err := pack.Begin(Entry{Path: "base/1", Size: c.first, Mode: 0o600, Modified: testTime}); err != nil {
				t.Fatal(err)
			}
			// A frame that cannot be compressed takes 1 part in 1,000 more at most, and the tar its blocks.
			if got := pack.frames.out.Limit() / storage.MaxParts; got != c.want || got*storage.MaxParts < c.first/1000*1002 {
				t.Errorf("parts of %d bytes, want %d", got, c.want)
			}
			for size, want := range c.room {
				if pack.frames.written = max(pack.frames.written, 1); pack.Room(size) != want {
					t.Errorf("room for %d bytes: %t", size, !want)
				}
			}
		})
	}
}
