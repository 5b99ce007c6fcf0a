package catalog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

func inWords(gaps []Gap, size postgres.SegmentSize) string {
	var parts []string
	for _, g := range gaps {
		part := fmt.Sprintf("%d/%d-%d %s", g.First.Timeline, g.First.Number(size), g.Last.Number(size), g.State)
		if g.Record != nil {
			part += " " + g.Record.Reason
		}
		if g.Accepted != nil {
			part += ", accepted " + g.Accepted.Reason
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

var gapTime = time.Date(2026, 11, 28, 20, 0, 0, 0, time.UTC)

// The life of a gap: found, recorded in parts, accepted, closed, expired.
func TestGapRecords(t *testing.T) {
	ctx, bucket := t.Context(), mem.New()
	r := walRepository(bucket)
	at := func(n int) postgres.Segment { return postgres.SegmentAt(1, postgres.LSN(n*walSize), walSize) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(first, last int) {
		t.Helper()
		for n := first; n <= last; n++ {
			facts := &postgres.SegmentFacts{}
			if n%3 == 1 || n == 9 { // the others have no commit
				facts.MinTime, facts.MaxTime = gapTime.Add(time.Duration(n)*time.Minute), gapTime.Add(time.Duration(n)*time.Minute+time.Second)
			}
			_, err := r.PutWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: at(n)}, fmt.Append(nil, n), facts)
			must(err)
		}
	}
	want := func(want string) Survey {
		t.Helper()
		s, err := r.Survey(ctx)
		must(err)
		if got := inWords(s.Archive.Gaps(), walSize); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		return s
	}
	record := func(first, last int, why string) GapRecord {
		return GapRecord{First: at(first), Last: at(last), At: gapTime, By: "n1", Reason: why}
	}
	_, err := r.Create(ctx, walSize, "required", gapTime)
	must(err)
	put(1, 5)
	put(9, 12)
	s := want("") // those before it may be on their way
	if soon := s.Archive.Arriving(); soon <= arriving-10*time.Second || soon > arriving {
		t.Errorf("asked again in %s", soon)
	}
	bucket.Age(15 * time.Second)
	if soon := want("").Archive.Arriving(); soon <= 0 || soon > arriving-15*time.Second {
		t.Errorf("15 s later asked again in %s", soon)
	}
	bucket.Age(arriving - 14*time.Second)
	if s = want("1/6-8 late"); s.Archive.Arriving() != 0 {
		t.Errorf("asked again in %s though all is told", s.Archive.Arriving())
	}
	after, next, err := r.GapSpan(ctx, s.Archive, s.Archive.Gaps()[0].Range)
	if must(err); !after.Equal(gapTime.Add(4*time.Minute+time.Second)) || !next.Equal(gapTime.Add(9*time.Minute)) {
		t.Errorf("after %s, next %s", after, next)
	}

	created, err := r.RecordGap(ctx, record(6, 7, "nobody"), GapLost)
	if must(err); !created {
		t.Error("the first record is not new")
	}
	if created, err = r.RecordGap(ctx, record(6, 7, "nobody, says another"), GapLost); err != nil || created {
		t.Errorf("the second one is %v, %v", created, err)
	}
	drop := func(g GapRecord) {
		t.Helper()
		_, err := r.RecordGap(ctx, g, GapDropped)
		must(err)
	}
	drop(record(8, 8, "full"))
	drop(record(8, 8, "full, again"))
	drop(record(13, 14, "full"))  // nothing is archived behind it
	drop(record(11, 11, "wrong")) // it is there
	_, err = r.RecordGap(ctx, record(7, 8, "known"), GapAccepted)
	must(err)
	s = want("1/6-6 lost nobody; 1/7-7 lost nobody, accepted known; 1/8-8 dropped full, accepted known; 1/13-14 dropped full")
	if after, _, err := r.GapSpan(ctx, s.Archive, s.Archive.Gaps()[2].Range); err != nil || !after.Equal(gapTime.Add(4*time.Minute+time.Second)) {
		t.Errorf("before the last part: %s, %v", after, err)
	}
	if _, err := r.RecordGap(ctx, record(9, 8, ""), GapDropped); err == nil {
		t.Error("a gap that ends before it begins is recorded")
	}

	must(bucket.Put(ctx, r.gapKey(Range{First: at(13), Last: at(14)}, GapDropped), []byte("{}"), storage.PutOptions{}))
	must(bucket.Put(ctx, r.gapKey(Range{First: at(10), Last: at(1)}, GapLost), []byte("{}"), storage.PutOptions{})) // nobody counts so far back
	must(bucket.Put(ctx, r.keys.key("gap", "00000001", "note.txt"), []byte("hello"), storage.PutOptions{}))
	s = want("1/6-6 lost nobody; 1/7-7 lost nobody, accepted known; 1/8-8 dropped full, accepted known; 1/13-14 dropped ")
	if len(s.Unreadable) != 1 || s.Unreadable[0].Object != string(r.gapKey(Range{First: at(13), Last: at(14)}, GapDropped)) {
		t.Errorf("unreadable: %v", s.Unreadable)
	}

	put(6, 7)
	want("1/8-8 dropped full, accepted known; 1/13-14 dropped ")
	put(14, 16) // the archive goes on, and one of the dropped was brought after all
	want("1/8-8 dropped full, accepted known; 1/13-13 dropped ")

	// Expiry of 2 to 10 leaves no gap behind, and takes the records of what is gone.
	s, err = r.Survey(ctx)
	must(err)
	gone := func(s postgres.Segment) bool { n := s.Number(walSize); return 2 <= n && n <= 10 }
	must(r.RecordExpired(ctx, s.Archive, gone, gapTime))
	_, err = r.RemoveWAL(ctx, []postgres.TimelineID{1}, gone)
	must(err)
	want("1/13-13 dropped ")
	var left []string
	for _, key := range keysOf(t, r) {
		if _, name, ok := strings.Cut(key, "/gap/00000001/"); ok {
			left = append(left, name)
		}
	}
	if want := []string{"000000010000000000000002-00000001000000000000000A.expired", "00000001000000000000000A-000000010000000000000001.lost", "00000001000000000000000B-00000001000000000000000B.dropped",
		"00000001000000000000000D-00000001000000000000000E.dropped", "note.txt"}; !slices.Equal(left, want) {
		t.Errorf("left are %q", left)
	}
}

// Which whole backup lies behind a gap, on the newest branch.
func TestBridge(t *testing.T) {
	for _, c := range []struct {
		archive, want string
		backups       []Surveyed
	}{
		{"1: 1-4 7-9", "1/5-6 none", nil},
		{"1: 1-4 7-9", "1/5-6 none", []Surveyed{backupAt("before", 1, 2.1, 3.5)}},
		{"1: 1-4 7-9", "1/5-6 b2", []Surveyed{backupAt("before", 1, 2.1, 3.5), backupAt("b2", 1, 7.1, 7.5), backupAt("b3", 1, 8.1, 8.5)}},
		{"1: 1-4 7-9", "1/5-6 none", []Surveyed{{State: BackupWALMissing, Manifest: backupAt("x", 1, 7.1, 7.5).Manifest}}},
		// The fork ends what the new branch misses of its parent.
		{"1: 1-3, 2: 5-9, 2 from 1 at 5.5", "1/4-4 b", []Surveyed{backupAt("b", 2, 5.6, 6.5)}},
		{"1: 1-3 8, 2: 5-9, 2 from 1 at 5.5", "1/4-7 b", []Surveyed{backupAt("b", 2, 5.6, 6.5)}},
		// A backup on the abandoned branch helps nobody on the new one.
		{"1: 1-3 5-9, 2: 6-7, 2 from 1 at 6.5", "1/4-4 none", []Surveyed{backupAt("old", 1, 7.1, 8.5)}},
		// A gap that only the abandoned branch has.
		{"1: 1-5 8-9, 2: 5-7, 2 from 1 at 5.5", "1/6-7 abandoned", nil},
		{"1: 1-3, 2:, 2 from 1 at 5.5", "1/4-4 none", nil},
	} {
		s := Survey{Archive: archiveOf(t, c.archive), Backups: c.backups}
		var got []string
		for _, g := range s.Archive.Gaps() {
			first, current := s.Bridge(g.Range)
			word := "none"
			if first != nil {
				word = string(first.ID)
			}
			if !current {
				word = "abandoned"
			}
			got = append(got, short([]Range{g.Range})+" "+word)
		}
		if got := strings.Join(got, "; "); got != c.want {
			t.Errorf("%s: %s, want %s", c.archive, got, c.want)
		}
	}
}

func backupAt(id BackupID, tli postgres.TimelineID, start, stop float64) Surveyed {
	return Surveyed{State: BackupOK, Manifest: Manifest{ID: id, Timeline: tli, StopTLI: tli, SegmentSize: size,
		StartLSN: postgres.LSN(start * float64(size)), StopLSN: postgres.LSN(stop * float64(size))}}
}
