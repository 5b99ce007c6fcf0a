package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/pgha-backup/pgha-backup/storage"
)

// upload writes parts into one temporary file, at the place their number gives.
// That place is known once two parts are: the larger one has the size of all but
// the last. So at most one part waits in memory.
type upload struct {
	b    *Bucket
	key  storage.Key
	opts storage.PutOptions
	tmp  temp

	mu      sync.Mutex
	sizes   map[int]int
	stride  int // size of every part but the last; 0 while not known
	waiting []byte
	waits   int // number of the waiting part; 0 if none
	done    bool
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	u := &upload{b: b, key: key, opts: opts, sizes: map[int]int{}}
	err := b.within(ctx, "begin", key, func(root *os.Root) (err error) {
		u.tmp, err = createTemp(root)
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (u *upload) Part(ctx context.Context, number int, body []byte) error {
	err := ctx.Err()
	if err == nil && number < 1 {
		err = fmt.Errorf("part number %d", number)
	}
	if err == nil {
		err = u.part(number, body)
	}
	if err == nil {
		storage.Progress(ctx)(len(body))
	}
	return u.b.report("part", u.key, err)
}

func (u *upload) part(number int, body []byte) error {
	off, known := u.place(number, body)
	if !known {
		return nil
	}
	if err := u.flush(); err != nil {
		return err
	}
	_, err := u.tmp.WriteAt(body, off)
	return err
}

// place notes a part and returns where it belongs, or keeps a copy of it.
func (u *upload) place(number int, body []byte) (offset int64, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sizes[number] = len(body)
	if u.stride == 0 && len(u.sizes) > 1 {
		for _, n := range u.sizes {
			u.stride = max(u.stride, n)
		}
	}
	if number > 1 && u.stride == 0 {
		u.waits, u.waiting = number, bytes.Clone(body)
		return 0, false
	}
	return int64(number-1) * int64(u.stride), true
}

// flush writes the part that waited, once its place is known.
func (u *upload) flush() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.waits == 0 || u.stride == 0 {
		return nil
	}
	if _, err := u.tmp.WriteAt(u.waiting, int64(u.waits-1)*int64(u.stride)); err != nil {
		return err
	}
	u.waits, u.waiting = 0, nil
	return nil
}

// whole checks that the parts are there, without holes, and returns their sum.
func (u *upload) whole() (size int64, err error) {
	last := len(u.sizes)
	for n := 1; n <= last; n++ {
		part, ok := u.sizes[n]
		switch {
		case !ok:
			return 0, fmt.Errorf("part %d of %d is missing", n, last)
		case n < last && (part != u.stride || part < storage.MinPart), n > 1 && part > u.stride:
			return 0, fmt.Errorf("part %d of %d has %d bytes, another has %d", n, last, part, u.stride)
		}
		size += int64(part)
	}
	return size, nil
}

func (u *upload) Complete(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return nil // the answer of an earlier call was lost
	}
	return u.b.within(ctx, "complete", u.key, func(root *os.Root) error {
		size, err := u.whole()
		if err == nil {
			err = u.tmp.Truncate(size)
		}
		if err == nil {
			err = u.tmp.Sync()
		}
		if err == nil {
			err = publish(root, u.tmp.name, string(u.key), u.opts.IfAbsent)
		}
		if err != nil {
			return err
		}
		u.done = true
		u.tmp.Close()
		_ = root.Remove(u.tmp.name)
		return nil
	})
}

func (u *upload) Abort(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return nil
	}
	return u.b.within(ctx, "abort", u.key, func(root *os.Root) error {
		if err := u.tmp.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
		if err := root.Remove(u.tmp.name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}
