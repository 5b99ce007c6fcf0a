package storage

import (
	"context"
	"errors"
	"sync"
	"time"
)

// abortTimeout bounds how long cleaning up may hold the caller.
const abortTimeout = 10 * time.Second

const (
	// MinPart is the smallest size in bytes of a part that is not the last.
	MinPart = 5 << 20
	// MaxParts is how many parts every store takes; AWS S3 takes ten times as many.
	MaxParts = 1000
	// DefaultPart is the part size in bytes of a Writer unless told otherwise.
	DefaultPart = 16 << 20
)

// WriterOptions bound the memory of a Writer: (InFlight+1) x PartSize bytes, with First one more.
type WriterOptions struct {
	PartSize int // bytes, at least MinPart; 0 is DefaultPart
	InFlight int // parts under way while the next one is filled; 0 is 1
	Put      PutOptions
	// First is called at Commit with the first part, which is not sent before, to fill in
	// what can only be known then.
	First func(part []byte) error
}

// Writer streams an object of unknown size into a bucket. What fits one part
// becomes a single Put, so that a small object costs one request. The first error
// sticks. A Writer is used by one goroutine; one of Commit and Abort ends it.
type Writer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	b      Bucket
	key    Key
	opts   WriterOptions
	up     Upload
	number int
	size   int64
	buf    []byte
	first  []byte      // of First
	free   chan []byte // buffers not in use; nil ones are not allocated yet
	parts  sync.WaitGroup
	done   bool
}

// NewWriter starts an object. Nothing is sent before the first part is full.
func NewWriter(ctx context.Context, b Bucket, key Key, opts WriterOptions) *Writer {
	if opts.PartSize == 0 {
		opts.PartSize = DefaultPart
	}
	opts.PartSize = max(opts.PartSize, MinPart)
	opts.InFlight = max(opts.InFlight, 1)
	opts.Put.PartSize = opts.PartSize
	w := &Writer{b: b, key: key, opts: opts, free: make(chan []byte, opts.InFlight+2)}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	for range opts.InFlight + 1 {
		w.free <- nil
	}
	return w
}

// Size is the number of bytes written so far.
func (w *Writer) Size() int64 { return w.size }

// Expect makes the parts large enough for an object of so many bytes, if nothing was
// written yet.
func (w *Writer) Expect(size int64) {
	if w.size == 0 {
		w.opts.PartSize = max(w.opts.PartSize, int((size+MaxParts-1)/MaxParts))
		w.opts.Put.PartSize = w.opts.PartSize
	}
}

// Limit is how many bytes fit into as many parts as every store takes.
func (w *Writer) Limit() int64 { return MaxParts * int64(w.opts.PartSize) }

func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if w.done {
			return n, errors.New("write to an ended object " + string(w.key))
		}
		if len(w.buf) == w.opts.PartSize {
			w.send()
		}
		if err := w.acquire(); err != nil {
			return n, err
		}
		c := min(len(p), w.opts.PartSize-len(w.buf))
		w.buf = append(w.buf, p[:c]...)
		p, n, w.size = p[c:], n+c, w.size+int64(c)
	}
	return n, w.err()
}

// acquire makes sure that there is a buffer to write to.
func (w *Writer) acquire() error {
	if err := w.err(); err != nil || w.buf != nil {
		return err
	}
	select {
	case w.buf = <-w.free:
	case <-w.ctx.Done():
		return w.err()
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, w.opts.PartSize)
	}
	return nil
}

// send uploads the buffer as the next part, beside the parts under way.
func (w *Writer) send() {
	if w.up == nil {
		up, err := w.b.Begin(w.ctx, w.key, w.opts.Put)
		if err != nil {
			w.cancel(err)
			return
		}
		w.up = up
	}
	w.number++
	number, buf := w.number, w.buf
	w.buf = nil
	if number == 1 && w.opts.First != nil {
		w.first = buf
		w.free <- nil // in its place
		return
	}
	w.upload(number, buf)
}

func (w *Writer) upload(number int, buf []byte) {
	w.parts.Go(func() {
		if err := w.up.Part(w.ctx, number, buf); err != nil {
			w.cancel(err)
		}
		w.free <- buf[:0]
	})
}

func (w *Writer) err() error { return context.Cause(w.ctx) }

// Commit makes the object visible. After an error it is not there, unless it was
// the answer of the store that got lost.
func (w *Writer) Commit() error {
	if w.done {
		return errors.New("commit of an ended object " + string(w.key))
	}
	err := w.commit()
	if err != nil {
		w.Abort()
	}
	w.done = true
	w.cancel(nil)
	return err
}

func (w *Writer) commit() error {
	if err := w.err(); err != nil {
		return err
	}
	if w.opts.First != nil {
		first := w.first
		if w.up == nil {
			first = w.buf
		}
		if err := w.opts.First(first); err != nil {
			return err
		}
	}
	if w.up == nil {
		return w.b.Put(w.ctx, w.key, w.buf, w.opts.Put)
	}
	if len(w.buf) > 0 {
		w.send()
	}
	if w.first != nil {
		w.upload(1, w.first)
	}
	w.parts.Wait()
	if err := w.err(); err != nil {
		return err
	}
	return w.up.Complete(w.ctx)
}

// Abort gives the object up and removes what was sent, as far as the store
// answers. After Commit it does nothing.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.cancel(context.Canceled)
	w.parts.Wait()
	if w.up == nil {
		return
	}
	// The caller's context may be why we abort; the parts must go all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), abortTimeout)
	defer cancel()
	_ = w.up.Abort(ctx) // best effort: unfinished uploads are invisible
}
