// Package file is a bucket in a directory: objects are plain files, names are keys.
//
// An object appears by link or rename of a file that was fsynced before, and every
// directory on its way is fsynced before a write returns. Unfinished files live in
// the reserved directory .tmp of the root.
package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

const tmpDir = ".tmp"

// Bucket is a bucket in a directory, which must exist: a missing one is
// ErrNoBucket, because it may be a filesystem that is not mounted. The root is
// opened for every operation, so a mount is noticed.
type Bucket struct{ dir string }

// New returns the bucket in dir. It touches nothing.
func New(dir string) *Bucket { return &Bucket{dir} }

// within runs f with the root open. Paths cannot leave the root, by symbolic
// links neither.
func (b *Bucket) within(ctx context.Context, op string, key storage.Key, f func(*os.Root) error) error {
	err := ctx.Err()
	if err == nil && op != "list" {
		if err = key.Validate(); err == nil && (key == tmpDir || strings.HasPrefix(string(key), tmpDir+"/")) {
			err = fmt.Errorf("%w: %s is reserved", storage.ErrKey, tmpDir)
		}
	}
	if err == nil {
		var root *os.Root
		if root, err = os.OpenRoot(b.dir); err == nil {
			err = f(root)
			root.Close()
		} else if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			err = fmt.Errorf("%w: %s", storage.ErrNoBucket, b.dir)
		}
	}
	return b.report(op, key, err)
}

// report turns what the operating system said into the words of the contract.
func (b *Bucket) report(op string, key storage.Key, err error) error {
	if err == nil {
		return nil
	}
	e := &storage.Error{Op: op, Key: key, Err: err}
	switch {
	case errors.Is(err, storage.ErrNoBucket):
		e.Advice = "create the directory " + b.dir + " or mount its filesystem"
	case errors.Is(err, fs.ErrPermission):
		e.Err = fmt.Errorf("%w: %w", storage.ErrDenied, err)
		e.Advice = "let the user that runs this program read and write " + b.dir
	case errors.Is(err, storage.ErrSpoiled):
		e.Advice = "find out who put it into " + b.dir + ", and take it away"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Advice = "free space under " + b.dir
	case errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EAGAIN):
		e.Retry = true
	}
	return e
}

func (b *Bucket) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	return b.within(ctx, "put", key, func(root *os.Root) error {
		f, err := createTemp(root)
		if err != nil {
			return err
		}
		_, err = f.Write(body)
		if err == nil {
			storage.Progress(ctx)(len(body))
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = publish(root, f.name, string(key), opts.IfAbsent)
		}
		_ = root.Remove(f.name) // gone already after a rename
		return err
	})
}

type temp struct {
	*os.File
	name string // within the root
}

func createTemp(root *os.Root) (temp, error) {
	if err := root.Mkdir(tmpDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return temp{}, err
	}
	sweepTemps(root, time.Now())
	name := tmpDir + "/" + rand.Text()
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return temp{f, name}, err
}

// tempAge is how long nobody pauses who still writes.
const tempAge = 48 * time.Hour

// sweepTemps removes what killed processes left unfinished.
func sweepTemps(root *os.Root, now time.Time) {
	entries, _ := fs.ReadDir(root.FS(), tmpDir)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > tempAge {
			_ = root.Remove(tmpDir + "/" + entry.Name())
		}
	}
}

// publish gives a synced temporary file its name, durably.
func publish(root *os.Root, tmp, name string, ifAbsent bool) error {
	err := fs.ErrNotExist
	// Delete may remove an empty directory between MkdirAll and the link.
	for try := 0; try < 10 && errors.Is(err, fs.ErrNotExist); try++ {
		if err = root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if ifAbsent {
			err = root.Link(tmp, name)
		} else {
			err = root.Rename(tmp, name)
		}
	}
	taken := ifAbsent && errors.Is(err, fs.ErrExist)
	if err != nil && !taken {
		return err
	}
	// Also when taken: who wrote it may not have come as far, and our caller will
	// rely on it.
	if err := syncUp(root, path.Dir(name)); err != nil {
		return err
	}
	if taken {
		return storage.ErrExist
	}
	return nil
}

// syncUp fsyncs a directory and all above it up to the root. Any of them may be
// new, made by us or by somebody who has not fsynced it yet.
func syncUp(root *os.Root, dir string) error {
	for {
		d, err := root.Open(dir)
		if err != nil {
			return fmt.Errorf("fsync %s: %w", path.Join(root.Name(), dir), err)
		}
		err = d.Sync()
		d.Close()
		if err != nil || dir == "." {
			return err
		}
		dir = path.Dir(dir)
	}
}

func (b *Bucket) Get(ctx context.Context, key storage.Key, span storage.Span) (r io.ReadCloser, err error) {
	err = b.within(ctx, "get", key, func(root *os.Root) error {
		// A FIFO would keep who opens it until somebody writes, a device may do anything.
		if _, err := stat(root, key); err != nil {
			return err
		}
		f, err := root.OpenFile(string(key), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return absent(err)
		}
		r, err = section(f, span)
		if err != nil {
			f.Close()
		}
		return err
	})
	return r, err
}

func section(f *os.File, span storage.Span) (io.ReadCloser, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, irregular(info)
	}
	off, length, err := span.Within(info.Size())
	if err == nil {
		_, err = f.Seek(off, io.SeekStart)
	}
	if err != nil {
		return nil, err
	}
	return storage.ExactReader(f, length), nil
}

// absent: neither the file nor a directory on the way to it is there.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return storage.ErrNotExist
	}
	return err
}

// irregular: a directory is a prefix of objects and none itself; anything else that is no
// file was put there by somebody else, and proves nothing.
func irregular(info fs.FileInfo) error {
	if info.IsDir() {
		return storage.ErrNotExist
	}
	return fmt.Errorf("%w: a file is wanted, this is %s", storage.ErrSpoiled, info.Mode().Type())
}

func stat(root *os.Root, key storage.Key) (fs.FileInfo, error) {
	info, err := root.Stat(string(key))
	if err != nil {
		return nil, absent(err)
	}
	if !info.Mode().IsRegular() {
		return nil, irregular(info)
	}
	return info, nil
}

func (b *Bucket) Head(ctx context.Context, key storage.Key) (found storage.Object, err error) {
	err = b.within(ctx, "head", key, func(root *os.Root) error {
		info, err := stat(root, key)
		if err == nil {
			found = storage.Object{Key: key, Size: info.Size(), Modified: info.ModTime()}
		}
		return err
	})
	return found, err
}

func (b *Bucket) Delete(ctx context.Context, key storage.Key) error {
	return b.within(ctx, "delete", key, func(root *os.Root) error {
		info, err := root.Lstat(string(key))
		if err == nil && info.IsDir() {
			return nil // a prefix of other objects, not an object
		}
		if err == nil {
			err = root.Remove(string(key))
		}
		if err != nil {
			if absent(err) == storage.ErrNotExist {
				return nil
			}
			return err
		}
		dir := path.Dir(string(key))
		for dir != "." && root.Remove(dir) == nil { // refused unless empty
			dir = path.Dir(dir)
		}
		err = syncUp(root, dir)
		for errors.Is(err, fs.ErrNotExist) && dir != "." { // another Delete removed it, empty
			dir = path.Dir(dir)
			err = syncUp(root, dir)
		}
		return err
	})
}
