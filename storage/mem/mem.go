// Package mem is a bucket in memory, for tests.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Bucket is a bucket in memory. The zero value is one that does not exist.
type Bucket struct {
	mu      sync.Mutex
	objects map[storage.Key]object
}

type object struct {
	body     []byte
	modified time.Time
}

// New returns an empty bucket.
func New() *Bucket { return &Bucket{objects: map[storage.Key]object{}} }

// Age makes everything in the bucket older.
func (b *Bucket) Age(by time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, o := range b.objects {
		o.modified = o.modified.Add(-by)
		b.objects[key] = o
	}
}

// with runs f under the lock, after the checks common to all operations.
func (b *Bucket) with(ctx context.Context, op string, key storage.Key, f func() error) error {
	err := ctx.Err()
	if err == nil && op != "list" {
		err = key.Validate()
	}
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.objects == nil {
			err = storage.ErrNoBucket
		} else {
			err = f()
		}
	}
	if err != nil {
		return &storage.Error{Op: op, Key: key, Err: err}
	}
	return nil
}

func (b *Bucket) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	return b.with(ctx, "put", key, func() error { return b.store(key, body, opts) })
}

func (b *Bucket) store(key storage.Key, body []byte, opts storage.PutOptions) error {
	if _, taken := b.objects[key]; taken && opts.IfAbsent {
		return storage.ErrExist
	}
	b.objects[key] = object{bytes.Clone(body), time.Now()}
	return nil
}

func (b *Bucket) Get(ctx context.Context, key storage.Key, span storage.Span) (r io.ReadCloser, err error) {
	err = b.with(ctx, "get", key, func() error {
		o, ok := b.objects[key]
		if !ok {
			return storage.ErrNotExist
		}
		off, length, err := span.Within(int64(len(o.body)))
		if err == nil {
			r = io.NopCloser(bytes.NewReader(o.body[off : off+length]))
		}
		return err
	})
	return r, err
}

func (b *Bucket) Head(ctx context.Context, key storage.Key) (found storage.Object, err error) {
	err = b.with(ctx, "head", key, func() error {
		o, ok := b.objects[key]
		if !ok {
			return storage.ErrNotExist
		}
		found = storage.Object{Key: key, Size: int64(len(o.body)), Modified: o.modified}
		return nil
	})
	return found, err
}

func (b *Bucket) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		var found []storage.Object
		err := b.with(ctx, "list", prefix, func() error {
			for key, o := range b.objects {
				if key > after && strings.HasPrefix(string(key), string(prefix)) {
					found = append(found, storage.Object{Key: key, Size: int64(len(o.body)), Modified: o.modified})
				}
			}
			return nil
		})
		slices.SortFunc(found, func(a, b storage.Object) int { return strings.Compare(string(a.Key), string(b.Key)) })
		for _, o := range found {
			if !yield(o, nil) {
				return
			}
		}
		if err != nil {
			yield(storage.Object{}, err)
		}
	}
}

func (b *Bucket) Delete(ctx context.Context, key storage.Key) error {
	return b.with(ctx, "delete", key, func() error {
		delete(b.objects, key)
		return nil
	})
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	if err := b.with(ctx, "begin", key, func() error { return nil }); err != nil {
		return nil, err
	}
	return &upload{b: b, key: key, opts: opts, parts: map[int][]byte{}}, nil
}

type upload struct {
	b     *Bucket
	key   storage.Key
	opts  storage.PutOptions
	parts map[int][]byte // nil once ended
	done  bool           // completed: a Complete whose answer was lost may come again
}

var errEnded = errors.New("upload has ended")

func (u *upload) Part(ctx context.Context, number int, body []byte) error {
	return u.b.with(ctx, "part", u.key, func() error {
		if u.parts == nil {
			return errEnded
		}
		u.parts[number] = bytes.Clone(body)
		return nil
	})
}

func (u *upload) Complete(ctx context.Context) error {
	return u.b.with(ctx, "complete", u.key, func() error {
		if u.done {
			return nil
		}
		if u.parts == nil {
			return errEnded
		}
		var whole []byte
		for n := 1; n <= len(u.parts); n++ {
			part, ok := u.parts[n]
			if !ok {
				return fmt.Errorf("part %d of %d is missing", n, len(u.parts))
			}
			if n < len(u.parts) && (len(part) < storage.MinPart || len(part) != len(u.parts[1])) {
				return fmt.Errorf("part %d has %d bytes, part 1 has %d", n, len(part), len(u.parts[1]))
			}
			whole = append(whole, part...)
		}
		if err := u.b.store(u.key, whole, u.opts); err != nil {
			return err
		}
		u.parts, u.done = nil, true
		return nil
	})
}

func (u *upload) Abort(ctx context.Context) error {
	return u.b.with(ctx, "abort", u.key, func() error {
		u.parts = nil
		return nil
	})
}
