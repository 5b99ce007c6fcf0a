package retry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Bucket { return retry.New(mem.New(), retry.Options{}) })
	t.Run("missing bucket", func(t *testing.T) {
		storagetest.RunMissing(t, retry.New(&mem.Bucket{}, retry.Options{}))
	})
}

// A store that fails two calls of every three passes the suite all the same.
func TestConformanceUnderFaults(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Bucket {
		plan := func(c faulty.Call) (f faulty.Fault) {
			if c.N%3 != 0 {
				f.Before = faulty.Passing(c)
			} else if c.Op == "get" {
				f = faulty.Cut(700_000)
			}
			return f
		}
		return retry.New(faulty.New(mem.New(), plan), retry.Options{Base: time.Microsecond})
	})
}

// bubble runs f with a clock of its own.
func bubble(t *testing.T, f func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fb := faulty.New(mem.New(), nil)
		f(t.Context(), fb, retry.New(fb, retry.Options{}))
	})
}

func passing(c faulty.Call) faulty.Fault { return faulty.Fault{Before: faulty.Passing(c)} }

func TestGivesUpWithoutProgress(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		fb.Set(passing)
		start := time.Now()
		err := b.Put(ctx, "a", []byte("x"), storage.PutOptions{})
		if took := time.Since(start); took > 60*time.Second || took < 50*time.Second {
			t.Errorf("gave up after %s, want just below 60 s", took)
		}
		if !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("got %v", err)
		}
		if n := len(fb.Calls()); n < 12 || n > 200 {
			t.Errorf("%d tries in 60 s", n)
		}
	})
}

func TestBlackHole(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		fb.Set(func(faulty.Call) faulty.Fault { return faulty.Fault{Delay: time.Hour} })
		start := time.Now()
		_, err := b.Head(ctx, "a")
		if took := time.Since(start); took > 61*time.Second || took < 40*time.Second {
			t.Errorf("gave up after %s", took)
		}
		if errors.Is(err, context.Canceled) || !storage.IsRetryable(err) {
			t.Errorf("a stall reads as %v", err)
		}
		if n := len(fb.Calls()); n != 3 && n != 4 {
			t.Errorf("%d tries of 20 s in 60 s", n)
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		start = time.Now()
		_, err = b.Head(ctx, "a")
		if took := time.Since(start); took != 2*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's 2 s ended after %s with %v", took, err)
		}
	})
}

func TestNothingUnderCancelledContext(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		ctx, cancel := context.WithCancel(ctx)
		fb.Set(func(c faulty.Call) faulty.Fault { cancel(); return passing(c) })
		if err := b.Delete(ctx, "a"); !errors.Is(err, context.Canceled) || !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("got %v, want the end and its cause", err)
		}
		_, _ = b.Head(ctx, "a")
		if got := fb.Calls(); !slices.Equal(got, []string{"delete a"}) {
			t.Errorf("calls %q", got)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		fb.Set(faulty.Nth(1, &storage.Error{Op: "put", Err: errors.New("slow down"), Retry: true, After: 17 * time.Second}))
		start := time.Now()
		if err := b.Put(ctx, "a", nil, storage.PutOptions{}); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 17*time.Second {
			t.Errorf("waited %s, asked for 17 s", took)
		}
	})
}

func TestFinalErrorsAreNotRetried(t *testing.T) {
	for _, final := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrDenied, storage.ErrNoBucket, errors.New("other")} {
		bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
			fb.Set(faulty.Nth(1, final))
			if err := b.Put(ctx, "a", nil, storage.PutOptions{}); !errors.Is(err, final) || len(fb.Calls()) != 1 {
				t.Errorf("%v: got %v after %d calls", final, err, len(fb.Calls()))
			}
		})
	}
}

