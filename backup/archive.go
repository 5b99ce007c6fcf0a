package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/storage"
	"golang.org/x/sync/errgroup"
)

// archiveWait waits until WAL has come into the repository: not into some archive,
// but to where a restore will look for it.
type archiveWait struct {
	repository   *catalog.Repository
	server       *server.Server // the one that archives
	size         postgres.SegmentSize
	stall, limit time.Duration
	waiting      func(string)
	warn         func(string)
	lost         bool // the server does not answer any more, or follows another one
	left         bool // the server writes on a later timeline than the one waited for
}

// span is the WAL from one position to another on one timeline.
type span struct {
	timeline    postgres.TimelineID
	first, last postgres.LSN // last is the end of the last record needed
}

// ArchiveError says that WAL did not come into the repository.
type ArchiveError struct {
	Missing   postgres.WALFile // the first that is missing
	Count     int              // how many are
	Waited    time.Duration
	Archiver  server.Archiver // as it was last seen
	Elsewhere bool            // the archiver says that it has stored the file
}

func (e *ArchiveError) Error() string {
	text := fmt.Sprintf("%s is not in the repository after %s", e.Missing, e.Waited.Round(time.Second))
	if e.Count > 1 {
		text += fmt.Sprintf(" (and %d more)", e.Count-1)
	}
	if e.Elsewhere {
		return text + ", but the server's archiver has stored " + e.Archiver.LastArchived + " somewhere"
	}
	text += fmt.Sprintf("; %d files wait for the archiver", e.Archiver.Backlog)
	if e.Archiver.Failing() {
		text += fmt.Sprintf(", which failed on %s at %s", e.Archiver.LastFailed, e.Archiver.FailedAt.UTC().Format(time.RFC3339))
	}
	return text
}

// Hint says what to look at.
func (e *ArchiveError) Hint() string {
	switch {
	case e.Elsewhere:
		return "archive_command stores WAL elsewhere: it must call archive-push with the configuration of this repository"
	case e.Missing.Kind == postgres.WALHistory:
		return "the timeline's history was archived elsewhere or never: run archive-push pg_wal/" + e.Missing.String() + " on the member"
	case e.Archiver.Failing():
		return "archive_command fails: PostgreSQL's log of this member says why"
	}
	return "the archiver is behind or stuck: see pg_stat_archiver and PostgreSQL's log of this member"
}

// The pauses between two looks, growing.
const (
	firstLook = 50 * time.Millisecond
	lastLook  = 2 * time.Second
	// elsewhereAfter is how long a file may be missing that the archiver has passed.
	elsewhereAfter = 10 * time.Second
)

// wait returns when every segment of s, and the timeline's history, is stored and
// holds what it must. It gives up after stall without progress and after limit.
func (a *archiveWait) wait(ctx context.Context, s span) error {
	type state struct {
		missing  int
		archived int64
		backlog  int
	}
	var seen state
	began := time.Now()
	progress, passed, pause := began, time.Time{}, firstLook
	archiver := server.Archiver{}
	for {
		archiver = a.ask(ctx, archiver)
		missing, err := a.missing(ctx, s)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			return a.verify(ctx, s)
		}
		now := time.Now()
		if found := (state{len(missing), archiver.Archived, archiver.Backlog}); found != seen {
			seen, progress = found, now
		}
		if !hasPassed(archiver, missing[0]) {
			passed = time.Time{}
		} else if passed.IsZero() {
			passed = now
		}
		failure := &ArchiveError{Missing: missing[0], Count: len(missing), Waited: now.Sub(began), Archiver: archiver,
			Elsewhere: !passed.IsZero() && now.Sub(passed) > elsewhereAfter}
		if failure.Elsewhere || now.Sub(progress) > a.stall || now.Sub(began) > a.limit {
			return failure
		}
		a.waiting(fmt.Sprintf("waiting for %s in the repository; %d files wait for the archiver", missing[0], archiver.Backlog))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
			pause = min(pause*3/2, lastLook)
		}
	}
}

// ask looks at the archiver. Losing the server is no failure here: another member
// may bring the rest.
func (a *archiveWait) ask(ctx context.Context, last server.Archiver) server.Archiver {
	if a.lost {
		return last
	}
	archiver, err := a.server.Archiver(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.warn(fmt.Sprintf("the server is gone while its WAL is waited for: %v", err))
		}
		a.lost = true
		return last
	}
	return archiver
}

