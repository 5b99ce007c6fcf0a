// Package faulty is a bucket for tests that fails where it is told to and writes
// down what it was asked.
package faulty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// ErrInjected is what injected errors are; as such it is final.
var ErrInjected = errors.New("injected fault")

// Passing is an injected error that is worth another try.
func Passing(c Call) error {
	return &storage.Error{Op: c.Op, Key: c.Key, Err: ErrInjected, Retry: true}
}

// Call is one call of a bucket or one of its uploads.
type Call struct {
	N      int    // from 1, over all operations
	Op     string // put, begin, part, complete, abort, get, head, list, delete
	Key    storage.Key
	Number int // of a part
}

func (c Call) String() string {
	if c.Op == "part" {
		return fmt.Sprintf("%s %s %d", c.Op, c.Key, c.Number)
	}
	return fmt.Sprintf("%s %s", c.Op, c.Key)
}

// Fault is what happens to a call. The zero Fault is none.
type Fault struct {
	Delay  time.Duration // before anything else; ends with the context
	Before error         // returned in place of the call
	After  error         // returned in place of the answer: the call took effect
	Body   func(io.ReadCloser) io.ReadCloser
}

// Plan decides over every call. It is called under a lock, in the order of calls.
type Plan func(Call) Fault

// Nth fails the n-th call, before it takes effect.
func Nth(n int, err error) Plan {
	return func(c Call) (f Fault) {
		if c.N == n {
			f.Before = err
		}
		return f
	}
}

// NthAfter lets the n-th call take effect and loses its answer.
func NthAfter(n int, err error) Plan {
	return func(c Call) (f Fault) {
		if c.N == n {
			f.After = err
		}
		return f
	}
}

// From fails the n-th call and all that follow.
func From(n int, err error) Plan {
	return func(c Call) (f Fault) {
		if c.N >= n {
			f.Before = err
		}
		return f
	}
}

// On applies a plan to one operation only, counting only its calls.
func On(op string, p Plan) Plan {
	n := 0
	return func(c Call) Fault {
		if c.Op != op {
			return Fault{}
		}
		n++
		c.N = n
		return p(c)
	}
}

// Bucket is a bucket with faults.
type Bucket struct {
	b    storage.Bucket
	mu   sync.Mutex
	plan Plan
	log  []Call
}

// New wraps b. A nil plan has no faults.
func New(b storage.Bucket, plan Plan) *Bucket { return &Bucket{b: b, plan: plan} }

// Set changes the plan; the count of calls goes on.
func (b *Bucket) Set(plan Plan) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plan = plan
}

// Calls is what was asked so far, one line for a call.
func (b *Bucket) Calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := make([]string, len(b.log))
	for i, c := range b.log {
		lines[i] = c.String()
	}
	return lines
}

func (b *Bucket) decide(c Call) (f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.N = len(b.log) + 1
	b.log = append(b.log, c)
	if b.plan != nil {
		f = b.plan(c)
	}
	return f
}

// do runs one call with its fault.
func (b *Bucket) do(ctx context.Context, c Call, f func() error) error {
	fault := b.decide(c)
	if err := sleep(ctx, fault.Delay); err != nil {
		return &storage.Error{Op: c.Op, Key: c.Key, Err: err}
	}
	if fault.Before != nil {
		return fault.Before
	}
	if err := f(); err != nil {
		return err
	}
	return fault.After
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *Bucket) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	return b.do(ctx, Call{Op: "put", Key: key}, func() error { return b.b.Put(ctx, key, body, opts) })
}

func (b *Bucket) Head(ctx context.Context, key storage.Key) (o storage.Object, err error) {
	err = b.do(ctx, Call{Op: "head", Key: key}, func() (err error) {
		o, err = b.b.Head(ctx, key)
		return err
	})
	return o, err
}

func (b *Bucket) Delete(ctx context.Context, key storage.Key) error {
	return b.do(ctx, Call{Op: "delete", Key: key}, func() error { return b.b.Delete(ctx, key) })
}

func (b *Bucket) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	c := Call{Op: "get", Key: key}
	fault := b.decide(c)
	if err := sleep(ctx, fault.Delay); err != nil {
		return nil, &storage.Error{Op: c.Op, Key: key, Err: err}
	}
	if fault.Before != nil {
		return nil, fault.Before
	}
	r, err := b.b.Get(ctx, key, span)
	if err != nil {
		return nil, err
	}
	if fault.After != nil {
		r.Close()
		return nil, fault.After
	}
	if fault.Body != nil {
		r = fault.Body(r)
	}
	return r, nil
}

// List with After yields all objects and then the error.
func (b *Bucket) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		stopped := false
		err := b.do(ctx, Call{Op: "list", Key: prefix}, func() error {
			for o, err := range b.b.List(ctx, prefix, after) {
				if err != nil {
					return err
				}
				if stopped = !yield(o, nil); stopped {
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(storage.Object{}, err)
		}
	}
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	var up storage.Upload
	err := b.do(ctx, Call{Op: "begin", Key: key}, func() (err error) {
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
	return u.b.do(ctx, Call{Op: "part", Key: u.key, Number: number}, func() error {
		return u.up.Part(ctx, number, body)
	})
}

func (u *upload) Complete(ctx context.Context) error {
	return u.b.do(ctx, Call{Op: "complete", Key: u.key}, func() error { return u.up.Complete(ctx) })
}

func (u *upload) Abort(ctx context.Context) error {
	return u.b.do(ctx, Call{Op: "abort", Key: u.key}, func() error { return u.up.Abort(ctx) })
}
