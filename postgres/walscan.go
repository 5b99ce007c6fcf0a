package postgres

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// ScanSegment walks a whole segment or .partial and gathers its facts; data is the
// file, of wal_segment_size bytes. An error means that it cannot be walked at all,
// and the facts say only that. WAL that ends early is no error but ValidEnd and Stop.
func ScanSegment(name WALFile, data []byte) (SegmentFacts, error) {
	return scanSegment(name, len(data), held(data))
}

// ScanSegmentAt is ScanSegment of a file of size bytes that is not read whole into memory.
func ScanSegmentAt(name WALFile, file io.ReaderAt, size int64) (SegmentFacts, error) {
	return scanSegment(name, int(size), windowed(file, int(size)))
}

func scanSegment(name WALFile, size int, bytes segmentBytes) (SegmentFacts, error) {
	unknown := SegmentFacts{ValidEnd: uint32(min(int64(size), math.MaxUint32))}
	var w walWalker
	if err := w.open(name.Segment, size, bytes); err != nil {
		return unknown, err
	}
	f := SegmentFacts{Walked: true}
	raw, stop := w.next()
	for ; stop == nil; raw, stop = w.next() {
		if raw.kind == 0 {
			continue
		}
		rec, err := decodeRecord(raw, name.Segment.Timeline, w.head.Major)
		if err != nil {
			return unknown, fmt.Errorf("scan %s: %w", name, err)
		}
		f.note(rec)
	}
	f.ValidEnd, f.FirstLSN, f.LastLSN, f.FirstPrev = uint32(w.valid), w.first, w.last, w.firstPrev
	f.Continues, f.Overwrites = w.continues, w.overwrites
	switch {
	case errors.Is(stop, ErrEndOfWAL):
		f.Stop = stop.Error()
	case !errors.Is(stop, errSegmentEnd):
		return unknown, stop
	case w.switched:
		if f.Switched, stop = w.zeroFrom(w.valid); stop != nil {
			return unknown, fmt.Errorf("scan %s: %w", name, stop)
		}
		if f.Switched {
			break
		}
		f.Stop = fmt.Sprintf("walk %s: bytes other than zero follow the segment switch", name)
	case w.part.total > 0 && !w.part.blind:
		f.Open = &OpenRecord{LSN: w.part.start, Kind: w.part.kind(), Left: uint32(w.part.total - w.part.have)}
		f.LastLSN = w.part.start
		if f.FirstLSN == 0 {
			f.FirstLSN = w.part.start
			if w.part.have >= recordHeader {
				f.FirstPrev = recordPrev(w.part.head[:])
			}
		}
	}
	return f, nil
}

// Complete tells whether a segment of the given size needs nothing more (R2): it
// was walked to its end, or to a switch followed by zeros.
func (f SegmentFacts) Complete(size SegmentSize) bool {
	return f.Walked && (f.Switched || f.ValidEnd == uint32(size))
}

// Joins tells whether the segment with facts next can follow this one: its first
// record must name the last that begins here, and its first page go on with what is
// open here. last is that last record, which may have begun in an earlier segment;
// zero if it is not known. What was not kept is not compared.
func (f SegmentFacts) Joins(last LSN, next SegmentFacts) bool {
	switch {
	case !f.Walked || !next.Walked || next.FirstPrev == 0 || next.Overwrites:
		return true
	case f.Open != nil && f.Open.Left != 0 && f.Open.Left != next.Continues:
		return false
	case f.Open == nil && f.LastLSN != 0 && next.Continues != 0:
		return false
	}
	return last == 0 || last == next.FirstPrev
}

// Joint is what the next segment must go on with: the facts of the one before it,
// and where the last record begins that began before it; zero if not known.
type Joint struct {
	Facts SegmentFacts
	last  LSN
}

// Note goes on to the next segment.
func (j *Joint) Note(f SegmentFacts) {
	j.Facts = f
	if f.LastLSN != 0 || !f.Walked {
		j.last = f.LastLSN
	}
}

// Joins tells whether the segment with facts next can follow.
func (j Joint) Joins(next SegmentFacts) bool { return j.Facts.Joins(j.last, next) }

func (f *SegmentFacts) note(r Record) {
	switch {
	case r.Kind == RecordRestorePoint:
		f.RestorePoints = append(f.RestorePoints, RestorePoint{Name: r.Name, LSN: r.Start, End: r.End, Time: r.Time})
	case r.Kind == RecordTablespaceCreate:
		f.Tablespaces = append(f.Tablespaces, r.Tablespace)
	case r.Kind.EndsTransaction():
		f.Commits++
		f.MinTime, f.MaxTime = widen(f.MinTime, f.MaxTime, r.Time)
		if r.XID != 0 && (f.MinXID == 0 || r.XID < f.MinXID) {
			f.MinXID = r.XID
		}
		f.MaxXID = max(f.MaxXID, r.XID)
	}
}

func widen(low, high, t time.Time) (time.Time, time.Time) {
	if t.IsZero() {
		return low, high
	}
	if low.IsZero() || t.Before(low) {
		low = t
	}
	if t.After(high) {
		high = t
	}
	return low, high
}

// kind tells what the cut record is, as far as its header is there.
func (p *partialRecord) kind() string {
	switch {
	case p.have < recordHeader:
		return "unknown"
	case p.head[17] == rmXact:
		return "xact"
	}
	return "other"
}

// zeroFrom tells whether nothing but zeros follows.
func (w *walWalker) zeroFrom(off int) (bool, error) {
	for off < w.size {
		n := min(w.size, (off/scanWindow+1)*scanWindow) - off
		b, err := w.bytes(off, n)
		if err != nil || !allZero(b) {
			return false, err
		}
		off += n
	}
	return true, nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
