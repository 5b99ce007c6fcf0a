package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

// journal is what the daemons of a world log.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// events are those about gaps, by whom.
func (j *journal) events() (all []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		_, event, ok := strings.Cut(line, "event=gap.")
		if event, _, _ = strings.Cut(event, " "); ok {
			_, by, _ := strings.Cut(line, " by=")
			by, _, _ = strings.Cut(by, " ")
			all = append(all, event+" by "+by)
		}
	}
	slices.Sort(all)
	return all
}

// archived is a world whose archive lacks segment 5, and whose daemons look at it.
func archived(t *testing.T, names ...string) (*world, *catalog.Repository, *journal) {
	w, j := newWorld(t), &journal{}
	r := catalog.New(w.store, catalog.Location{Scope: "main", System: 7}, catalog.Options{})
	if _, err := r.Create(t.Context(), postgres.DefaultSegmentSize, "required", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{3, 4, 6, 7} {
		bring(t, r, n)
	}
	for _, name := range names {
		n := w.start(name, config.Schedule{Name: "yearly", Cron: "0 0 1 1 *", Timezone: "UTC", Source: "prefer-replica", Attempts: 1, RetryDelay: time.Second, ReplicaWait: time.Minute, Timeout: time.Hour}, func(s *service) {
			s.log = slog.New(slog.NewTextHandler(j, nil)).With("by", name)
			s.config.Archive, s.heard = config.Default().Archive, map[string]time.Time{}
			s.me.Since = time.Now()
		})
		go every(t.Context(), surveyEvery, surveyTimeout, n.again, n.lookAtStore)
	}
	return w, r, j
}

func bring(t *testing.T, r *catalog.Repository, n int) {
	t.Helper()
	s := postgres.SegmentAt(1, postgres.LSN(n*int(postgres.DefaultSegmentSize)), postgres.DefaultSegmentSize)
	at := time.Date(2026, 11, 28, 12, n, 0, 0, time.UTC)
	if _, err := r.PutWAL(t.Context(), postgres.WALFile{Kind: postgres.WALSegment, Segment: s}, fmt.Append(nil, n), &postgres.SegmentFacts{MinTime: at, MaxTime: at}); err != nil {
		t.Fatal(err)
	}
}

// Three daemons find a gap, one of them declares it lost, one backup is taken for it,
// and when it is filled after all, everybody says so.
func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = postgres.DefaultSegmentSize
		w, r, j := archived(t, "n1", "n2", "n3")
		gap := func() (g catalog.Gap) {
			s, err := r.Survey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if gaps := s.Archive.Gaps(); len(gaps) == 1 {
				g = gaps[0]
			}
			return g
		}
		time.Sleep(110 * time.Second)
		found := []string{"found by n1", "found by n2", "found by n3"}
		if got := j.events(); !slices.Equal(got, found) || gap().State != catalog.GapLate {
			t.Errorf("before its time: %q, %v", got, gap())
		}
		time.Sleep(2 * time.Minute)
		g := gap()
		if g.State != catalog.GapLost || g.Record.Reason != "every member had the time to bring it, none did: n1, n2, n3" ||
			g.Record.After.Minute() != 4 || g.Record.Next.Minute() != 6 {
			t.Fatalf("in its time: %+v of %+v", g.Record, g)
		}
		if got := j.events(); !slices.Equal(got, append(slices.Clone(found), "lost by "+g.Record.By)) {
			t.Errorf("in its time: %q", got)
		}
		time.Sleep(3 * time.Minute)
		id := catalog.ScheduledID(g.Record.At, "gap")
		var ids []string
		for id := range w.commits {
			ids = append(ids, id.Schedule())
		}
		if slices.Sort(ids); w.by(id) != "n2 of n2" || !slices.Equal(ids, []string{"first", "gap"}) || w.waste() > 0 {
			t.Errorf("%s was taken by %q, all are %v, %d for nothing", id, w.by(id), w.commits, w.waste())
		}
		states := w.node("n3").status(time.Now()).Gaps
		if len(states) != 1 || states[0].State != catalog.GapLost || !states[0].Since.Equal(g.Record.At) || states[0].Why != g.Record.Reason {
			t.Errorf("%+v", states)
		}

		bring(t, r, 5)
		time.Sleep(2 * time.Minute)
		if got, want := j.events(), append([]string{"filled by n1", "filled by n2", "filled by n3"}, append(found, "lost by "+g.Record.By)...); !slices.Equal(got, want) {
			t.Errorf("at last: %q, want %q", got, want)
		}
		if jobs := w.node("n1").jobs(); slices.ContainsFunc(jobs, func(j scheduler.Job) bool { return j.Name == catalog.GapSchedule }) {
			t.Error("a backup is due behind a gap that is none")
		}

		// What was dropped needs no declaring, nor WAL behind it.
		dropped := catalog.GapRecord{First: g.First.Next(size).Next(size).Next(size), Last: g.First.Next(size).Next(size).Next(size), At: time.Now(), By: "n1", Reason: "full"}
		if _, err := r.RecordGap(t.Context(), dropped, catalog.GapDropped); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if id := catalog.ScheduledID(dropped.At, "gap"); w.by(id) != "n2 of n2" || gap().State != catalog.GapDropped {
			t.Errorf("%s was taken by %q; %+v", id, w.by(id), gap())
		}
	})
}

// Whenever a segment comes behind one that does not, the gap is told within a minute, though
// the look at the store may meet it just after.
func TestGapIsToldWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, j := archived(t, "n1")
		time.Sleep(time.Minute)
		for i := range 12 {
			time.Sleep(time.Duration(i) * 5 * time.Second)
			bring(t, r, 9+2*i)
			time.Sleep(time.Minute)
			found := slices.DeleteFunc(j.events(), func(e string) bool { return e != "found by n1" })
			if len(found) != i+2 {
				t.Errorf("gap %d: found are %d, want %d", i, len(found), i+2)
			}
		}
	})
}

// A member without a daemon is waited for.
func TestAuditWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, j := archived(t, "n1", "n2")
		time.Sleep(14 * time.Minute)
		if got := j.events(); !slices.Equal(got, []string{"found by n1", "found by n2"}) {
			t.Errorf("%q", got)
		}
		if g := w.node("n1").status(time.Now()).Gaps; len(g) != 1 || !strings.HasPrefix(g[0].Why, "n3 (no daemon runs there) may have it; waited for until ") {
			t.Errorf("%+v", g)
		}
		time.Sleep(3 * time.Minute)
		s, err := r.Survey(t.Context())
		if err != nil || len(s.Archive.Gaps()) != 1 || s.Archive.Gaps()[0].Record == nil {
			t.Fatalf("%+v, %v", s.Archive.Gaps(), err)
		}
		if why := s.Archive.Gaps()[0].Record.Reason; why != "nobody brought it within 15m0s; not heard from: n3 (no daemon runs there)" {
			t.Error(why)
		}
	})
}
