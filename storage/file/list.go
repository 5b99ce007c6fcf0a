package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/storage"
)

// errStop ends a walk whose consumer wants no more.
var errStop = errors.New("stop")

// List walks the directories in the byte order of the keys, holding the names of
// one directory per level.
func (b *Bucket) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		err := b.within(ctx, "list", prefix, func(root *os.Root) error {
			w := walk{ctx: ctx, root: root, prefix: string(prefix), after: string(after), yield: yield}
			return w.dir("")
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(storage.Object{}, err)
		}
	}
}

type walk struct {
	ctx           context.Context
	root          *os.Root
	prefix, after string
	yield         func(storage.Object, error) bool
}

// dir yields what is below the directory, whose name is empty or ends in a slash.
func (w *walk) dir(dir string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if len(dir) > storage.MaxKey {
		return fmt.Errorf("%w: directories nested deeper than any key", storage.ErrSpoiled)
	}
	entries, err := fs.ReadDir(w.root.FS(), path.Clean(dir)) // Clean makes "." of the root
	if errors.Is(err, fs.ErrNotExist) && dir != "" {
		return nil // removed with its last object since its parent was read
	}
	if err != nil {
		return err
	}
	// A directory sorts as its keys do, with the slash: "a.b" is before "a/b".
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := dir + e.Name()
		switch {
		case name == tmpDir:
			continue
		case e.IsDir():
			name += "/"
		}
		if w.wanted(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			err = w.dir(name)
		} else {
			err = w.file(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wanted says whether a file, or anything below a directory, belongs to the list.
func (w *walk) wanted(name string) bool {
	if strings.HasSuffix(name, "/") {
		return (strings.HasPrefix(name, w.prefix) || strings.HasPrefix(w.prefix, name)) &&
			(name > w.after || strings.HasPrefix(w.after, name))
	}
	return strings.HasPrefix(name, w.prefix) && name > w.after
}

func (w *walk) file(name string) error {
	info, err := w.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted since its directory was read
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w", name, irregular(info))
	}
	if !w.yield(storage.Object{Key: storage.Key(name), Size: info.Size(), Modified: info.ModTime()}, nil) {
		return errStop
	}
	return nil
}
