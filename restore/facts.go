package restore

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Facts are what the repository holds: all that a plan is made from.
type Facts struct {
	SegmentSize postgres.SegmentSize
	// Backups are the committed ones, oldest first.
	Backups   []catalog.Manifest
	Histories map[postgres.TimelineID]postgres.TimelineHistory
	// Archived is every segment from the oldest backup on, on any timeline.
	Archived map[postgres.Segment]bool
	// Unreadable are manifests and histories that are there and say nothing.
	Unreadable []catalog.Unreadable
	// WAL reads what the names alone do not tell.
	WAL WAL
}

// WAL looks into archived segments.
type WAL interface {
	// Headers are the facts of the segments, in their order.
	Headers(ctx context.Context, segments []postgres.Segment) ([]postgres.SegmentFacts, error)
	// Records yields the records of any kind that begin in or after the first of the
	// segments, which follow one another. The sequence ends where the log does; an
	// error means that the archive could not be read.
	Records(ctx context.Context, segments []postgres.Segment) iter.Seq2[postgres.Record, error]
}

// Gather reads what a plan needs from a repository: the manifests, the histories
// and the names of the archived segments. WAL itself is read when the plan asks.
func Gather(ctx context.Context, repo *catalog.Repository) (Facts, error) {
	info, err := repo.Info(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("read repository %s: %w", repo.Root(), err)
	}
	facts := Facts{SegmentSize: info.SegmentSize, Archived: map[postgres.Segment]bool{}}
	if facts.Backups, facts.Unreadable, err = repo.ReadableBackups(ctx); err != nil {
		return Facts{}, err
	}
	var broken []catalog.Unreadable
	if facts.Histories, broken, err = repo.Histories(ctx); err != nil {
		return Facts{}, err
	}
	facts.Unreadable = append(facts.Unreadable, broken...)
	source := &archive{repo: repo, entries: map[postgres.Segment]catalog.WALEntry{}, headers: map[postgres.Segment]postgres.SegmentFacts{}}
	facts.WAL = source
	if len(facts.Backups) == 0 {
		return facts, nil
	}
	oldest := facts.Backups[0].StartLSN
	for _, b := range facts.Backups {
		oldest = min(oldest, b.StartLSN)
	}
	timelines, err := repo.Timelines(ctx)
	if err != nil {
		return Facts{}, err
	}
	until := time.Now().Add(holeWait)
	for _, tli := range timelines {
		begin := uint64(0)
		if h := facts.Histories[tli].Entries; len(h) > 0 {
			begin = postgres.SegmentAt(tli, h[len(h)-1].Switch, info.SegmentSize).Number(info.SegmentSize)
		}
		entries, err := arrived(ctx, repo, postgres.SegmentAt(tli, oldest, info.SegmentSize), begin, info.SegmentSize, until)
		if err != nil {
			return Facts{}, err
		}
		for _, entry := range entries {
			facts.Archived[entry.File.Segment] = true
			source.entries[entry.File.Segment] = entry
		}
	}
	return facts, nil
}