// hasPassed tells whether the archiver has archived the file or a later one.
func hasPassed(a server.Archiver, missing postgres.WALFile) bool {
	last, err := postgres.ParseWALFile(a.LastArchived)
	return err == nil && last.Kind == postgres.WALSegment && missing.Kind == postgres.WALSegment &&
		last.Segment.Timeline == missing.Segment.Timeline && last.Segment.Name() >= missing.Segment.Name()
}

// missing lists what the repository lacks of s, the history first.
func (a *archiveWait) missing(ctx context.Context, s span) ([]postgres.WALFile, error) {
	var missing []postgres.WALFile
	if s.timeline > 1 {
		history := postgres.HistoryFile(s.timeline)
		switch _, err := a.repository.StatWAL(ctx, history); {
		case errors.Is(err, storage.ErrNotExist):
			missing = append(missing, history)
		case err != nil:
			return nil, err
		}
	}
	stored, err := a.repository.Segments(ctx, s.timeline, postgres.SegmentAt(s.timeline, s.first, a.size))
	if err != nil {
		return nil, err
	}
	have := map[postgres.Segment]bool{}
	for _, entry := range stored {
		have[entry.File.Segment] = true
	}
	for _, seg := range a.segments(s) {
		if have[seg] {
			continue
		}
		if (a.lost || a.left) && seg == a.last(s) {
			if _, ok, err := a.forked(ctx, s); err != nil || ok {
				return missing, err
			}
		}
		missing = append(missing, postgres.WALFile{Kind: postgres.WALSegment, Segment: seg})
	}
	return missing, nil
}

func (a *archiveWait) last(s span) postgres.Segment {
	return postgres.SegmentEndingAt(s.timeline, s.last, a.size)
}

// segments are those of s, under its own timeline; none if a boundary lies between
// its ends.
func (a *archiveWait) segments(s span) (all []postgres.Segment) {
	for seg := postgres.SegmentAt(s.timeline, s.first, a.size); seg.Number(a.size) <= a.last(s).Number(a.size); seg = seg.Next(a.size) {
		all = append(all, seg)
	}
	return all
}

// forked looks for the last segment under a timeline that left ours in that very
// segment, at or after the last position: it begins with the same WAL, and the old
// leader will never archive its own (R15).
func (a *archiveWait) forked(ctx context.Context, s span) (postgres.WALFile, bool, error) {
	histories, _, err := a.repository.Histories(ctx)
	if err != nil {
		return postgres.WALFile{}, false, err
	}
	last := a.last(s)
	for tli, history := range histories {
		fork, ok := history.SwitchOf(s.timeline)
		if !ok || fork < s.last || fork >= last.End(a.size) || history.TimelineAt(fork) != tli {
			continue
		}
		file := postgres.WALFile{Kind: postgres.WALSegment, Segment: last.On(tli)}
		_, err := a.repository.StatWAL(ctx, file)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		return file, err == nil, err
	}
	return postgres.WALFile{}, false, nil
}

// statAtOnce bounds the requests under way.
const statAtOnce = 8

// verify reads the header of every stored segment: each must be whole, the last
// one at least up to the position needed.
func (a *archiveWait) verify(ctx context.Context, s span) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(statAtOnce)
	last := a.last(s)
	for _, seg := range a.segments(s) {
		group.Go(func() error {
			file := postgres.WALFile{Kind: postgres.WALSegment, Segment: seg}
			object, err := a.repository.StatWAL(ctx, file)
			if errors.Is(err, storage.ErrNotExist) && seg == last {
				var ok bool
				if file, ok, err = a.forked(ctx, s); ok {
					object, err = a.repository.StatWAL(ctx, file)
				}
			}
			if err != nil {
				return err
			}
			if object.Size != int64(a.size) || object.Facts == nil {
				return fmt.Errorf("the repository's %s is %d bytes, not a whole segment", file, object.Size)
			}
			if !object.Facts.Walked {
				a.warn(fmt.Sprintf("%s is stored, but it could not be read as WAL", file))
				return nil
			}
			end := seg.Start(a.size) + postgres.LSN(object.Facts.ValidEnd)
			if !object.Facts.Complete(a.size) && (seg != last || end < s.last) {
				return fmt.Errorf("the repository's %s ends at %s: the backup needs more of it", file, end)
			}
			return nil
		})
	}
	return group.Wait()
}
