package storage_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const part = storage.MinPart

func write(w *storage.Writer, n int) error {
	chunk := make([]byte, 1<<20)
	for n > 0 {
		c := min(n, len(chunk))
		if _, err := w.Write(chunk[:c]); err != nil {
			return err
		}
		n -= c
	}
	return nil
}

// What fits one part is one request.
func TestWriterRequests(t *testing.T) {
	for size, want := range map[int][]string{
		0:        {"put k"},
		part:     {"put k"},
		part + 1: {"begin k", "part k 1", "part k 2", "complete k"},
	} {
		b := faulty.New(mem.New(), nil)
		w := storage.NewWriter(t.Context(), b, "k", storage.WriterOptions{PartSize: part})
		if err := errors.Join(write(w, size), w.Commit()); err != nil {
			t.Fatal(err)
		}
		w.Abort() // too late, does nothing
		got := b.Calls()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%d bytes: %q, want %q", size, got, want)
		}
	}
}

// What is expected is known before the first byte, or not at all: all parts but the last
// have one size.
func TestWriterExpects(t *testing.T) {
	b := mem.New()
	w := storage.NewWriter(t.Context(), b, "k", storage.WriterOptions{PartSize: part})
	w.Expect(storage.MaxParts * part)
	if w.Limit() != storage.MaxParts*part {
		t.Error(w.Limit())
	}
	w.Expect(storage.MaxParts*part + 1)
	want := w.Limit()
	if want != storage.MaxParts*(part+1) {
		t.Error(want)
	}
	err := write(w, 2*part)
	w.Expect(9 * storage.MaxParts * part)
	if err := errors.Join(err, write(w, part), w.Commit()); err != nil || w.Limit() != want {
		t.Error(w.Limit(), err)
	}
}

// What is written last into the first part is there, whatever the size.
func TestWriterFirst(t *testing.T) {
	for _, size := range []int{10, part, part + 1, 4*part + 7} {
		b, refused := mem.New(), errors.New("refused")
		var fail error
		write := func() error {
			w := storage.NewWriter(t.Context(), b, "k", storage.WriterOptions{PartSize: part, First: func(first []byte) error {
				if len(first) != min(size, part) {
					t.Errorf("%d bytes: the first part has %d", size, len(first))
				}
				copy(first, "known at last")
				return fail
			}})
			return errors.Join(write(w, size), w.Commit())
		}
		fail = refused
		if err := write(); !errors.Is(err, refused) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, err := b.Head(t.Context(), "k"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%d bytes: what is refused is there: %v", size, err)
		}
		fail = nil
		if err := write(); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		copy(want, "known at last")
		if got, err := storage.ReadAll(t.Context(), b, "k", 1<<30); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d bytes: %d others, %v", size, len(got), err)
		}
	}
}

// Whatever call fails, the error comes out, nothing is visible and the upload is gone.
func TestWriterFails(t *testing.T) {
	for n := 1; n <= 5; n++ {
		inner := mem.New()
		b := faulty.New(inner, faulty.Nth(n, faulty.ErrInjected))
		w := storage.NewWriter(t.Context(), b, "k", storage.WriterOptions{PartSize: part})
		werr := write(w, 2*part+1)
		err := w.Commit()
		if !errors.Is(err, faulty.ErrInjected) || (werr != nil && !errors.Is(werr, faulty.ErrInjected)) {
			t.Errorf("call %d: write %v, commit %v", n, werr, err)
		}
		if _, err := inner.Head(t.Context(), "k"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("call %d: the object is there: %v", n, err)
		}
		if aborted := slices.Contains(b.Calls(), "abort k"); aborted != (n > 1) {
			t.Errorf("call %d: aborted %v: %q", n, aborted, b.Calls())
		}
	}
}

// stuck holds every part until it is let go, and counts them.
type stuck struct {
	storage.Bucket
	mu      sync.Mutex
	now     int
	release chan struct{}
}

func (s *stuck) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	up, err := s.Bucket.Begin(ctx, key, opts)
	return stuckUpload{up, s}, err
}

type stuckUpload struct {
	storage.Upload
	s *stuck
}

func (u stuckUpload) Part(ctx context.Context, number int, body []byte) error {
	u.s.mu.Lock()
	u.s.now++
	u.s.mu.Unlock()
	select {
	case <-u.s.release:
		return u.Upload.Part(ctx, number, body)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A writer holds no more than InFlight+1 parts, and a cancelled one ends.
func TestWriterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &stuck{Bucket: mem.New(), release: make(chan struct{})}
		w := storage.NewWriter(ctx, s, "k", storage.WriterOptions{PartSize: part, InFlight: 2})
		done := make(chan error)
		go func() { done <- write(w, 10*part) }()
		synctest.Wait()
		if s.now != 3 || w.Size() > 3*part {
			t.Errorf("%d parts under way after %d bytes, want 3", s.now, w.Size())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("write ended with %v", err)
		}
		if err := w.Commit(); !errors.Is(err, context.Canceled) {
			t.Errorf("commit ended with %v", err)
		}
		if _, err := w.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "k") {
			t.Errorf("a write after the end: %v", err)
		}
	})
}
