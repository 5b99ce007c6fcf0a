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
	for _, hole := range a.without(gone).Missing() {
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
			if slices.Contains(a.expired, gap) {
				continue
			}
			if err := r.once(ctx, r.gapKey(gap, gapExpired), expiredGap{Format, gap.First, gap.Last, at}); err != nil {
				return err
			}
			for _, old := range a.expired { // one hole, one record
				if gap.covers(old, a.SegmentSize) {
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
