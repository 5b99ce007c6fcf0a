package wal

import (
	"fmt"
	"io/fs"
	"os"
)

// largeFrom is the size of a segment from which on it is read again and again, and stored in
// parts, instead of being held in memory.
const largeFrom = 32 << 20

// largeFile is such a segment, as it was when it was opened.
type largeFile struct {
	*os.File
	info fs.FileInfo
}

// openLarge gives nil for a file that is not large.
func openLarge(path string, limit int64) (*largeFile, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() <= largeFrom || info.Size() > limit {
		return nil, err // what is no file is refused by who reads it
	}
	f, err := os.Open(path)
	return &largeFile{f, info}, err
}

// ReadAt refuses a file that was written since, as a recycled one is: what was found out
// about it is of another content.
func (f *largeFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	now, statErr := f.Stat()
	if statErr != nil || now.Size() != f.info.Size() || !now.ModTime().Equal(f.info.ModTime()) {
		return 0, fmt.Errorf("%s changed while it was read", f.Name())
	}
	return n, err
}