// The answer of a create-once write is lost: the caller has to compare.
func TestLostAnswer(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		lost := &storage.Error{Err: io.ErrUnexpectedEOF, Retry: true}
		fb.Set(faulty.NthAfter(1, lost))
		if err := b.Put(ctx, "a", []byte("x"), storage.PutOptions{IfAbsent: true}); !errors.Is(err, storage.ErrExist) {
			t.Errorf("put: got %v, want ErrExist", err)
		}
		fb.Set(faulty.On("complete", faulty.NthAfter(1, lost)))
		u, err := b.Begin(ctx, "b", storage.PutOptions{IfAbsent: true})
		if err == nil {
			err = u.Part(ctx, 1, []byte("x"))
		}
		if err == nil {
			err = u.Complete(ctx)
		}
		if err != nil {
			t.Errorf("upload: %v", err)
		}
	})
}

func TestGetGoesOnWhereItBrokeOff(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		body := storagetest.Random(1, 100_000)
		if err := b.Put(ctx, "a", body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		fb.Set(func(c faulty.Call) faulty.Fault { return faulty.Cut(int64(c.N) * 1000) })
		for _, span := range []storage.Span{storage.Whole, {Offset: 500, Length: 90_000}} {
			off, n, _ := span.Within(int64(len(body)))
			r, err := b.Get(ctx, "a", span)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || !bytes.Equal(got, body[off:off+n]) {
				t.Errorf("%v: %d bytes, %v", span, len(got), err)
			}
		}
		// A body that breaks off at once, for ever, ends the read.
		fb.Set(func(faulty.Call) faulty.Fault { return faulty.Cut(0) })
		r, err := b.Get(ctx, "a", storage.Whole)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		start := time.Now()
		if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(start) > time.Minute {
			t.Errorf("a body without bytes: %v after %s", err, time.Since(start))
		}
	})
}

// A slow consumer is no stall; a store that stalls within a body is.
func TestReaderClock(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		if err := b.Put(ctx, "a", make([]byte, 10), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := b.Get(ctx, "a", storage.Whole)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range 10 {
			time.Sleep(time.Hour)
			if n, err := r.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatalf("read after a long pause: %d, %v", n, err)
			}
		}
		if n := len(fb.Calls()); n != 2 {
			t.Errorf("%d calls, want one put and one get", n)
		}
	})
}

// slow hands over a byte every second.
type slow struct{ storage.Bucket }

func (s slow) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	for range body {
		select {
		case <-time.After(time.Second):
			storage.Progress(ctx)(1)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Bucket.Put(ctx, key, body, opts)
}

func TestProgressKeepsATryAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := retry.New(slow{mem.New()}, retry.Options{})
		if err := b.Put(t.Context(), "a", make([]byte, 300), storage.PutOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestListGoesOn(t *testing.T) {
	bubble(t, func(ctx context.Context, fb *faulty.Bucket, b *retry.Bucket) {
		for _, key := range []storage.Key{"a", "b", "c"} {
			if err := b.Put(ctx, key, nil, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		fb.Set(faulty.On("list", faulty.NthAfter(1, &storage.Error{Err: io.ErrUnexpectedEOF, Retry: true})))
		var got []storage.Key
		for o, err := range b.List(ctx, "", "") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, o.Key)
		}
		if !slices.Equal(got, []storage.Key{"a", "b", "c"}) {
			t.Errorf("got %q", got)
		}
		fb.Set(faulty.On("list", faulty.NthAfter(1, storage.ErrDenied)))
		var last error
		for _, err := range b.List(ctx, "", "") {
			last = err
		}
		if !errors.Is(last, storage.ErrDenied) {
			t.Errorf("the list ended with %v", last)
		}
	})
}

// stops hands over some bytes and then nothing more.
type stops struct{ storage.Bucket }

func (s stops) Put(ctx context.Context, _ storage.Key, _ []byte, _ storage.PutOptions) error {
	for range 5 {
		time.Sleep(time.Second)
		storage.Progress(ctx)(1)
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestStallAfterProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := retry.New(stops{mem.New()}, retry.Options{}).Put(t.Context(), "a", nil, storage.PutOptions{})
		if took := time.Since(start); !storage.IsRetryable(err) || took > 85*time.Second {
			t.Errorf("ended after %s with %v", took, err)
		}
	})
}
