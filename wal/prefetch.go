package wal

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// spoolBytes bounds the segments fetched ahead.
const spoolBytes = 256 << 20

// prefetchWorkers bounds the requests, and the decoders, of one batch.
const prefetchWorkers = 4

// fromSpool answers without the network if an earlier batch brought the file. Only
// recovery itself is answered so: pg_rewind and others read what the store has.
func (r *retrieval) fromSpool() bool {
	s := r.spool()
	if s == nil {
		return false
	}
	err := r.beyond.take(r, s)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("the segment fetched ahead is of no use, fetching it again", "file", r.file.String(), "error", err)
	}
	return err == nil
}

// spool is nil where nothing is fetched ahead.
func (r *retrieval) spool() *spool {
	if r.Spool == "" || r.ahead() == 0 || r.system == 0 || r.file.Kind != postgres.WALSegment || filepath.Base(r.dest) != hook.RecoveryXLOG {
		return nil
	}
	s, err := openSpool(r.Spool, r.Identity+"\n"+r.Scope, r.DataDir, r.system)
	if err != nil {
		r.log.Debug("no spool", "error", err)
		return nil
	}
	return s
}

// ahead is how many segments are fetched ahead.
func (r *retrieval) ahead() int {
	if r.size == 0 {
		return 0
	}
	return min(cmp.Or(r.Batch, DefaultBatch)-1, spoolBytes/int(r.size))
}

// following are the segments that are fetched ahead.
func (r *retrieval) following() (all []postgres.Segment) {
	for s := r.file.Segment.Next(r.size); len(all) < r.ahead(); s = s.Next(r.size) {
		all = append(all, s)
	}
	return all
}

// prefetch fetches the segments after ours into the spool. A failure here is
// nobody's trouble: the segment is asked for again when its time comes.
type prefetch struct {
	*retrieval
	repository *catalog.Repository
	spool      *spool
	wanted     []postgres.Segment
	ctx        context.Context
	cancel     context.CancelFunc
	once       sync.Once
	workers    sync.WaitGroup

	queue chan postgres.Segment
	full  atomic.Bool // no further segment is begun
}

func (r *retrieval) newPrefetch(ctx context.Context, repository *catalog.Repository) *prefetch {
	p := &prefetch{retrieval: r, repository: repository, spool: r.spool()}
	p.ctx, p.cancel = context.WithCancel(ctx)
	if p.spool == nil {
		return p
	}
	p.wanted = r.following()
	return p
}

// start is called when the first bytes of our own file are there: at the end of
// the archive nothing is asked for in vain.
func (p *prefetch) start() {
	if p.spool == nil {
		return
	}
	p.once.Do(func() {
		if p.beyond != nil {
			p.beyond.answered(p.retrieval, p.spool)
			return
		}
		p.spool.keep(p.wanted, time.Now())
		p.queue = make(chan postgres.Segment, len(p.wanted))
		for _, segment := range p.wanted {
			p.queue <- segment
		}
		close(p.queue)
		for range min(prefetchWorkers, len(p.wanted)) {
			p.workers.Go(p.work)
		}
	})
}

func (p *prefetch) work() {
	for segment := range p.queue {
		if p.full.Load() {
			return
		}
		if p.spool.has(segment) {
			continue
		}
		err := p.spool.store(segment, func(w io.Writer) error {
			return fetchWAL(p.ctx, p.repository, postgres.WALFile{Kind: postgres.WALSegment, Segment: segment}, p.size, w)
		})
		if err != nil {
			p.full.Store(true)
			if !errors.Is(err, storage.ErrNotExist) && p.ctx.Err() == nil {
				p.log.Debug("fetch ahead", "segment", segment.Name(), "error", err)
			}
		}
	}
}

// finish ends the batch. PostgreSQL waits for us: after our own file came, the
// others have a short while, and no new one is begun in the last part of it.
func (p *prefetch) finish(ours bool) {
	defer p.workers.Wait()
	defer p.cancel()
	if !ours {
		p.full.Store(true)
		return
	}
	while := 8 * time.Second
	if p.quick() {
		while = time.Second
	}
	begin := time.AfterFunc(while/4, func() { p.full.Store(true) })
	defer begin.Stop()
	end := time.AfterFunc(while, p.cancel)
	defer end.Stop()
	p.workers.Wait()
}
