package faulty_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Bucket { return faulty.New(mem.New(), nil) })
	t.Run("missing bucket", func(t *testing.T) { storagetest.RunMissing(t, faulty.New(&mem.Bucket{}, nil)) })
}

func TestFaults(t *testing.T) {
	ctx := t.Context()
	b := faulty.New(mem.New(), faulty.Nth(1, faulty.ErrInjected))
	put := func(key storage.Key) error {
		return b.Put(ctx, key, []byte("body"), storage.PutOptions{IfAbsent: true})
	}
	if err := put("a"); !errors.Is(err, faulty.ErrInjected) {
		t.Fatalf("first call: %v", err)
	}
	b.Set(faulty.NthAfter(2, faulty.ErrInjected))
	if err := put("a"); !errors.Is(err, faulty.ErrInjected) {
		t.Fatalf("second call: %v", err)
	}
	b.Set(faulty.On("get", faulty.From(2, faulty.ErrInjected)))
	if err := put("a"); !errors.Is(err, storage.ErrExist) {
		t.Fatalf("the lost write had no effect: %v", err)
	}
	if _, err := storage.ReadAll(ctx, b, "a", 10); err != nil {
		t.Fatalf("the first get: %v", err)
	}
	if _, err := storage.ReadAll(ctx, b, "a", 10); !errors.Is(err, faulty.ErrInjected) {
		t.Fatalf("the second get: %v", err)
	}
	b.Set(func(faulty.Call) faulty.Fault { return faulty.Cut(2) })
	if got, err := storage.ReadAll(ctx, b, "a", 10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("a cut body: %q, %v", got, err)
	}
	b.Set(func(faulty.Call) faulty.Fault { return faulty.Flip(1) })
	if got, err := storage.ReadAll(ctx, b, "a", 10); string(got) != "bndy" || err != nil {
		t.Fatalf("a flipped bit: %q, %v", got, err)
	}
	want := []string{"put a", "put a", "put a", "get a", "get a", "get a", "get a"}
	if got := b.Calls(); !slices.Equal(got, want) {
		t.Fatalf("calls %q, want %q", got, want)
	}
}
