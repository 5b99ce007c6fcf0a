package wal

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Fetcher answers restore_command as long as it lives. It is a Getter whose batch does
// not end with the answer: the segments behind the one that recovery asked for go on
// coming while PostgreSQL replays.
type Fetcher struct {
	getter Getter
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	hits   atomic.Int64

	mu         sync.Mutex
	last       *retrieval // that recovery was answered by; nil: nothing is fetched ahead
	spool      *spool
	repository *catalog.Repository
	wanted     []postgres.Segment
	jobs       map[postgres.Segment]*job
	stopped    bool // the archive ends, or fails, behind what is asked for
	idle       *time.Timer
}

// job is a segment on its way to the spool.
type job struct {
	cancel context.CancelFunc
	done   chan struct{}
	alive  atomic.Pointer[progressWatch] // of who waits for it
}

// fetcherIdle is how long nobody asks until nothing is kept for him.
const fetcherIdle = time.Minute

// NewFetcher takes what is common to all gets. Close it.
func NewFetcher(g Getter) *Fetcher {
	f := &Fetcher{getter: g, jobs: map[postgres.Segment]*job{}}
	f.getter.beyond = f
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.idle = time.AfterFunc(fetcherIdle, f.drop)
	return f
}

// Close ends what is fetched ahead and removes it.
func (f *Fetcher) Close() {
	f.idle.Stop()
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.work.Wait()
	f.drop()
}

// Hits counts the segments that had been fetched before they were asked for.
func (f *Fetcher) Hits() int64 { return f.hits.Load() }

// Get is Getter.Get, but that the file is put aside: who asked moves it.
func (f *Fetcher) Get(ctx context.Context, r hook.Request) error {
	g := f.getter
	g.Mode, g.into = r.Mode, r.Aside()
	return g.Get(ctx, r.File, r.Path)
}

// take gives recovery a segment from the spool and moves the window on, in one step:
// else what was just taken would be fetched again.
func (f *Fetcher) take(r *retrieval, s *spool) error {
	if f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
	}
	err := s.take(r.file.Segment, r.size, r.into, time.Now())
	if err == nil && f != nil {
		f.hits.Add(1)
		f.advance(r, s)
	}
	return err
}

// answered is called when the archive begins to give what recovery asked for: there
// may be more again.
func (f *Fetcher) answered(r *retrieval, s *spool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = false
	f.advance(r, s)
}

// advance moves the window behind a segment that recovery is being given.
func (f *Fetcher) advance(r *retrieval, s *spool) {
	if f.last == nil || f.last.system != r.system {
		f.repository = catalog.New(r.Bucket, catalog.Location{Scope: r.Scope, System: r.system}, catalog.Options{})
	}
	f.last, f.spool, f.wanted = r, s, r.following()
	f.trim()
	f.fill()
	f.idle.Reset(fetcherIdle)
}

// trim gives up what is not wanted any more.
func (f *Fetcher) trim() {
	for segment, j := range f.jobs {
		if !slices.Contains(f.wanted, segment) {
			j.cancel()
		}
	}
	f.spool.keep(f.wanted, time.Now())
}

func (f *Fetcher) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil {
		return
	}
	f.last, f.wanted = nil, nil
	f.trim()
}

// fill begins what has room, in the order of recovery.
func (f *Fetcher) fill() {
	for _, segment := range f.wanted {
		if f.stopped || f.ctx.Err() != nil || len(f.jobs) >= prefetchWorkers {
			return
		}
		if f.jobs[segment] != nil || f.spool.has(segment) {
			continue
		}
		ctx, cancel := context.WithCancel(f.ctx)
		j := &job{cancel: cancel, done: make(chan struct{})}
		f.jobs[segment] = j
		r, s, repository := f.last, f.spool, f.repository
		f.work.Go(func() {
			err := j.fetch(ctx, r, s, repository, segment)
			f.over(segment, err, ctx.Err() != nil)
		})
	}
}

func (j *job) fetch(ctx context.Context, r *retrieval, s *spool, repository *catalog.Repository, segment postgres.Segment) error {
	defer close(j.done)
	ctx, watch := watchProgress(ctx, r.Timeouts.patient(hook.Rewind))
	defer watch.stop()
	return s.store(segment, func(w io.Writer) error {
		return fetchWAL(ctx, repository, postgres.WALFile{Kind: postgres.WALSegment, Segment: segment}, r.size, writerFunc(func(b []byte) (int, error) {
			watch.alive()
			if waiting := j.alive.Load(); waiting != nil {
				waiting.alive()
			}
			return w.Write(b)
		}))
	})
}

// over ends a job. A failure is nobody's trouble: the segment is asked for in its turn.
func (f *Fetcher) over(segment postgres.Segment, err error, given bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[segment].cancel()
	delete(f.jobs, segment)
	switch {
	case !slices.Contains(f.wanted, segment):
		f.trim()
	case err != nil && !given:
		f.stopped = true
		if !errors.Is(err, storage.ErrNotExist) {
			logger(f.getter.Log).Debug("fetch ahead", "segment", segment.Name(), "error", err)
		}
	}
	f.fill()
}

// await waits for a segment that is on its way, and tells whether it came.
func (f *Fetcher) await(ctx context.Context, r *retrieval) bool {
	if f == nil || r.spool() == nil {
		return false
	}
	f.mu.Lock()
	j := f.jobs[r.file.Segment]
	f.mu.Unlock()
	if j == nil {
		return false
	}
	j.alive.Store(r.watch)
	select {
	case <-j.done:
		return r.fromSpool()
	case <-ctx.Done():
		return false
	}
}
