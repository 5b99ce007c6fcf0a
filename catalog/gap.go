package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// GapState is one word for a gap, and the suffix of its records' names.
type GapState string

// The states.
const (
	GapLate     GapState = "late"     // a member may still bring it: there is no record
	GapLost     GapState = "lost"     // every member was asked, or waited for long enough
	GapDropped  GapState = "dropped"  // acknowledged unarchived, for want of space
	GapAccepted GapState = "accepted" // a person knows of it: beside the others
	gapExpired  GapState = "expired"  // removed with what nothing needs any more: none at all
)

// GapRecord is gap/<TLI>/<first>-<last>.<state>: what is known of segments that the
// archive lacks. It is written once; whoever comes second finds it said.
type GapRecord struct {
	Format int              `json:"format"`
	First  postgres.Segment `json:"first"`
	Last   postgres.Segment `json:"last"`
	At     time.Time        `json:"at"`
	By     string           `json:"by"` // the member, or the host of who accepted it
	Reason string           `json:"reason"`
	// After is the last commit known before a lost gap, Next the first known behind it.
	After time.Time `json:"after,omitzero"`
	Next  time.Time `json:"next,omitzero"`
	state GapState
}

// RecordGap writes down what became of segments; false: that is known.
func (r *Repository) RecordGap(ctx context.Context, g GapRecord, state GapState) (bool, error) {
	if g.First.Timeline != g.Last.Timeline || g.Last.Name() < g.First.Name() {
		return false, fmt.Errorf("gap %s-%s: want two segments of one timeline in their order", g.First, g.Last)
	}
	g.Format, g.At = Format, g.At.UTC().Truncate(time.Second)
	err := r.createDocument(ctx, r.gapKey(g.span(), state), g)
	if errors.Is(err, storage.ErrExist) {
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("record gap %s-%s: %w", g.First, g.Last, err)
	}
	return err == nil, err
}

func (g GapRecord) span() Range { return Range{First: g.First, Last: g.Last} }

func (r *Repository) gapKey(g Range, state GapState) storage.Key {
	return r.keys.key("gap", g.First.Timeline.String(), g.First.Name()+"-"+g.Last.Name()+"."+string(state))
}

// listGaps lists what is known of gaps, by names alone.
func (r *Repository) listGaps(ctx context.Context) (expired []Range, known []GapRecord, err error) {
	for object, err := range r.bucket.List(ctx, r.keys.key("gap")+"/", "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list gaps: %w", err)
		}
		span, state, _ := strings.Cut(string(object.Key[strings.LastIndexByte(string(object.Key), '/')+1:]), ".")
		first, last, _ := strings.Cut(span, "-")
		g := GapRecord{state: GapState(state)}
		if g.First.UnmarshalText([]byte(first)) != nil || g.Last.UnmarshalText([]byte(last)) != nil || first[:8] != last[:8] || last < first {
			continue // not one of ours
		}
		switch g.state {
		case gapExpired:
			expired = append(expired, g.span())
		case GapLost, GapDropped, GapAccepted:
			known = append(known, g)
		}
	}
	return expired, known, nil
}

// Gap is a hole in the archive, or a part of one, of which one thing is known.
type Gap struct {
	Range
	State    GapState   // not GapAccepted
	Record   *GapRecord // of one that is lost or dropped; Archive knows its name alone, Survey all of it
	Accepted *GapRecord // a person knows of it
}

// arriving is how long a segment may come after one behind it: a leader's daemon pushes
// several at once. It is less than anybody waits before he fills a hole.
const arriving = 20 * time.Second

// arrives is for how long yet a hole may be on its way, because the segment right behind
// it has just come; zero: it is not.
func (a Archive) arrives(hole Range) time.Duration {
	t := a.timeline(hole.First.Timeline)
	if i, behind := t.find(hole.Last.Number(a.SegmentSize)+1, a.SegmentSize); behind && i < len(t.begun) && !a.listed.IsZero() {
		if age := a.listed.Sub(t.begun[i]); age.Abs() < arriving {
			return arriving - age
		}
	}
	return 0
}

// Arriving is how soon after it was listed the archive may have a gap that Gaps does not
// tell yet; zero: it tells all.
func (a Archive) Arriving() (soonest time.Duration) {
	for _, hole := range a.Missing() {
		if d := a.arrives(hole); d > 0 && (soonest == 0 || d < soonest) {
			soonest = d
		}
	}
	return soonest
}

