package wal

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
)

// Ahead answers archive_command for one data directory as long as it lives. It pushes
// what PostgreSQL is going to ask for, and answers from memory what is stored. Only
// the answer to a request counts: what fails ahead is asked for in its turn.
type Ahead struct {
	pusher  Pusher
	workers int
	dir     string // pg_wal
	limit   int64  // of the memory of all pushes
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
	memory  memory
	asked   chan struct{} // has room for one push that somebody waits for
	hits    atomic.Int64

	mu      sync.Mutex
	durable durable
	flight  map[identity]chan struct{} // closed when the push is over
	waiting map[string]bool            // pushed ahead, or about to be, and not asked for yet
	queue   []string                   // ready files in PostgreSQL's order
	running int                        // workers
	bytes   int64                      // that they hold
	looking bool                       // for ready files
	looked  time.Time                  // when they may be looked for again
	resting bool                       // nothing is pushed ahead before the store has taken what was asked for
}

const (
	// pushBytes bounds the memory of all pushes at once. One that somebody waits for
	// always has its share, however large the segments are.
	pushBytes = 128 << 20
	// windowFiles is how many files for a worker are pushed before they are asked for.
	windowFiles = 4
	// lookShare is the part of the time that may be spent on reading archive_status.
	lookShare = 20
)

// NewAhead serves the data directory of a pusher. Close it.
func NewAhead(p Pusher, workers int) *Ahead {
	p.Options.Encoders = &codec.Pool{}
	a := &Ahead{pusher: p, workers: workers, limit: pushBytes, dir: filepath.Join(p.DataDir, "pg_wal"), asked: make(chan struct{}, 1),
		flight: map[identity]chan struct{}{}, waiting: map[string]bool{}, resting: true}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// Close gives up what is pushed ahead.
func (a *Ahead) Close() {
	a.mu.Lock()
	a.cancel()
	a.mu.Unlock()
	a.work.Wait()
}

// Hits counts the requests that were answered from memory.
func (a *Ahead) Hits() int64 { return a.hits.Load() }

// Push is Pusher.PushOrDrop. A file that is not of our pg_wal is pushed as without us.
func (a *Ahead) Push(ctx context.Context, path string) (catalog.PutOutcome, error) {
	id, err := identify(path)
	if err != nil || !a.holds(path) {
		return a.pusher.PushOrDrop(ctx, path)
	}
	flight, known := a.ask(id)
	if flight != nil { // whatever comes of it, it is not the answer to this request
		select {
		case <-flight:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if id, err = identify(path); err != nil {
			return "", err
		}
		_, known = a.ask(id)
	}
	if known {
		a.hits.Add(1)
		return catalog.Already, nil
	}
	return a.now(ctx, path, id)
}

// holds tells whether a path lies in our pg_wal.
func (a *Ahead) holds(path string) bool {
	theirs, err := os.Stat(filepath.Dir(path))
	ours, ourErr := os.Stat(a.dir)
	return errors.Join(err, ourErr) == nil && os.SameFile(theirs, ours)
}

// ask tells whether a file that is asked for is stored, or on its way, and lets the
// workers go on behind it.
func (a *Ahead) ask(id identity) (flight <-chan struct{}, known bool) {
	now := lifeOf(a.pusher.DataDir)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.durable.in(now) {
		clear(a.waiting)
		a.queue = nil
	}
	for name := range a.waiting { // PostgreSQL has come to them, or past them
		if archiveOrder(name, id.name) <= 0 {
			delete(a.waiting, name)
		}
	}
	a.next()
	return a.flight[id], a.durable.known[id]
}

// now pushes a file that somebody waits for. Nothing that is pushed ahead is in its way.
func (a *Ahead) now(ctx context.Context, path string, id identity) (catalog.PutOutcome, error) {
	select {
	case a.asked <- struct{}{}:
		defer func() { <-a.asked }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	a.mu.Lock()
	over := a.begin(id)
	a.mu.Unlock()
	outcome, err := a.pusher.orDrop(ctx, path, func(ctx context.Context, p Pusher) (catalog.PutOutcome, error) {
		return a.push(ctx, p, path, id, func() {})
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	over()
	a.resting = outcome == Dropped || a.resting && err != nil
	a.next()
	return outcome, err
}

// begin notes that a file is being pushed, under the lock, as is what it returns.
func (a *Ahead) begin(id identity) (over func()) {
	if a.flight[id] != nil {
		return func() {} // somebody else's
	}
	done := make(chan struct{})
	a.flight[id] = done
	return func() {
		delete(a.flight, id)
		close(done)
	}
}

// push pushes a file and remembers it as it was before: one that changes meanwhile is
// another then, by its ctime. It calls less as soon as it does not need the file's own part of its memory any more.
func (a *Ahead) push(ctx context.Context, p Pusher, path string, id identity, less func()) (catalog.PutOutcome, error) {
	began := lifeOf(p.DataDir)
	l := &loan{of: &a.memory, less: less}
	outcome, err := p.push(ctx, path, l)
	l.end()
	_, conflict := errors.AsType[*catalog.ConflictError](err)
	_, refused := errors.AsType[*RefusedError](err)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.durable.of == began && (err == nil || conflict || refused) {
		a.durable.add(id, err == nil)
	}
	return outcome, err
}

// next gives the workers what they may push now: under the lock, after everything
// that may make a difference.
func (a *Ahead) next() {
	for !a.resting && a.ctx.Err() == nil && a.running < a.workers && len(a.waiting) < windowFiles*a.workers {
		if len(a.queue) == 0 {
			if !a.looking && time.Now().After(a.looked) {
				a.looking = true
				a.work.Go(a.look)
			}
			return
		}
		id, err := identify(filepath.Join(a.dir, a.queue[0]))
		if _, known := a.durable.known[id]; err == nil && !known && a.flight[id] == nil {
			if a.bytes+2*cost(id.size) > a.limit {
				return
			}
			a.running++
			a.bytes += cost(id.size)
			a.waiting[id.name] = true
			over := a.begin(id)
			a.work.Go(func() { a.ahead(id, over) })
		}
		a.queue = a.queue[1:]
	}
}

// look finds the ready files.
func (a *Ahead) look() {
	began := time.Now()
	names := readyFiles(filepath.Join(a.dir, "archive_status"))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.looking, a.looked = false, time.Now().Add(lookShare*time.Since(began))
	a.queue = names
	a.next()
}

// ahead is a worker with one file. It gives up early: who asks for the file meanwhile waits for it.
func (a *Ahead) ahead(id identity, over func()) {
	p, held := a.pusher, cost(id.size)
	p.Timeout = cmp.Or(p.Timeout, DefaultPushTimeout) / 4
	_, err := a.push(a.ctx, p, filepath.Join(a.dir, id.name), id, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.bytes, held = a.bytes-id.size, held-id.size
		a.next()
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	over()
	a.running, a.bytes = a.running-1, a.bytes-held
	if err != nil {
		delete(a.waiting, id.name)
		if _, decided := a.durable.known[id]; !decided { // the store's trouble, perhaps
			a.resting, a.queue = true, nil
		}
		logger(p.Log).Debug("archive-push ahead", "file", id.name, "error", err)
	}
	a.next()
}
