package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// expiredGap is gap/<TLI>/<first>-<last>.expired: a hole in the archive that expiry
// made, so that nobody takes it for a loss. The name says all that a reader needs.
type expiredGap struct {
	Format int              `json:"format"`
	First  postgres.Segment `json:"first"`
	Last   postgres.Segment `json:"last"`
	At     time.Time        `json:"at"`
}

const expiredSuffix = ".expired"

// expiredGaps lists the holes that expiry made.
func (r *Repository) expiredGaps(ctx context.Context) (found []Range, err error) {
	for object, err := range r.bucket.List(ctx, r.keys.key("gap")+"/", "") {
		if err != nil {
			return nil, fmt.Errorf("list gaps: %w", err)
		}
		name, ok := strings.CutSuffix(string(object.Key[strings.LastIndexByte(string(object.Key), '/')+1:]), expiredSuffix)
		first, last, two := strings.Cut(name, "-")
		var gap Range
		if ok && two && gap.First.UnmarshalText([]byte(first)) == nil && gap.Last.UnmarshalText([]byte(last)) == nil {
			found = append(found, gap)
		}
	}
	return found, nil
}

func (r *Repository) expiredGapKey(gap Range) storage.Key {
	return r.keys.key("gap", gap.First.Timeline.String(), gap.First.Name()+"-"+gap.Last.Name()+expiredSuffix)
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
			if err := r.once(ctx, r.expiredGapKey(gap), expiredGap{Format, gap.First, gap.Last, at}); err != nil {
				return err
			}
			for _, old := range a.expired { // one hole, one record
				if gap.covers(old, a.SegmentSize) {
					if err := r.remove(ctx, r.expiredGapKey(old)); err != nil {
						return err
					}
				}
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
		t := &a.Timelines[i]
		for _, e := range expired {
			if e.First.Timeline != t.Timeline {
				continue
			}
			begin, end := e.First.Number(a.SegmentSize), e.Last.Number(a.SegmentSize)+1
			var left []Range
			for _, m := range t.Missing {
				first, last := m.First.Number(a.SegmentSize), m.Last.Number(a.SegmentSize)
				left = append(left, gap(t.Timeline, first, min(last+1, begin), a.SegmentSize)...)
				left = append(left, gap(t.Timeline, max(first, end), last+1, a.SegmentSize)...)
			}
			t.Missing = left
		}
	}
}
