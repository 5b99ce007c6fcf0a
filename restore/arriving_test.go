package restore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// Of segments that are pushed at once a later one may be stored first: the hole before it
// is no gap until it has had the time to close.
func TestGatherWaitsForWhatIsOnItsWay(t *testing.T) {
	segment := func(tli, n uint32) postgres.Segment {
		return postgres.Segment{Timeline: postgres.TimelineID(tli), Seg: n}
	}
	late := segment(1, 4)
	for name, c := range map[string]struct {
		late  postgres.Segment
		after time.Duration // it comes
		old   time.Duration // since when the others are there
		found bool
		took  time.Duration
	}{
		"it comes":                    {late, 3 * time.Second, 0, true, 3 * time.Second},
		"the first of a timeline":     {segment(2, 6), 3 * time.Second, 0, true, 3 * time.Second},
		"it comes too late":           {late, time.Minute, 0, false, holeWait},
		"nobody is about to bring it": {late, 3 * time.Second, time.Hour, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			behind := c.late.Next(postgres.DefaultSegmentSize).Next(postgres.DefaultSegmentSize).Next(postgres.DefaultSegmentSize)
			bucket := mem.New()
			makeBackup(t, bucket, map[uint32]content{0: baseContent()})
			repo := catalog.New(bucket, catalog.Location{Scope: "demo", System: testSystem}, catalog.Options{})
			put := func(f postgres.WALFile, text string) {
				if _, err := repo.PutWAL(t.Context(), f, []byte(text), nil); err != nil {
					t.Error(err)
				}
			}
			if _, err := repo.Create(t.Context(), postgres.DefaultSegmentSize, "required", time.Now()); err != nil {
				t.Fatal(err)
			}
			put(postgres.HistoryFile(2), "1\t0/6000100\tpromoted\n")
			for _, s := range []postgres.Segment{segment(1, 2), segment(1, 3), segment(1, 4), segment(1, 5), segment(2, 6), segment(2, 7)} {
				if s != c.late {
					put(postgres.WALFile{Kind: postgres.WALSegment, Segment: s}, "x")
				}
			}
			time.Sleep(c.old)
			began := time.Now()
			go func() {
				time.Sleep(c.after)
				put(postgres.WALFile{Kind: postgres.WALSegment, Segment: c.late}, "x")
				put(postgres.WALFile{Kind: postgres.WALSegment, Segment: behind}, "x") // has a hole of its own
			}()
			facts, err := Gather(t.Context(), repo)
			took := time.Since(began)
			if err != nil || facts.Archived[c.late] != c.found || facts.Archived[behind] || took < c.took || took > c.took+holePause {
				t.Errorf("%s: %v %v after %s", name, facts.Archived, err, took)
			}
			time.Sleep(time.Hour)
		})
	}
}
