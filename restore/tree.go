package restore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// tree is a copy under construction: PGDATA and its tablespaces. Every path goes
// through an os.Root, so that no link leads out of them.
type tree struct {
	plan   Plan
	base   *os.Root
	wal    *os.Root            // nil: in base
	spaces map[string]*os.Root // by OID
	dirs   []string            // directories made, relative to PGDATA
}

func openTree(plan Plan, ground Ground) (*tree, error) {
	t := &tree{plan: plan, spaces: map[string]*os.Root{}}
	var err error
	if t.base, err = t.open(ground.PGDATA); err != nil {
		return nil, err
	}
	if ground.WAL != "" {
		if t.wal, err = t.open(ground.WAL); err != nil {
			t.close()
			return nil, fmt.Errorf("WAL directory: %w", err)
		}
	}
	for _, ts := range plan.Tablespaces {
		root, err := t.open(ts.To)
		switch {
		case err != nil:
		case ts.Later:
			err = errors.Join(root.Close(), t.leadLater(ts))
		default:
			t.spaces[fmt.Sprint(ts.OID)] = root
		}
		if err != nil {
			t.close()
			return nil, fmt.Errorf("tablespace %d: %w", ts.OID, err)
		}
	}
	return t, nil
}

// leadLater prepares a tablespace that replay will create: PostgreSQL wants the
// directory of the record there, and takes ours through a link where it is mapped.
func (t *tree) leadLater(ts TablespacePlan) error {
	if ts.From == ts.To {
		return nil
	}
	if err := atomicfile.MkdirAll(filepath.Dir(ts.From), t.dirMode()); err != nil {
		return err
	}
	if err := os.Symlink(ts.To, ts.From); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(ts.From))
}

func (t *tree) open(dir string) (*os.Root, error) {
	if err := atomicfile.MkdirAll(dir, t.dirMode()); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, t.dirMode()); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

func (t *tree) close() {
	_ = t.base.Close()
	if t.wal != nil {
		_ = t.wal.Close()
	}
	for _, root := range t.spaces {
		_ = root.Close()
	}
}

func (t *tree) dirMode() fs.FileMode {
	if t.plan.Backup.Settings.GroupAccess {
		return 0o750
	}
	return 0o700
}

// at finds the root and the name in it of a path relative to PGDATA.
func (t *tree) at(name string) (*os.Root, string, error) {
	if rest, ok := strings.CutPrefix(name+"/", "pg_wal/"); ok && t.wal != nil {
		return t.wal, cmp.Or(strings.TrimSuffix(rest, "/"), "."), nil
	}
	rest, ok := strings.CutPrefix(name, "pg_tblspc/")
	if !ok {
		return t.base, name, nil
	}
	oid, rest, _ := strings.Cut(rest, "/")
	root := t.spaces[oid]
	if root == nil {
		return nil, "", fmt.Errorf("%q: the plan has no place for tablespace %s", name, oid)
	}
	return root, cmp.Or(rest, "."), nil
}

// directories makes every directory that the index names or implies, and the links
// of the tablespaces that are in the backup.
func (t *tree) directories(index catalog.Index) error {
	all := map[string]bool{"pg_tblspc": true, "pg_wal": true, "pg_wal/archive_status": true, "global": true}
	for _, pack := range index.Packs {
		for _, e := range pack.Entries {
			dir := e.Path
			if e.Kind != catalog.Dir {
				dir = path.Dir(dir)
			}
			if leftOut(dir) && !strings.HasPrefix(dir, "pg_wal/") {
				continue
			}
			for ; dir != "." && !all[dir]; dir = path.Dir(dir) {
				all[dir] = true
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(all)) {
		if oid, ok := strings.CutPrefix(dir, "pg_tblspc/"); ok && !strings.Contains(oid, "/") {
			continue // a tablespace itself: there already
		}
		root, name, err := t.at(dir)
		if err != nil {
			return err
		}
		if err := root.Mkdir(name, t.dirMode()); err != nil && name != "." { // the WAL directory itself
			return err
		}
		t.dirs = append(t.dirs, dir)
	}
	for _, ts := range t.plan.Tablespaces {
		if ts.Later {
			continue
		}
		if err := t.base.Symlink(ts.To, fmt.Sprint("pg_tblspc/", ts.OID)); err != nil {
			return err
		}
	}
	return nil
}

// earlyWriteback is the size in bytes from which the kernel is asked to begin
// writing a file at once, so that the fsync at the end has little left to do.
const earlyWriteback = 1 << 20

// fill makes a file, which must not be there yet, of exactly the bytes that r gives, and
// tells them to also.
func (t *tree) fill(name string, mode uint32, size int64, r io.Reader, also io.Writer) error {
	root, inside, err := t.at(name)
	if err != nil {
		return err
	}
	perm := fs.FileMode(mode)&t.dirMode() | 0o600
	f, err := root.OpenFile(inside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(f, also), r)
	if err == nil && perm&0o077 != 0 { // past a strict umask
		err = f.Chmod(perm)
	}
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes came for %s, it has %d", n, name, size)
	}
	if err == nil && size >= earlyWriteback {
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return errors.Join(err, f.Close())
}

// write makes a small file of ours.
func (t *tree) write(name string, data []byte) error {
	return t.fill(name, 0o640, int64(len(data)), bytes.NewReader(data), io.Discard)
}

// sync makes files, then every directory, durable.
func (t *tree) sync(files []string) error {
	one := func(name string) error {
		root, name, err := t.at(name)
		if err != nil {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		if err = f.Sync(); err != nil {
			err = fmt.Errorf("fsync %s: %w", name, err)
		}
		return errors.Join(err, f.Close())
	}
	dirs := append(t.dirs, ".")
	for oid := range t.spaces {
		dirs = append(dirs, "pg_tblspc/"+oid)
	}
	for _, names := range [][]string{files, dirs} {
		var group errgroup.Group
		group.SetLimit(8)
		for _, name := range names {
			group.Go(func() error { return one(name) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}
