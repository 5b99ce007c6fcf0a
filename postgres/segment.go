package postgres

import (
	"fmt"
	"math/bits"
)

// SegmentSize is wal_segment_size in bytes: a power of two, 1 MiB to 1 GiB.
type SegmentSize uint32

// DefaultSegmentSize is initdb's default, 16 MiB.
const DefaultSegmentSize SegmentSize = 16 << 20

// Validate refuses sizes that initdb refuses.
func (s SegmentSize) Validate() error {
	if s < 1<<20 || s > 1<<30 || bits.OnesCount32(uint32(s)) != 1 {
		return fmt.Errorf("WAL segment size %d: want a power of two from 1 MiB to 1 GiB", uint32(s))
	}
	return nil
}

// PerLog is how many segments share the middle eight digits of a name.
func (s SegmentSize) PerLog() uint64 { return (1 << 32) / uint64(s) }

// Segment is one WAL segment on one timeline. Log and Seg are the second and
// third group of its name, so that a name round-trips without the size.
type Segment struct {
	Timeline TimelineID
	Log, Seg uint32
}

// SegmentAt is the segment of tli that holds lsn.
func SegmentAt(tli TimelineID, lsn LSN, size SegmentSize) Segment {
	return segmentNumber(tli, uint64(lsn)/uint64(size), size)
}

// SegmentEndingAt is the segment that holds the byte before lsn: the last one
// needed to replay up to lsn.
func SegmentEndingAt(tli TimelineID, lsn LSN, size SegmentSize) Segment {
	if lsn == 0 {
		return SegmentAt(tli, 0, size)
	}
	return SegmentAt(tli, lsn-1, size)
}

func segmentNumber(tli TimelineID, n uint64, size SegmentSize) Segment {
	return Segment{Timeline: tli, Log: uint32(n / size.PerLog()), Seg: uint32(n % size.PerLog())}
}

// Number counts segments of the given size from LSN 0.
func (s Segment) Number(size SegmentSize) uint64 { return uint64(s.Log)*size.PerLog() + uint64(s.Seg) }

// Start is the LSN of the segment's first byte.
func (s Segment) Start(size SegmentSize) LSN { return LSN(s.Number(size) * uint64(size)) }

// End is the LSN after the segment's last byte.
func (s Segment) End(size SegmentSize) LSN { return s.Start(size) + LSN(size) }

// Next is the following segment on the same timeline.
func (s Segment) Next(size SegmentSize) Segment {
	return segmentNumber(s.Timeline, s.Number(size)+1, size)
}

// On is the segment of the same position on another timeline.
func (s Segment) On(tli TimelineID) Segment { s.Timeline = tli; return s }

// Name is the segment's file name, 24 hexadecimal digits.
func (s Segment) Name() string { return fmt.Sprintf("%08X%08X%08X", uint32(s.Timeline), s.Log, s.Seg) }

func (s Segment) String() string { return s.Name() }

// MarshalText makes a segment print as its file name in JSON.
func (s Segment) MarshalText() ([]byte, error) { return []byte(s.Name()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Segment) UnmarshalText(b []byte) error {
	f, err := ParseWALFile(string(b))
	if err == nil && f.Kind != WALSegment {
		err = fmt.Errorf("%s is not a segment", b)
	}
	*s = f.Segment
	return err
}
