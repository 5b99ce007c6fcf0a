package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/wal"
)

// fillAgain is when a file that is not complete, or not to be read, is looked at again.
const fillAgain = time.Minute

// due are the files that the archive has lacked for long enough, as this member saw it.
func (k *keeper) due(offers []postgres.WALFile, lacks map[postgres.WALFile]bool, now time.Time, after time.Duration) (due []postgres.WALFile) {
	since := map[postgres.WALFile]time.Time{}
	for _, f := range offers {
		if !lacks[f] {
			continue
		}
		first, seen := k.since[f]
		if !seen {
			first = now
		}
		if since[f] = first; now.Sub(first) >= after {
			due = append(due, f)
		}
	}
	k.since = since
	return due
}

// settled tells that nobody needs to bring a file: at the last survey the archive had it,
// or had let it expire, or began behind it.
func settled(a catalog.Archive, f postgres.WALFile) bool {
	i := slices.IndexFunc(a.Timelines, func(t catalog.TimelineWAL) bool { return t.Timeline == f.Segment.Timeline && len(t.Ranges) > 0 })
	if i < 0 || f.Kind != postgres.WALSegment {
		return false
	}
	n, t := f.Segment.Number(a.SegmentSize), a.Timelines[i]
	return n <= t.Ranges[len(t.Ranges)-1].Last.Number(a.SegmentSize) && !slices.ContainsFunc(t.Missing, func(r catalog.Range) bool {
		return r.First.Number(a.SegmentSize) <= n && n <= r.Last.Number(a.SegmentSize)
	})
}

// offer hands over what is due, unless the last of it is still under way.
func (k *keeper) offer(due []postgres.WALFile) {
	if len(due) > 0 {
		select {
		case k.work <- due:
		default:
		}
	}
}

// fillWhat pushes what the rounds hand over, until ctx ends.
func (s *service) fillWhat(ctx context.Context, k *keeper) {
	f := filler{tried: map[postgres.WALFile]time.Time{}}
	for {
		select {
		case <-ctx.Done():
			return
		case due := <-k.work:
			s.fill(ctx, &f, filepath.Join(k.pgdata, "pg_wal"), due)
		}
	}
}

// filler remembers what did not go.
type filler struct {
	tried  map[postgres.WALFile]time.Time
	failed string
}

// fill stores the oldest first, and one after the other: the archiver's own pushes go
// before. Where one fails for want of the store, the others wait for the next round.
func (s *service) fill(ctx context.Context, f *filler, dir string, due []postgres.WALFile) {
	s.mu.Lock()
	push := s.hooks.fill
	s.mu.Unlock()
	for _, file := range due {
		if time.Since(f.tried[file]) < fillAgain {
			continue
		}
		outcome, err := push(ctx, filepath.Join(dir, file.String()))
		switch {
		case err == nil && outcome == catalog.Stored:
			s.mu.Lock()
			s.counts.filled++
			s.mu.Unlock()
			s.event(slog.LevelInfo, "fill.stored", "the archive lacked a file that this member has", "file", file.String())
		case err == nil, errors.Is(err, fs.ErrNotExist): // another was faster, or PostgreSQL
		case is[*catalog.ConflictError](err):
			s.event(slog.LevelError, "fill.conflict", "the archive has got other content under the name of a file that this member has", "file", file.String(), "error", err)
		case is[*wal.IncompleteError](err):
			s.log.Debug("the archive lacks a file that is not complete here", "file", file.String(), "error", err)
			f.tried[file] = time.Now()
		case ctx.Err() != nil:
			return
		default:
			if err.Error() != f.failed {
				s.event(slog.LevelWarn, "fill.failed", "the archive cannot be given what it lacks", "file", file.String(), "error", err)
			}
			f.failed = err.Error()
			return
		}
		f.failed = ""
	}
}
