package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sync/errgroup"
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
	info, damaged, err := repo.KnownInfo(ctx)
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
	facts.Unreadable = append(append(facts.Unreadable, damaged...), broken...)
	source := &archive{repo: repo, size: int64(info.SegmentSize), entries: map[postgres.Segment]catalog.WALEntry{}, headers: map[postgres.Segment]postgres.SegmentFacts{}}
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

// archive is the WAL of a repository. Headers are remembered, and so are the last
// two segments read: a planner looks at neighbours again and again. It serves one
// planner, which asks for one thing after the other.
type archive struct {
	repo    *catalog.Repository
	size    int64 // of a segment
	entries map[postgres.Segment]catalog.WALEntry
	headers map[postgres.Segment]postgres.SegmentFacts
	recent  [2]wholeSegment
}

type wholeSegment struct {
	name postgres.Segment
	data *io.SectionReader
	file *os.File // that data reads; nil: it is in memory
}

// headersAtOnce bounds the ranged GETs in flight.
const headersAtOnce = 16

func (a *archive) Headers(ctx context.Context, segments []postgres.Segment) ([]postgres.SegmentFacts, error) {
	found, damaged := make([]postgres.SegmentFacts, len(segments)), make([]bool, len(segments))
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(headersAtOnce)
	for i, s := range segments {
		known, ok := a.headers[s]
		if ok {
			found[i] = known
			continue
		}
		group.Go(func() error {
			object, err := a.repo.StatWALEntry(within, a.entries[s])
			if damaged[i] = errors.Is(err, codec.ErrCorrupt); err != nil && !damaged[i] {
				return fmt.Errorf("read the header of %s: %w", s, err)
			}
			if object.Facts != nil {
				found[i] = *object.Facts
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, s := range segments {
		if damaged[i] { // the content may be whole, and tells the same
			data, err := a.segment(ctx, s)
			if err != nil {
				return nil, err
			}
			found[i], _ = postgres.ScanSegmentAt(postgres.WALFile{Kind: postgres.WALSegment, Segment: s}, data, data.Size()) // as whoever archives it
		}
		a.headers[s] = found[i]
	}
	return found, nil
}

func (a *archive) Records(ctx context.Context, segments []postgres.Segment) iter.Seq2[postgres.Record, error] {
	return func(yield func(postgres.Record, error) bool) {
		var failed error
		next := 0
		reader := postgres.NewRecordReader(func() (s postgres.Segment, data *io.SectionReader, err error) {
			if next == len(segments) {
				return s, nil, io.EOF
			}
			s, next = segments[next], next+1
			data, failed = a.segment(ctx, s)
			return s, data, failed
		})
		for {
			record, err := reader.Next()
			switch {
			case failed != nil:
				yield(record, failed)
				return
			case errors.Is(err, io.EOF), errors.Is(err, postgres.ErrEndOfWAL):
				return
			case !yield(record, err) || err != nil:
				return
			}
		}
	}
}

// heldSegment is the largest segment that is held in memory.
const heldSegment = 32 << 20

// segment reads a whole segment, a large one into a file without a name.
func (a *archive) segment(ctx context.Context, s postgres.Segment) (*io.SectionReader, error) {
	for _, r := range a.recent {
		if r.name == s && r.data != nil {
			return r.data, nil
		}
	}
	read := wholeSegment{name: s}
	var buffer bytes.Buffer
	var to io.Writer = &buffer
	if a.size > heldSegment {
		var err error
		if read.file, err = os.CreateTemp("", "pgha-wal-*"); err == nil {
			err = os.Remove(read.file.Name())
		}
		if err != nil {
			return nil, err
		}
		to = read.file
	}
	var object catalog.WALObject
	err := catalog.Twice(func() (err error) {
		if buffer.Reset(); read.file != nil {
			_, err = read.file.Seek(0, io.SeekStart)
		}
		if err == nil {
			object, err = a.repo.GetWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: s}, catalog.AtMost(to, a.size))
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s from the archive: %w", s, err), read.close())
	}
	if read.data = io.NewSectionReader(bytes.NewReader(buffer.Bytes()), 0, object.Size); read.file != nil {
		read.data = io.NewSectionReader(read.file, 0, object.Size)
	}
	if err := a.recent[0].close(); err != nil {
		return nil, err
	}
	a.recent[0], a.recent[1] = a.recent[1], read
	return read.data, nil
}

func (w wholeSegment) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}
