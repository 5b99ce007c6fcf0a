package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/pgha-backup/pgha-backup/storage"
)

// upload writes parts into one temporary file, at the place their number gives.
type upload struct {
	b    *Bucket
	key  storage.Key
	opts storage.PutOptions
	tmp  temp

	mu    sync.Mutex
	sizes map[int]int
	done  bool
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	opts.PartSize = max(opts.PartSize, storage.MinPart)
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
	switch {
	case err != nil:
	case number < 1 || len(body) > u.opts.PartSize:
		err = fmt.Errorf("part %d of %d bytes, want at most %d", number, len(body), u.opts.PartSize)
	default:
		_, err = u.tmp.WriteAt(body, int64(number-1)*int64(u.opts.PartSize))
	}
	if err == nil {
		storage.Progress(ctx)(len(body))
		u.mu.Lock()
		u.sizes[number] = len(body)
		u.mu.Unlock()
	}
	return u.b.report("part", u.key, err)
}

// whole checks that the parts are there, without holes, and returns their sum.
func (u *upload) whole() (size int64, err error) {
	last := len(u.sizes)
	for n := 1; n <= last; n++ {
		part, ok := u.sizes[n]
		switch {
		case !ok:
			return 0, fmt.Errorf("part %d of %d is missing", n, last)
		case n < last && part != u.opts.PartSize:
			return 0, fmt.Errorf("part %d of %d has %d bytes, want %d", n, last, part, u.opts.PartSize)
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
		_ = u.tmp.Close() // it goes; and an Abort may come twice
		if err := root.Remove(u.tmp.name); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}
