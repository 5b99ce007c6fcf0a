package wal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// identity tells a file from every other, also from one that bears its name later:
// a recycled segment has the inode and the size of another, and a new ctime.
type identity struct {
	name         string
	device, node uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func identify(path string) (identity, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return identity{}, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return identity{}, fmt.Errorf("%s is %v: %w", path, info.Mode(), fs.ErrInvalid)
	}
	return identity{filepath.Base(path), s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}, nil
}

// life is one life of a server: from a start to the next, of one system (R12).
type life struct {
	system postgres.SystemIdentifier
	pid    identity // of postmaster.pid; zero while there is none
}

func lifeOf(dataDir string) (l life) {
	if control, err := ReadControl(dataDir); err == nil {
		l.system = control.System
	}
	l.pid, _ = identify(filepath.Join(dataDir, "postmaster.pid"))
	return l
}

// durable remembers the files that one process has stored in one repository, and
// those that it may not store, in one life of the server.
type durable struct {
	of    life
	known map[identity]bool // false: refused
	order []identity        // the oldest first
}

// durableMost bounds the memory: more than anybody pushes ahead.
const durableMost = 1024

// in forgets everything if it is another life.
func (d *durable) in(l life) (same bool) {
	if same = d.of == l; !same {
		*d = durable{of: l}
	}
	return same
}

func (d *durable) add(id identity, stored bool) {
	if d.known == nil {
		d.known = map[identity]bool{}
	}
	if _, again := d.known[id]; !again {
		d.order = append(d.order, id)
	}
	d.known[id] = stored
	if len(d.order) > durableMost {
		delete(d.known, d.order[0])
		d.order = d.order[1:]
	}
}
