// Package emulate makes create-once writes for a store without conditional writes:
// look, write, read back. Two writers at the same moment may both believe they won;
// it is for those who accept that, and status says degraded.
package emulate

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Bucket emulates IfAbsent on another bucket. It belongs above storage/retry: a
// lost answer of its plain writes is harmless to try again, one of its own is not.
type Bucket struct{ storage.Bucket }

// New wraps b.
func New(b storage.Bucket) *Bucket { return &Bucket{b} }

func (b *Bucket) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	if !opts.IfAbsent {
		return b.Bucket.Put(ctx, key, body, opts)
	}
	if err := b.free(ctx, "put", key); err != nil {
		return err
	}
	if err := b.Bucket.Put(ctx, key, body, storage.PutOptions{}); err != nil {
		return err
	}
	got, err := storage.ReadAll(ctx, b.Bucket, key, int64(len(body)))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, body) {
		return taken("put", key)
	}
	return nil
}

// free fails with ErrExist if the key is taken.
func (b *Bucket) free(ctx context.Context, op string, key storage.Key) error {
	_, err := b.Head(ctx, key)
	switch {
	case err == nil:
		return taken(op, key)
	case errors.Is(err, storage.ErrNotExist):
		return nil
	}
	return err
}

func taken(op string, key storage.Key) error {
	return &storage.Error{Op: op, Key: key, Err: storage.ErrExist}
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	up, err := b.Bucket.Begin(ctx, key, storage.PutOptions{PartSize: opts.PartSize})
	if err != nil || !opts.IfAbsent {
		return up, err
	}
	return &upload{Upload: up, b: b, key: key}, nil
}

type upload struct {
	storage.Upload
	b    *Bucket
	key  storage.Key
	done atomic.Bool
}

func (u *upload) Complete(ctx context.Context) error {
	if u.done.Load() {
		return nil
	}
	if err := u.b.free(ctx, "complete", u.key); err != nil {
		return err
	}
	if err := u.Upload.Complete(ctx); err != nil {
		return err
	}
	u.done.Store(true)
	return nil
}
