package postgres

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Page header of the write-ahead log: 24 bytes, 40 on a segment's first page.
const (
	shortPageHeader = 24
	longPageHeader  = 40

	pageContinues   = 0x0001 // begins with the rest of a record
	pageLongHeader  = 0x0002
	pageOverwrites  = 0x0008 // the record cut before this page was given up
	pageKnownFlags  = 0x000F
	maxWALBlockSize = 64 << 10
)

// walMagics are XLOG_PAGE_MAGIC of the supported majors; one per major, for ever.
var walMagics = map[uint16]int{0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

// WALHeader is the long header of a segment's first page.
type WALHeader struct {
	Major       int        // PostgreSQL's major version, from the page magic
	Info        uint16     // XLP_ flags
	Timeline    TimelineID // of the page; an ancestor of the name's on the first segment after a fork
	Address     LSN        // of the page: the segment's first byte
	RemLen      uint32     // bytes that the record begun in an earlier segment still has
	System      SystemIdentifier
	SegmentSize SegmentSize
	BlockSize   uint32 // XLOG_BLCKSZ, the page size of the log
}

// ParseWALHeader reads the header at the start of a segment; 40 bytes suffice.
// It refuses what is not the first page of a segment of a supported version.
func ParseWALHeader(b []byte) (WALHeader, error) {
	if len(b) < longPageHeader {
		return WALHeader{}, fmt.Errorf("read WAL header: %d bytes, want %d", len(b), longPageHeader)
	}
	le := binary.LittleEndian
	magic := le.Uint16(b)
	h := WALHeader{
		Major:       walMagics[magic],
		Info:        le.Uint16(b[2:]),
		Timeline:    TimelineID(le.Uint32(b[4:])),
		Address:     LSN(le.Uint64(b[8:])),
		RemLen:      le.Uint32(b[16:]),
		System:      SystemIdentifier(le.Uint64(b[24:])),
		SegmentSize: SegmentSize(le.Uint32(b[32:])),
		BlockSize:   le.Uint32(b[36:]),
	}
	bad := func(format string, args ...any) (WALHeader, error) {
		return WALHeader{}, fmt.Errorf("read WAL header: "+format, args...)
	}
	switch {
	case h.Major == 0:
		return bad("page magic %04X is not one of PostgreSQL %d to %d", magic, OldestMajor, NewestMajor)
	case h.Info&pageLongHeader == 0 || h.Info&^pageKnownFlags != 0:
		return bad("page flags %04X are not those of a segment's first page", h.Info)
	case h.Timeline == 0:
		return bad("page has timeline 0")
	case h.System == 0:
		return bad("page has system identifier 0")
	case h.SegmentSize.Validate() != nil:
		return bad("%w", h.SegmentSize.Validate())
	case h.BlockSize < 1<<10 || h.BlockSize > maxWALBlockSize || bits.OnesCount32(h.BlockSize) != 1:
		return bad("page size %d: want a power of two from 1 KiB to 64 KiB", h.BlockSize)
	case uint64(h.Address)%uint64(h.SegmentSize) != 0:
		return bad("page address %s is not the start of a segment of %d bytes", h.Address, h.SegmentSize)
	}
	return h, nil
}

// CheckName refuses a segment whose header does not belong under the name f (R1):
// its position must agree, and its timeline must be the name's or an ancestor's.
// history is the name's timeline's if it is at hand; with the zero value only the
// order of the numbers is checked. A want of 0 accepts any system identifier.
func (h WALHeader) CheckName(f WALFile, want SystemIdentifier, history TimelineHistory) error {
	name := f.String()
	if f.Kind != WALSegment && f.Kind != WALPartial {
		return fmt.Errorf("check WAL header: %s does not name a segment", name)
	}
	if uint64(f.Segment.Seg) >= h.SegmentSize.PerLog() {
		return fmt.Errorf("check WAL header of %s: no such segment with %d bytes per segment", name, h.SegmentSize)
	}
	if at := f.Segment.Start(h.SegmentSize); at != h.Address {
		return fmt.Errorf("check WAL header of %s: the file holds position %s, its name says %s", name, h.Address, at)
	}
	if want != 0 && h.System != want {
		return fmt.Errorf("check WAL header of %s: it comes from system %s, want %s", name, h.System, want)
	}
	if h.Timeline > f.Segment.Timeline {
		return fmt.Errorf("check WAL header of %s: its page is of the later timeline %d", name, uint32(h.Timeline))
	}
	if history.Timeline == f.Segment.Timeline && !history.Descends(h.Timeline) {
		return fmt.Errorf("check WAL header of %s: its page is of timeline %d, which is no ancestor", name, uint32(h.Timeline))
	}
	return nil
}
