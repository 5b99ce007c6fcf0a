package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Gap is a gap as this daemon has watched it, and as /status shows it.
type Gap struct {
	catalog.Range
	State    catalog.GapState `json:"state"`
	Accepted bool             `json:"accepted,omitempty"`
	Since    time.Time        `json:"since"` // recorded, else first seen by this daemon
	Why      string           `json:"why"`   // it is lost, or late
	moved    time.Time        // when this daemon first saw it, or any was last filled
}

// audit compares the gaps of a survey with those of the one before: it tells of new
// and of filled ones, and writes down those that nobody will fill any more.
func (s *service) audit(ctx context.Context, v catalog.Survey, now time.Time) {
	s.mu.Lock()
	before := s.gaps
	s.mu.Unlock()
	after := follow(before, v.Archive.Gaps(), v.Archive.SegmentSize, now, s.said(v.Archive))
	c := s.settings().Archive
	d := doubt{FillAfter: c.FillAfter, LostAfter: c.LostAfter, Members: s.witnesses(ctx, now)}
	for i := range after {
		g := &after[i]
		if g.State != catalog.GapLate {
			continue
		}
		var lost bool
		d.Since = g.moved
		if lost, g.Why = d.judge(now); lost {
			s.recordLost(ctx, v.Archive, *g, now)
		}
	}
	s.mu.Lock()
	s.gaps = after
	s.mu.Unlock()
}

// follow carries what is known of gaps from one survey to the next; tell hears of the
// spans that are new and of those that are not missing any more.
func follow(before []Gap, gaps []catalog.Gap, size postgres.SegmentSize, now time.Time, tell func(event string, g Gap)) (after []Gap) {
	var old, current []catalog.Range
	for _, g := range before {
		old = append(old, g.Range)
	}
	for _, g := range gaps {
		current = append(current, g.Range)
	}
	filled := catalog.Subtract(old, current, size)
	for _, r := range filled {
		tell("gap.filled", Gap{Range: r})
	}
	for _, g := range gaps {
		w := Gap{Range: g.Range, State: g.State, Accepted: g.Accepted != nil, Since: now, moved: now}
		for _, o := range before {
			if rest := catalog.Subtract([]catalog.Range{o.Range}, []catalog.Range{g.Range}, size); len(rest) == 1 && rest[0] == o.Range {
				continue // another one
			}
			if w.Since = o.Since; len(filled) == 0 { // else somebody is at it, and may come to this one
				w.moved = o.moved
			}
			break
		}
		if g.Record != nil {
			w.Since, w.Why = g.Record.At, g.Record.Reason
		}
		after = append(after, w)
		for _, r := range catalog.Subtract([]catalog.Range{g.Range}, old, size) {
			w.Range = r
			tell("gap.found", w)
		}
	}
	return after
}

// said logs what follow tells. What was known before this daemon began is no news, and
// what expiry took away was not filled.
func (s *service) said(a catalog.Archive) func(event string, g Gap) {
	return func(event string, g Gap) {
		switch {
		case event == "gap.filled" && a.Has(g.First):
			s.event(slog.LevelInfo, "gap.filled", "the archive has what it lacked", "first", g.First, "last", g.Last, "segments", g.Segments)
		case event == "gap.found" && g.State != catalog.GapLost && !g.Accepted:
			s.event(slog.LevelWarn, "gap.found", "the archive lacks WAL", "first", g.First, "last", g.Last, "segments", g.Segments, "state", g.State)
		}
	}
}

// witnesses are the members that may have what the archive lacks; none where their
// daemons cannot be counted.
func (s *service) witnesses(ctx context.Context, now time.Time) []witness {
	t, _, err := s.view.now()
	if err != nil || s.single() {
		return nil
	}
	daemons, err := s.daemons(ctx)
	if err != nil {
		return nil
	}
	return witnesses(t, daemons, s.heard, now)
}

// recordLost writes down that a gap stays. Who comes second is quiet.
func (s *service) recordLost(ctx context.Context, a catalog.Archive, g Gap, now time.Time) {
	repository, err := s.repository()
	record := catalog.GapRecord{First: g.First, Last: g.Last, At: now, By: s.me.Member, Reason: g.Why}
	if err == nil {
		record.After, record.Next, err = repository.GapSpan(ctx, a, g.Range)
	}
	created := false
	if err == nil {
		created, err = repository.RecordGap(ctx, record, catalog.GapLost)
	}
	switch {
	case err != nil:
		s.event(slog.LevelWarn, "gap.unrecorded", "a lost gap cannot be recorded yet", "first", g.First, "last", g.Last, "error", err)
	case created:
		s.event(slog.LevelError, "gap.lost", "WAL is lost: no moment in the gap can be reached, a backup is due", "first", g.First, "last", g.Last,
			"segments", g.Segments, "after", record.After, "next", record.Next, "why", g.Why)
		s.surveyAgain()
	}
}

// wantsGap is the time of the newest record of a gap behind which no whole backup begins
// on the newest branch; zero: none is due. It is the same for all daemons.
func (v surveyed) wantsGap() (newest time.Time) {
	for _, g := range v.Archive.Gaps() {
		if first, current := v.Bridge(g.Range); g.Record != nil && current && first == nil && g.Record.At.After(newest) {
			newest = g.Record.At
		}
	}
	return newest
}
