package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sync/errgroup"
)

// archive is the WAL of a repository. Headers are remembered, and so are the last
// two segments read: a planner looks at neighbours again and again.
type archive struct {
	repo    *catalog.Repository
	entries map[postgres.Segment]catalog.WALEntry

	mu      sync.Mutex
	headers map[postgres.Segment]postgres.SegmentFacts
	recent  [2]wholeSegment
}

type wholeSegment struct {
	name postgres.Segment
	data []byte
}

// headersAtOnce bounds the ranged GETs in flight.
const headersAtOnce = 16

func newArchive(repo *catalog.Repository) *archive {
	return &archive{repo: repo, entries: map[postgres.Segment]catalog.WALEntry{}, headers: map[postgres.Segment]postgres.SegmentFacts{}}
}

func (a *archive) Headers(ctx context.Context, segments []postgres.Segment) ([]postgres.SegmentFacts, error) {
	found := make([]postgres.SegmentFacts, len(segments))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(headersAtOnce)
	for i, s := range segments {
		group.Go(func() (err error) {
			found[i], err = a.header(ctx, s)
			return err
		})
	}
	return found, group.Wait()
}

func (a *archive) header(ctx context.Context, s postgres.Segment) (postgres.SegmentFacts, error) {
	a.mu.Lock()
	known, ok := a.headers[s]
	a.mu.Unlock()
	if ok {
		return known, nil
	}
	object, err := a.repo.StatWALEntry(ctx, a.entries[s])
	if err != nil {
		return known, fmt.Errorf("read the header of %s: %w", s, err)
	}
	if object.Facts != nil {
		known = *object.Facts
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.headers[s] = known
	return known, nil
}

func (a *archive) Records(ctx context.Context, segments []postgres.Segment) iter.Seq2[postgres.Record, error] {
	return func(yield func(postgres.Record, error) bool) {
		var failed error
		next := 0
		reader := postgres.NewRecordReader(0, func() (s postgres.Segment, data []byte, err error) {
			if next == len(segments) {
				return s, nil, io.EOF
			}
			s, next = segments[next], next+1
			data, failed = a.segment(ctx, s)
			return s, data, failed
		})
		for {
			record, err := reader.NextAny()
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

// segment reads a whole segment. The caller does not change it.
func (a *archive) segment(ctx context.Context, s postgres.Segment) ([]byte, error) {
	a.mu.Lock()
	for _, r := range a.recent {
		if r.name == s && r.data != nil {
			a.mu.Unlock()
			return r.data, nil
		}
	}
	a.mu.Unlock()
	var buffer bytes.Buffer
	if _, err := a.repo.GetWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: s}, &buffer); err != nil {
		return nil, fmt.Errorf("read %s from the archive: %w", s, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recent[0], a.recent[1] = a.recent[1], wholeSegment{s, buffer.Bytes()}
	return buffer.Bytes(), nil
}
