package torture

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Tree is what lies below a directory: by path, the digest of a file, the target of a link, or "dir".
type Tree map[string]string

// Snapshot reads a directory; one that is absent is empty.
func Snapshot(dir string) (Tree, error) {
	t := Tree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path == dir {
			if errors.Is(err, fs.ErrNotExist) {
				return fs.SkipAll
			}
			return err
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch {
		case d.IsDir():
			t[name] = "dir"
		case d.Type()&fs.ModeSymlink != 0:
			t[name], err = os.Readlink(path)
		default:
			t[name], err = digest(path)
		}
		return err
	})
	return t, err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// Lost tells what of a tree is not in another one, or not so.
func (t Tree) Lost(now Tree) (faults []string) {
	for name, was := range t {
		switch is, ok := now[name]; {
		case !ok:
			faults = append(faults, name+" is gone")
		case is != was:
			faults = append(faults, name+" has changed")
		}
	}
	slices.Sort(faults)
	return faults
}

// Only is the part of the tree whose paths satisfy a condition.
func (t Tree) Only(keep func(path string) bool) Tree {
	part := Tree{}
	for name, is := range t {
		if keep(name) {
			part[name] = is
		}
	}
	return part
}

// Put makes a directory a copy of another one, with owners, modes and times, whatever was there.
func Put(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	type stamp struct {
		path string
		at   time.Time
	}
	var dirs []stamp
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(from, path)
		target := filepath.Join(to, name)
		info, err := d.Info()
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		switch {
		case d.IsDir():
			dirs = append(dirs, stamp{target, info.ModTime()})
			err = os.Mkdir(target, 0o700)
		case d.Type()&fs.ModeSymlink != 0:
			var link string
			if link, err = os.Readlink(path); err == nil {
				err = os.Symlink(link, target)
			}
			return errors.Join(err, os.Lchown(target, int(owner.Uid), int(owner.Gid)))
		case d.Type().IsRegular():
			var content []byte
			if content, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(target, content, 0o600)
			}
		default:
			return nil
		}
		if err == nil {
			err = os.Chown(target, int(owner.Uid), int(owner.Gid))
		}
		if err == nil {
			err = os.Chmod(target, info.Mode().Perm())
		}
		if err == nil && !d.IsDir() {
			err = os.Chtimes(target, info.ModTime(), info.ModTime())
		}
		return err
	})
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, os.Chtimes(d.path, d.at, d.at))
	}
	return err
}

// Temps are the temporary files below a directory, by the marks that the product gives them.
func Temps(dir string) (found []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		if isTemp(path) {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// Age makes files as old as a garbage collector wants them.
func Age(paths []string, by time.Duration) error {
	then := time.Now().Add(-by)
	for _, path := range paths {
		if err := os.Chtimes(path, then, then); err != nil {
			return fmt.Errorf("age %s: %w", path, err)
		}
	}
	return nil
}
