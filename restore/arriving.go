package restore

import (
	"context"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// A leader's daemon pushes several segments at once, and a later one may be stored
// first. A hole in front of one that came so lately is waited for before it is a gap.
const (
	holeFresh = 2 * time.Minute
	holeWait  = 10 * time.Second
	holePause = 250 * time.Millisecond
)

// arrived lists the segments of a timeline from one on, and again until a time while what
// is on its way may close a hole. What comes behind the first list has holes of its own: it is
// left out. begin is the number of the segment that the timeline begins with, 0 if not known.
func arrived(ctx context.Context, repo *catalog.Repository, from postgres.Segment, begin uint64, size postgres.SegmentSize, until time.Time) ([]catalog.WALEntry, error) {
	all, err := repo.Segments(ctx, from.Timeline, from)
	if begin < from.Number(size) {
		begin = 0
	}
	for err == nil && time.Now().Before(until) {
		i := hole(all, begin, size, time.Now())
		if i < 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(holePause):
		}
		last := all[len(all)-1].File.Segment.Number(size)
		if i > 0 {
			from = all[i-1].File.Segment.Next(size)
		}
		var rest []catalog.WALEntry
		rest, err = repo.Segments(ctx, from.Timeline, from)
		all = append(all[:i], slices.DeleteFunc(rest, func(e catalog.WALEntry) bool { return e.File.Segment.Number(size) > last })...)
	}
	return all, err
}

// hole is the first segment that has just come and before which one is missing; -1: none.
func hole(all []catalog.WALEntry, begin uint64, size postgres.SegmentSize, now time.Time) int {
	next := begin
	return slices.IndexFunc(all, func(e catalog.WALEntry) bool {
		n := e.File.Segment.Number(size)
		missing := next != 0 && next < n
		next = n + 1
		return missing && now.Sub(e.Archived).Abs() < holeFresh
	})
}
