package retry

import (
	"context"
	"io"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Get returns a reader that opens the object again at the offset where a body
// broke off.
func (b *Bucket) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	r := &reader{c: b.begin(ctx, "get", key), rest: span}
	if err := r.c.loop(r.open); err != nil {
		return nil, err
	}
	return r, nil
}

type reader struct {
	c      *call
	rest   storage.Span // what is still to be read
	body   io.ReadCloser
	cancel context.CancelFunc // ends the try that body belongs to
	err    error              // sticks
}

// open is one try to get a body.
func (r *reader) open() error {
	c := r.c
	if err := c.ctx.Err(); err != nil {
		return &storage.Error{Op: c.op, Key: c.key, Err: err}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.arm(cancel)
	body, err := c.b.Get(ctx, c.key, r.rest)
	c.watch.pause()
	if err != nil {
		cancel()
		return c.settle(err)
	}
	r.body, r.cancel = body, cancel
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, r.err
	}
	r.c.last = time.Now() // the time between two reads is not the store's
	for r.err == nil {
		if r.body == nil {
			if r.err = r.c.loop(r.open); r.err != nil {
				break
			}
		}
		r.c.watch.resume()
		n, err := r.body.Read(p)
		r.c.watch.pause()
		r.advance(n)
		if err == io.EOF {
			r.err = io.EOF
			return n, io.EOF
		}
		if err != nil {
			err = r.c.settle(err)
			r.shut()
			r.err = r.c.wait(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// advance: bytes in the reader's hands are progress for good.
func (r *reader) advance(n int) {
	if n > 0 {
		r.rest.Offset += int64(n)
		if r.rest.Length > 0 {
			r.rest.Length -= int64(n)
		}
		r.c.tries = 1
	}
}

func (r *reader) shut() {
	if r.body != nil {
		r.body.Close()
		r.cancel()
		r.body = nil
	}
}

func (r *reader) Close() error {
	r.shut()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	return nil
}
