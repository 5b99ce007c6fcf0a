package emulate_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/emulate"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// careless ignores conditions, as some S3 stores do.
type careless struct{ *mem.Bucket }

func (c careless) Put(ctx context.Context, key storage.Key, body []byte, _ storage.PutOptions) error {
	return c.Bucket.Put(ctx, key, body, storage.PutOptions{})
}

func (c careless) Begin(ctx context.Context, key storage.Key, _ storage.PutOptions) (storage.Upload, error) {
	return c.Bucket.Begin(ctx, key, storage.PutOptions{})
}

// overtaken has another writer come between the look and the write.
type overtaken struct{ careless }

func (o overtaken) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	if err := o.careless.Put(ctx, key, body, opts); err != nil {
		return err
	}
	return o.careless.Put(ctx, key, []byte("other"), opts)
}

func TestCreateOnce(t *testing.T) {
	b := emulate.New(careless{mem.New()})
	once := storage.PutOptions{IfAbsent: true}
	write := func() error {
		u, err := b.Begin(t.Context(), "up", once)
		if err == nil {
			err = u.Part(t.Context(), 1, []byte("x"))
		}
		if err == nil {
			err = u.Complete(t.Context())
		}
		return err
	}
	for name, f := range map[string]func() error{
		"put":    func() error { return b.Put(t.Context(), "put", []byte("x"), once) },
		"upload": write,
	} {
		if err := f(); err != nil {
			t.Errorf("first %s: %v", name, err)
		}
		if err := f(); !errors.Is(err, storage.ErrExist) {
			t.Errorf("second %s: %v, want ErrExist", name, err)
		}
	}
	if err := b.Put(t.Context(), "put", []byte("new"), storage.PutOptions{}); err != nil {
		t.Errorf("a plain put: %v", err)
	}
}

func TestReadsBack(t *testing.T) {
	b := emulate.New(overtaken{careless{mem.New()}})
	if err := b.Put(t.Context(), "a", []byte("mine!"), storage.PutOptions{IfAbsent: true}); !errors.Is(err, storage.ErrExist) {
		t.Errorf("got %v, want ErrExist", err)
	}
}