// Gaps are all that is missing and not just on its way, cut where a record begins or ends.
func (a Archive) Gaps() (all []Gap) {
	for _, hole := range a.Missing() {
		begin, end := hole.First.Number(a.SegmentSize), hole.Last.Number(a.SegmentSize)+1
		cuts := []uint64{begin, end}
		for _, k := range a.known {
			if k.First.Timeline == hole.First.Timeline {
				cuts = append(cuts, min(max(k.First.Number(a.SegmentSize), begin), end), min(max(k.Last.Number(a.SegmentSize)+1, begin), end))
			}
		}
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
		for i := range cuts[1:] {
			g := Gap{Range: gap(hole.First.Timeline, cuts[i], cuts[i+1], a.SegmentSize)[0], State: GapLate}
			for i := range a.known {
				switch k := &a.known[i]; {
				case !k.span().covers(g.Range, a.SegmentSize):
				case k.state == GapAccepted:
					g.Accepted = k
				case g.Record == nil || k.state == GapDropped:
					g.State, g.Record = k.state, k
				}
			}
			if g.Record == nil && g.Accepted == nil && a.arrives(hole) > 0 {
				continue
			}
			all = append(all, g)
		}
	}
	return all
}

// know adds what records tell. What was dropped is missing though nothing is archived
// behind it yet.
func (a *Archive) know(known []GapRecord) {
	a.known = known
	for i := range a.Timelines {
		t := &a.Timelines[i]
		var dropped []Range
		for _, k := range known {
			n := len(t.Ranges)
			if k.state == GapDropped && k.First.Timeline == t.Timeline && (n == 0 || t.Ranges[n-1].Last.Name() < k.Last.Name()) {
				dropped = append(dropped, gap(t.Timeline, k.First.Number(a.SegmentSize), k.Last.Number(a.SegmentSize)+1, a.SegmentSize)...)
			}
		}
		dropped = Subtract(Subtract(dropped, t.Ranges, a.SegmentSize), a.expired, a.SegmentSize)
		t.Missing = merge(append(t.Missing, dropped...), a.SegmentSize)
	}
}

// readGaps reads the records of what is missing.
func (r *Repository) readGaps(ctx context.Context, a *Archive) (broken []Unreadable, err error) {
	missing := a.Missing()
	for i := range a.known {
		k := &a.known[i]
		if left := Subtract([]Range{k.span()}, missing, a.SegmentSize); len(left) == 1 && left[0] == k.span() {
			continue // closed
		}
		g, key := GapRecord{}, r.gapKey(k.span(), k.state)
		err := r.readDocument(ctx, key, 1<<16, &g)
		if err == nil {
			g.First, g.Last, g.state = k.First, k.Last, k.state
			*k = g
		} else if err := (*unreadables)(&broken).add("", key, err); err != nil {
			return nil, err
		}
	}
	return broken, nil
}

// GapSpan is the last commit or abort known before a gap, and the first in the segment
// behind it; zero where there is none near by.
func (r *Repository) GapSpan(ctx context.Context, a Archive, g Range) (after, next time.Time, err error) {
	h, _ := a.through(g)
	n := g.First.Number(a.SegmentSize)
	for n > 0 && !a.Has(a.segmentOn(h, n-1)) && g.First.Number(a.SegmentSize)-n < maxNeeded {
		n-- // one gap after another
	}
	if n > 0 && a.Has(a.segmentOn(h, n-1)) {
		if after, err = r.lastCommit(ctx, a, a.segmentOn(h, n-1)); err != nil {
			return after, next, err
		}
	}
	if behind := a.segmentOn(h, g.Last.Number(a.SegmentSize)+1); a.Has(behind) {
		object, err := r.StatWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: behind})
		if err != nil || object.Facts == nil {
			return after, next, err
		}
		next = object.Facts.MinTime
	}
	return after, next, nil
}

// through is the newest branch if it goes through a gap, else that of its own timeline.
func (a Archive) through(g Range) (h postgres.TimelineHistory, current bool) {
	for _, t := range slices.Backward(a.Timelines) {
		if h, ok := a.History(t.Timeline); ok {
			if a.segmentOn(h, g.First.Number(a.SegmentSize)) == g.First {
				return h, true
			}
			break
		}
	}
	return a.branch(g.First.Timeline), false
}

// Bridge is the first whole backup behind a gap on the newest branch, nil if there is
// none; current is false if that branch does not go through the gap.
func (s Survey) Bridge(g Range) (first *Manifest, current bool) {
	h, current := s.Archive.through(g)
	end := g.Last.End(s.Archive.SegmentSize)
	if fork, left := h.SwitchOf(g.Last.Timeline); left {
		end = min(end, fork)
	}
	for _, b := range s.Backups { // in the order of their ends
		if current && b.State == BackupOK && b.Manifest.StartLSN >= end && h.Contains(b.Manifest.StopTLI, b.Manifest.StopLSN-1) {
			return &b.Manifest, true
		}
	}
	return nil, current
}
