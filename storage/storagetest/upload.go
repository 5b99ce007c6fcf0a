package storagetest

import (
	"context"
	"errors"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
)

// upload sends 22 MiB in parts, out of order, beside each other, one of them twice.
func upload(t *testing.T, b storage.Bucket) {
	const partSize = 5 << 20
	body := Random(7, 4*partSize+2<<20)
	for _, order := range [][]int{{1, 2, 3, 4, 5}, {5, 3, 1, 2, 4}, {2, 1, 5, 2, 4, 3}} {
		u, err := b.Begin(t.Context(), "up/large", storage.PutOptions{})
		must(t, err)
		errs := make(chan error, len(order))
		for _, n := range order[1:] {
			part := body[(n-1)*partSize : min(n*partSize, len(body))]
			go func() { errs <- u.Part(t.Context(), n, part) }()
		}
		n := order[0]
		errs <- u.Part(t.Context(), n, body[(n-1)*partSize:min(n*partSize, len(body))])
		for range order {
			must(t, <-errs)
		}
		_, err = b.Head(t.Context(), "up/large")
		want(t, err, storage.ErrNotExist)
		wantKeys(t, b, "", "")
		must(t, u.Complete(t.Context()))
		same(t, read(t, b, "up/large", storage.Whole), body)
		same(t, read(t, b, "up/large", storage.Span{Offset: partSize - 10, Length: 20}), body[partSize-10:partSize+10])
		wantKeys(t, b, "", "", "up/large")
		must(t, b.Delete(t.Context(), "up/large"))
	}
}

func uploadOnce(t *testing.T, b storage.Bucket) {
	must(t, b.Put(t.Context(), "up/once", []byte("first"), storage.PutOptions{}))
	for _, once := range []bool{true, false} {
		u, err := b.Begin(t.Context(), "up/once", storage.PutOptions{IfAbsent: once})
		must(t, err)
		must(t, u.Part(t.Context(), 1, []byte("second")))
		err = u.Complete(t.Context())
		if !once {
			must(t, err)
			must(t, u.Complete(t.Context())) // as after a lost answer
			must(t, u.Abort(t.Context()))    // too late, harmless
			same(t, read(t, b, "up/once", storage.Whole), []byte("second"))
			continue
		}
		want(t, err, storage.ErrExist)
		same(t, read(t, b, "up/once", storage.Whole), []byte("first"))
		must(t, u.Abort(t.Context()))
		must(t, u.Abort(t.Context()))
	}
}

func abort(t *testing.T, b storage.Bucket) {
	u, err := b.Begin(t.Context(), "up/gone", storage.PutOptions{})
	must(t, err)
	must(t, u.Part(t.Context(), 1, Random(1, 5<<20)))
	must(t, u.Abort(t.Context()))
	wantKeys(t, b, "", "")
	if err := u.Complete(t.Context()); err == nil {
		t.Fatal("an aborted upload completed")
	}
	wantKeys(t, b, "", "")
}

func missingPart(t *testing.T, b storage.Bucket) {
	u, err := b.Begin(t.Context(), "up/hole", storage.PutOptions{})
	must(t, err)
	must(t, u.Part(t.Context(), 1, Random(1, 5<<20)))
	must(t, u.Part(t.Context(), 3, Random(3, 5<<20)))
	if err := u.Complete(t.Context()); err == nil {
		t.Fatal("an upload with a hole completed")
	}
	must(t, u.Abort(t.Context()))
	wantKeys(t, b, "", "")
}

func writer(t *testing.T, b storage.Bucket) {
	for _, n := range []int{0, 100, 5 << 20, 5<<20 + 1, 20 << 20} {
		body := Random(uint64(n), n)
		w := storage.NewWriter(t.Context(), b, "w/x", storage.WriterOptions{PartSize: 5 << 20, InFlight: 2})
		for rest := body; len(rest) > 0; {
			c := min(len(rest), 700_000)
			_, err := w.Write(rest[:c])
			must(t, err)
			rest = rest[c:]
		}
		must(t, w.Commit())
		if w.Size() != int64(n) {
			t.Fatalf("the writer counts %d of %d bytes", w.Size(), n)
		}
		same(t, read(t, b, "w/x", storage.Whole), body)
	}
	for _, n := range []int{100, 12 << 20} {
		w := storage.NewWriter(t.Context(), b, "w/x", storage.WriterOptions{PartSize: 5 << 20, Put: storage.PutOptions{IfAbsent: true}})
		_, err := w.Write(make([]byte, n))
		must(t, err)
		want(t, w.Commit(), storage.ErrExist)
		w = storage.NewWriter(t.Context(), b, "w/aborted", storage.WriterOptions{PartSize: 5 << 20})
		_, err = w.Write(make([]byte, n))
		must(t, err)
		w.Abort()
		if w.Commit() == nil {
			t.Fatal("an aborted writer committed")
		}
	}
	wantKeys(t, b, "", "", "w/x")
}

func cancelled(t *testing.T, b storage.Bucket) {
	ctx, cancel := context.WithCancel(t.Context())
	u, err := b.Begin(ctx, "c/up", storage.PutOptions{})
	must(t, err)
	cancel()
	_, getErr := b.Get(ctx, "c/x", storage.Whole)
	_, headErr := b.Head(ctx, "c/x")
	_, beginErr := b.Begin(ctx, "c/x", storage.PutOptions{})
	for name, err := range map[string]error{
		"get": getErr, "head": headErr, "begin": beginErr,
		"put":      b.Put(ctx, "c/x", []byte("x"), storage.PutOptions{}),
		"part":     u.Part(ctx, 1, []byte("x")),
		"complete": u.Complete(ctx),
		"delete":   b.Delete(ctx, "c/x"),
	} {
		if !errors.Is(err, context.Canceled) || storage.IsRetryable(err) {
			t.Errorf("%s under a cancelled context: %v", name, err)
		}
	}
	must(t, u.Abort(t.Context()))
	wantKeys(t, b, "", "")
}
