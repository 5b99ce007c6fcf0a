// Package retry is a bucket that tries again what may succeed later.
//
// Waits have full jitter. A try ends when nothing moves for a while, a call when it
// got no further for longer. A create-once write whose answer was lost is reported
// as it looks to the next try, ErrExist: only who knows the content can tell
// whether it was ours.
package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Options bound the tries. Zero values are the defaults.
type Options struct {
	// GiveUp ends a call that got no further for so long, all tries and waits
	// together; default 60 s. A last try whose bytes move may add 20 s. The
	// context of the call bounds it absolutely.
	GiveUp time.Duration
	// Base bounds the wait before a try: a random time up to Base x 2^tries, at most
	// 5 s; default 100 ms.
	Base time.Duration
	Log  *slog.Logger // may be nil
}

const (
	stall   = 20 * time.Second // ends one try in which no byte moved for so long
	maxWait = 5 * time.Second
)

// Bucket retries another bucket.
type Bucket struct {
	b    storage.Bucket
	opts Options
}

// New wraps b.
func New(b storage.Bucket, o Options) *Bucket {
	o.GiveUp = cmp.Or(o.GiveUp, 60*time.Second)
	o.Base = cmp.Or(o.Base, 100*time.Millisecond)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return &Bucket{b, o}
}

func (b *Bucket) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	return b.call(ctx, "put", key, func(ctx context.Context) error { return b.b.Put(ctx, key, body, opts) })
}

func (b *Bucket) Head(ctx context.Context, key storage.Key) (o storage.Object, err error) {
	err = b.call(ctx, "head", key, func(ctx context.Context) (err error) {
		o, err = b.b.Head(ctx, key)
		return err
	})
	return o, err
}

func (b *Bucket) Delete(ctx context.Context, key storage.Key) error {
	return b.call(ctx, "delete", key, func(ctx context.Context) error { return b.b.Delete(ctx, key) })
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	var up storage.Upload
	err := b.call(ctx, "begin", key, func(ctx context.Context) (err error) {
		up, err = b.b.Begin(ctx, key, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &upload{b, key, up}, nil
}

type upload struct {
	b   *Bucket
	key storage.Key
	up  storage.Upload
}

func (u *upload) Part(ctx context.Context, number int, body []byte) error {
	return u.b.call(ctx, "part", u.key, func(ctx context.Context) error { return u.up.Part(ctx, number, body) })
}

func (u *upload) Complete(ctx context.Context) error {
	return u.b.call(ctx, "complete", u.key, u.up.Complete)
}

func (u *upload) Abort(ctx context.Context) error {
	return u.b.call(ctx, "abort", u.key, u.up.Abort)
}

// List goes on after the last object that it yielded.
func (b *Bucket) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		c := b.begin(ctx, "list", prefix)
		err := c.loop(func() error {
			return c.try(func(ctx context.Context) error {
				for o, err := range b.b.List(ctx, prefix, after) {
					if err != nil {
						return err
					}
					after = o.Key
					c.watch.pause() // what the consumer does is not the store's time
					if !yield(o, nil) {
						return nil
					}
					c.last = time.Now()
					c.watch.resume()
				}
				return nil
			})
		})
		if err != nil {
			yield(storage.Object{}, err)
		}
	}
}

// call runs f until it succeeds, fails for good, or the call has to give up.
func (b *Bucket) call(ctx context.Context, op string, key storage.Key, f func(context.Context) error) error {
	c := b.begin(ctx, op, key)
	return c.loop(func() error { return c.try(f) })
}

// call is one call in its tries.
type call struct {
	*Bucket
	ctx     context.Context
	op      string
	key     storage.Key
	tries   int
	watch   *watch
	reached int64 // most bytes that any try moved
	last    time.Time
}

func (b *Bucket) begin(ctx context.Context, op string, key storage.Key) *call {
	return &call{Bucket: b, ctx: ctx, op: op, key: key, last: time.Now()}
}

// loop tries until once succeeds or there is no other try.
func (c *call) loop(once func() error) error {
	for {
		err := once()
		if err == nil {
			return nil
		}
		if err = c.wait(err); err != nil {
			return err
		}
	}
}

var errStalled = errors.New("the store did not move a byte")

// try runs f once, under a deadline that every byte puts off.
func (c *call) try(f func(context.Context) error) error {
	if err := c.ctx.Err(); err != nil {
		return &storage.Error{Op: c.op, Key: c.key, Err: err}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.arm(cancel)
	defer c.watch.pause()
	outer := storage.Progress(c.ctx) // who bounds several calls together
	return c.settle(f(storage.WithProgress(ctx, func(n int) {
		c.watch.moved(n)
		outer(n)
	})))
}

func (c *call) arm(cancel context.CancelFunc) {
	c.tries++
	c.watch = newWatch(min(stall, c.left()), cancel)
}

// settle tells a stall, which is worth another try, from the caller's own end.
func (c *call) settle(err error) error {
	c.further()
	if err == nil || c.ctx.Err() != nil || !c.watch.over.Load() {
		return err
	}
	return &storage.Error{Op: c.op, Key: c.key, Retry: true, Err: fmt.Errorf("%w for %s", errStalled, c.watch.limit)}
}

// further notes whether this try got further than all before it: only that keeps a
// call alive, else a body cut at the same place would be sent for ever.
func (c *call) further() {
	if n, at := c.watch.progress(); n > c.reached {
		c.reached, c.last = n, at
	}
}

func (c *call) left() time.Duration { return c.opts.GiveUp - time.Since(c.last) }

// wait sleeps before the next try, or returns why there is none.
func (c *call) wait(err error) error {
	if c.ctx.Err() != nil || !storage.IsRetryable(err) {
		return c.final(err)
	}
	delay := rand.N(min(maxWait, c.opts.Base<<min(c.tries-1, 20)) + 1)
	delay = max(delay, storage.RetryAfter(err))
	if delay >= c.left() {
		return c.final(err)
	}
	if end, ok := c.ctx.Deadline(); ok && time.Until(end) <= delay {
		return c.final(err)
	}
	if c.tries == 1 {
		c.opts.Log.Warn("storage: trying again", "op", c.op, "key", string(c.key), "error", err)
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.ctx.Done():
		return c.final(err)
	}
}

// final is the error of a call, once for all of its tries.
func (c *call) final(err error) error {
	if done := c.ctx.Err(); done != nil && !errors.Is(err, done) {
		err = &storage.Error{Op: c.op, Key: c.key, Err: fmt.Errorf("%w (%w)", done, err)}
	}
	if c.tries > 1 {
		c.opts.Log.Warn("storage: gave up", "op", c.op, "key", string(c.key), "tries", c.tries, "error", err)
		err = fmt.Errorf("after %d tries: %w", c.tries, err)
	}
	return err
}
