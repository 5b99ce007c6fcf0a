package catalog

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// expiredGap is gap/<TLI>/<first>-<last>.expired: a hole in the archive that expiry
// made, so that nobody takes it for a loss. The name says all that a reader needs.
type expiredGap struct {
	Format int              `json:"format"`
	First  postgres.Segment `json:"first"`
	Last   postgres.Segment `json:"last"`
	At     time.Time        `json:"at"`
}

// RecordExpired writes down which holes will be in the archive once what gone tells
// to is removed. It comes before the removal.
func (r *Repository) RecordExpired(ctx context.Context, a Archive, gone func(postgres.Segment) bool, at time.Time) error {
	for _, hole := range append(a.without(gone).Missing(), a.beginnings(gone)...) {
		if hole.Segments > maxNeeded {
			continue // a jump of the log's position, not ours
		}
		for s := hole.First; s != hole.Last.Next(a.SegmentSize); s = s.Next(a.SegmentSize) {
			if !gone(s) {
				continue
			}
			gap := Range{First: s, Last: s}
			for s != hole.Last && gone(s.Next(a.SegmentSize)) {
				s = s.Next(a.SegmentSize)
				gap.Last = s
			}
			for _, old := range a.expired {
				switch {
				case old.covers(gap, a.SegmentSize):
					gap = old
				case old.Last.Next(a.SegmentSize) == gap.First:
					gap.First = old.First
				}
			}
			if !slices.Contains(a.expired, gap) {
				if err := r.once(ctx, r.gapKey(gap, gapExpired), expiredGap{Format, gap.First, gap.Last, at}); err != nil {
					return err
				}
			}
			for _, old := range a.expired { // one hole, one record
				if gap != old && gap.covers(old, a.SegmentSize) {
					if err := r.remove(ctx, r.gapKey(old, gapExpired)); err != nil {
						return err
					}
				}
			}
		}
	}
	for _, g := range a.known { // what is known of a hole goes with what lay around it
		s := g.First
		if g.Last.Number(a.SegmentSize)-s.Number(a.SegmentSize) > maxNeeded { // no server wrote so much: nothing of ours
			continue
		}
		for gone(s) && s.Number(a.SegmentSize) < g.Last.Number(a.SegmentSize) {
			s = s.Next(a.SegmentSize)
		}
		if gone(s) {
			if err := r.remove(ctx, r.gapKey(g.span(), g.state)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g Range) covers(o Range, size postgres.SegmentSize) bool {
	return g.First.Timeline == o.First.Timeline && g.First.Number(size) <= o.First.Number(size) && o.Last.Number(size) <= g.Last.Number(size)
}

// beginnings are what goes of each timeline before the first segment that stays. That is no hole once all of it is
// gone; but several go at once, and a removal that is killed leaves some behind others.
func (a Archive) beginnings(gone func(postgres.Segment) bool) (all []Range) {
	for _, t := range a.Timelines {
		if len(t.Ranges) == 0 {
			continue
		}
		begin, last := t.Ranges[0].First.Number(a.SegmentSize), t.Ranges[len(t.Ranges)-1].Last.Number(a.SegmentSize)
		end := begin
		for end <= last && end-begin < maxNeeded && gone(postgres.SegmentAt(t.Timeline, postgres.LSN(end*uint64(a.SegmentSize)), a.SegmentSize)) {
			end++
		}
		all = append(all, gap(t.Timeline, begin, end, a.SegmentSize)...)
	}
	return all
}

// without is the archive after a removal.
func (a Archive) without(gone func(postgres.Segment) bool) Archive {
	var left []TimelineWAL
	for _, t := range a.Timelines {
		rest := TimelineWAL{Timeline: t.Timeline}
		for _, r := range t.Ranges {
			for s, n := r.First, 0; n < r.Segments; s, n = s.Next(a.SegmentSize), n+1 {
				if !gone(s) {
					rest.add(WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: s}}, a.SegmentSize)
				}
			}
		}
		left = append(left, rest)
	}
	return newArchive(a.SegmentSize, left, a.histories)
}

// forgive takes the holes that expiry made out of what is missing.
func (a *Archive) forgive(expired []Range) {
	a.expired = expired
	for i := range a.Timelines {
		a.Timelines[i].Missing = Subtract(a.Timelines[i].Missing, expired, a.SegmentSize)
	}
}

// Subtract is what is left of some ranges without others.
func Subtract(from, what []Range, size postgres.SegmentSize) (left []Range) {
	if len(from) == 0 || len(what) == 0 {
		return from
	}
	compare := func(a, b Range) int {
		return cmp.Or(cmp.Compare(a.First.Timeline, b.First.Timeline), cmp.Compare(a.First.Number(size), b.First.Number(size)))
	}
	what = slices.SortedFunc(slices.Values(what), compare)
	furthest := make([]uint64, len(what)) // the end of those of a timeline up to here
	for i, w := range what {
		furthest[i] = w.Last.Number(size) + 1
		if i > 0 && what[i-1].First.Timeline == w.First.Timeline {
			furthest[i] = max(furthest[i], furthest[i-1])
		}
	}
	for _, m := range from {
		at, end := m.First.Number(size), m.Last.Number(size)+1
		i := sort.Search(len(what), func(i int) bool {
			return what[i].First.Timeline > m.First.Timeline || what[i].First.Timeline == m.First.Timeline && furthest[i] > at
		})
		if i == len(what) || what[i].First.Timeline != m.First.Timeline || what[i].First.Number(size) >= end {
			left = append(left, m)
			continue
		}
		for ; i < len(what) && what[i].First.Timeline == m.First.Timeline && at < end; i++ {
			left = append(left, gap(m.First.Timeline, at, min(end, what[i].First.Number(size)), size)...)
			at = max(at, furthest[i])
		}
		left = append(left, gap(m.First.Timeline, at, end, size)...)
	}
	return left
}
