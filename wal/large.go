package wal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
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
		return nil, err // a file that is none is refused by who reads it
	}
	f, err := os.Open(path)
	if err == nil {
		info, err = f.Stat()
	}
	return &largeFile{f, info}, err
}

// unchanged refuses a file that was written since, as a recycled one is: what was found out
// about it may be of another content.
func (f *largeFile) unchanged() error {
	now, err := f.Stat()
	if err == nil && (now.Size() != f.info.Size() || !now.ModTime().Equal(f.info.ModTime())) {
		err = fmt.Errorf("%s changed while it was read", f.Name())
	}
	return err
}

func (s *source) close() {
	if s.large != nil {
		_ = s.large.Close()
	}
}

// size64 is the length in bytes.
func (s *source) size64() int64 {
	if s.large != nil {
		return s.large.info.Size()
	}
	return int64(len(s.plain))
}

func (s *source) reader() io.Reader {
	if s.large != nil {
		return io.NewSectionReader(s.large, 0, s.size64())
	}
	return bytes.NewReader(s.plain)
}

func (s *source) scan() (postgres.SegmentFacts, error) {
	if s.large != nil {
		return postgres.ScanSegmentAt(s.file, s.large, s.size64())
	}
	return postgres.ScanSegment(s.file, s.plain)
}

func (s *source) sha256() (string, error) {
	sum := sha256.New()
	_, err := io.Copy(sum, s.reader())
	return hex.EncodeToString(sum.Sum(nil)), err
}

// put stores it.
func (s *source) put(ctx context.Context, r *catalog.Repository, l *loan) (catalog.PutOutcome, error) {
	if s.large == nil {
		packed, err := r.PackWAL(l.forObject(len(s.plain)), s.file, s.plain, s.facts)
		if err != nil {
			return "", err
		}
		l.packed()
		return r.PutPackedWAL(ctx, packed)
	}
	ours, err := r.DescribeFrom(ctx, s.file, s.reader(), s.size64(), s.facts)
	if err == nil {
		err = s.large.unchanged()
	}
	if err != nil {
		return "", err
	}
	return r.PutWALFrom(ctx, s.file, ours, s.large)
}
