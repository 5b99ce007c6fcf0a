package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sys/unix"
)

// maxSmall bounds the files that are not segments: a history of many thousand
// failovers, a backup label.
const maxSmall = 1 << 20

// source is a local WAL file, read and found to be what its name says.
type source struct {
	file  postgres.WALFile
	plain []byte
	// large is a segment that is not read into memory, in place of plain; close it.
	large  *largeFile
	length int64
	// system and size come from a segment's own header; zero for the other kinds.
	system postgres.SystemIdentifier
	size   postgres.SegmentSize
	facts  *postgres.SegmentFacts
	// unread is why we cannot read the content: worth a warning only, because what
	// PostgreSQL hands over is archived (R2).
	unread error
}

func readSource(path string, l *loan) (source, error) {
	file, err := postgres.ParseWALFile(filepath.Base(path))
	if err != nil {
		return source{}, err
	}
	s := source{file: file}
	isSegment := file.Kind == postgres.WALSegment || file.Kind == postgres.WALPartial
	limit := int64(maxSmall)
	if isSegment {
		limit = 1 << 30
	}
	if s.large, err = openLarge(path, limit); err == nil && s.large == nil {
		s.plain, err = readRegular(path, limit, l)
	}
	if err != nil {
		return source{}, fmt.Errorf("read %s: %w", path, err)
	}
	if s.length = int64(len(s.plain)); s.large != nil {
		s.length = s.large.info.Size()
	}
	if isSegment {
		if err = s.checkSegment(path); err != nil {
			s.close()
		}
		return s, err
	}
	if len(s.plain) == 0 {
		return source{}, fmt.Errorf("read %s: the file is empty", path)
	}
	if file.Kind == postgres.WALHistory {
		_, s.unread = postgres.ParseTimelineHistory(file.Segment.Timeline, s.plain)
	}
	return s, nil
}

// at reads it, wherever it is.
func (s *source) at() io.ReaderAt {
	if s.large != nil {
		return s.large
	}
	return bytes.NewReader(s.plain)
}

func (s *source) close() {
	if s.large != nil {
		_ = s.large.Close()
	}
}

// hugePage is the size of a large memory page.
const hugePage = 2 << 20

// readRegular reads a regular file whole, in a buffer of its size.
func readRegular(path string, limit int64, l *loan) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("want a regular file of at most %d bytes, this is %v of %d", limit, info.Mode(), info.Size())
	}
	b := l.forFile(info.Size())
	if len(b) >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a hint: without it a third of a push is page faults
	}
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	return b, nil
}

// checkSegment refuses what no server can have meant to archive under this name.
func (s *source) checkSegment(path string) error {
	head := make([]byte, 64)
	n, _ := s.at().ReadAt(head, 0)
	header, err := postgres.ParseWALHeader(head[:n])
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.length != int64(header.SegmentSize) {
		return fmt.Errorf("%s has %d bytes, its header says that a segment has %d: the file is not whole", path, s.length, header.SegmentSize)
	}
	if err := header.CheckName(s.file, 0, localHistory(path, s.file.Segment.Timeline)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.system, s.size = header.System, header.SegmentSize
	var facts postgres.SegmentFacts
	if s.large != nil {
		facts, err = postgres.ScanSegmentAt(s.file, s.large, s.length)
	} else {
		facts, err = postgres.ScanSegment(s.file, s.plain)
	}
	if err != nil {
		s.unread = err
	} else if facts.Stop != "" && s.file.Kind == postgres.WALSegment && !facts.Complete(s.size) {
		s.unread = errors.New(facts.Stop)
	}
	s.facts = &facts
	return nil
}

// localHistory is the timeline's history if it lies beside the segment, else the
// zero value: then only the order of the timelines can be checked (R1).
func localHistory(path string, tli postgres.TimelineID) postgres.TimelineHistory {
	b, err := readRegular(filepath.Join(filepath.Dir(path), postgres.HistoryFile(tli).String()), maxSmall, nil)
	history, parseErr := postgres.ParseTimelineHistory(tli, b)
	if errors.Join(err, parseErr) != nil {
		return postgres.TimelineHistory{}
	}
	return history
}
