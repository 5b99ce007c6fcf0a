package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	recordHeader = 24
	// maxRecord is above XLogRecordMaxSize, the servers' own limit.
	maxRecord = 1 << 30
	// maxBuiltinRmgr is RM_MAX_BUILTIN_ID with some room; 128 and up are extensions'.
	maxBuiltinRmgr, minCustomRmgr = 31, 128
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrEndOfWAL is in the error of RecordReader where the log itself ends or is
// damaged; other errors come from the source or from segments that do not join.
var ErrEndOfWAL = errors.New("end of WAL")

// errSegmentEnd says that the walker came to the end of the segment it was given.
var errSegmentEnd = errors.New("end of WAL segment")

// rawRecord is a record whose checksum is proved. If kind is not 0, body holds what
// follows the header and lives until the next step.
type rawRecord struct {
	start, end LSN
	kind       RecordKind
	info       byte
	xid        uint32
	body       []byte
}

// walWalker steps through records, page by page, as the server's reader does. All
// memory it takes is for bytes it was given: no length in the data is believed.
type walWalker struct {
	head  WALHeader
	magic uint16
	seg   Segment
	base  LSN
	bytes segmentBytes
	size  int
	here  []byte // the page that off lies in
	off   int    // next byte to look at
	page  int    // end of that page
	valid int    // end of the last whole record, or of a continued one

	pageTLI  TimelineID
	prev     LSN  // start of the last whole record; 0 if none is known
	began    bool // some record was read or continued
	switched bool // the last record was XLOG_SWITCH
	first    LSN  // first and last whole record that begins in this segment
	last     LSN
	// Of this segment: what its first record and its first page say of the one before.
	firstPrev  LSN
	continues  uint32
	overwrites bool

	part partialRecord
}

// partialRecord is a record that a page or segment boundary cut.
type partialRecord struct {
	start LSN
	total int // 0: none
	have  int
	blind bool // began before the first segment: its bytes are passed over
	head  [recordHeader]byte
	crc   uint32
	keep  bool
	body  []byte
}

// segmentBytes gives n bytes of a segment from an offset on, until the next call.
type segmentBytes func(off, n int) ([]byte, error)

// held are the bytes of a segment that is in memory.
func held(data []byte) segmentBytes {
	return func(off, n int) ([]byte, error) { return data[off : off+n], nil }
}

// scanWindow is what of a file is held at a time: many pages of any size.
const scanWindow = 1 << 20

// windowed are the bytes of a segment that is read as they are asked for.
func windowed(file io.ReaderAt, size int) segmentBytes {
	window, from := make([]byte, 0, scanWindow), 0
	return func(off, n int) ([]byte, error) {
		if off < from || off+n > from+len(window) {
			window, from = window[:min(scanWindow, size-off)], off
			if _, err := file.ReadAt(window, int64(off)); err != nil {
				window = window[:0]
				return nil, err
			}
		}
		return window[off-from : off-from+n], nil
	}
}

// open gives the walker its next segment, which must follow the last one.
func (w *walWalker) open(seg Segment, size int, bytes segmentBytes) error {
	data, err := bytes(0, min(size, longPageHeader))
	if err != nil {
		return fmt.Errorf("walk %s: %w", seg, err)
	}
	h, err := ParseWALHeader(data)
	if err != nil {
		return fmt.Errorf("walk %s: %w", seg, err)
	}
	if err := h.CheckName(WALFile{Kind: WALSegment, Segment: seg}, w.head.System, TimelineHistory{}); err != nil {
		return err
	}
	if size != int(h.SegmentSize) {
		return fmt.Errorf("walk %s: %d bytes, its header says %d", seg, size, h.SegmentSize)
	}
	if w.head.System != 0 {
		if h.Major != w.head.Major || h.SegmentSize != w.head.SegmentSize || h.BlockSize != w.head.BlockSize {
			return fmt.Errorf("walk %s: version or sizes differ from those of %s", seg, w.seg)
		}
		if want := w.seg.Next(h.SegmentSize).On(seg.Timeline); seg != want {
			return fmt.Errorf("walk %s: want %s after %s", seg, want, w.seg)
		}
	}
	w.head, w.magic, w.seg, w.base, w.size, w.bytes = h, binary.LittleEndian.Uint16(data), seg, h.Address, size, bytes
	w.off, w.page, w.valid, w.switched, w.first, w.last = 0, 0, 0, false, 0, 0
	w.firstPrev, w.continues, w.overwrites = 0, 0, false
	return nil
}

// next yields the next record, errSegmentEnd, or the reason why the log ends here.
func (w *walWalker) next() (rawRecord, error) {
	if w.switched {
		return rawRecord{}, errSegmentEnd
	}
	for {
		if w.off == w.page {
			if w.off == w.size {
				w.valid = w.off
				return rawRecord{}, errSegmentEnd
			}
			if err := w.enterPage(); err != nil {
				return rawRecord{}, err
			}
		}
		if w.part.total == 0 {
			rec, whole, err := w.begin()
			if err != nil || whole {
				return rec, err
			}
			continue
		}
		n := min(w.part.total-w.part.have, w.page-w.off)
		w.part.add(w.rest()[:n])
		w.off += n
		if w.part.have < w.part.total {
			continue
		}
		rec, blind, err := w.finish()
		if err != nil || !blind {
			return rec, err
		}
	}
}

func (w *walWalker) stop(format string, args ...any) error {
	return fmt.Errorf("walk %s: %w at %s: %w", w.seg, ErrEndOfWAL, w.base+LSN(w.off), fmt.Errorf(format, args...))
}

// rest is what follows off on its page.
func (w *walWalker) rest() []byte { return w.here[len(w.here)-(w.page-w.off):] }

// enterPage checks the header of the page at off and steps over it.
func (w *walWalker) enterPage() (err error) {
	if w.here, err = w.bytes(w.off, int(w.head.BlockSize)); err != nil {
		return fmt.Errorf("walk %s: %w", w.seg, err)
	}
	le, b := binary.LittleEndian, w.here
	info, tli, addr, rem := le.Uint16(b[2:]), TimelineID(le.Uint32(b[4:])), LSN(le.Uint64(b[8:])), int64(le.Uint32(b[16:]))
	size := shortPageHeader
	if w.off == 0 {
		size = longPageHeader
	}
	switch {
	case le.Uint16(b) != w.magic:
		return w.stop("page magic %04X, want %04X", le.Uint16(b), w.magic)
	case info&^pageKnownFlags != 0 || (info&pageLongHeader != 0) != (w.off == 0):
		return w.stop("page flags %04X are out of place", info)
	case addr != w.base+LSN(w.off):
		return w.stop("page holds position %s", addr)
	case tli > w.seg.Timeline || tli < w.pageTLI:
		return w.stop("page of timeline %d after %d in a segment of %d", uint32(tli), uint32(w.pageTLI), uint32(w.seg.Timeline))
	}
	continues := info&pageContinues != 0
	if info&pageOverwrites != 0 && !continues {
		w.overwrites = w.overwrites || w.off == 0 || w.part.blind
		w.part.drop()
		w.began = true
	}
	p := &w.part
	switch left := int64(p.total - p.have); {
	case p.total == 0 && continues && w.began:
		return w.stop("page continues a record that did not begin")
	case p.total == 0 && continues && (rem == 0 || rem > maxRecord):
		return w.stop("page continues a record of %d more bytes", rem)
	case p.total == 0 && continues:
		*p = partialRecord{total: int(rem), blind: true, body: p.body}
	case p.total > 0 && !continues:
		return w.stop("page does not continue the record at %s", p.start)
	case p.total > 0 && rem != left:
		return w.stop("page continues a record with %d bytes left, want %d", rem, left)
	}
	if w.off == 0 && continues {
		w.continues = uint32(rem)
	}
	w.began, w.pageTLI = true, tli
	w.page = w.off + int(w.head.BlockSize)
	w.off += size
	return nil
}

// begin reads the record that starts at off. It is whole if it ends on this page,
// the usual case, which copies nothing; else it becomes the partial record.
func (w *walWalker) begin() (rec rawRecord, whole bool, err error) {
	le, here := binary.LittleEndian, w.rest()
	start := w.base + LSN(w.off)
	if len(here) < 8 {
		return rec, false, w.stop("%d bytes are no room for a record", len(here))
	}
	total := int64(le.Uint32(here))
	if total < recordHeader || total > maxRecord {
		return rec, false, w.stop("record length %d", total)
	}
	if len(here) >= 16 {
		if prev := recordPrev(here); w.prev != 0 && prev != w.prev || prev >= start {
			return rec, false, w.stop("record follows %s, want %s", prev, w.prev)
		}
	}
	if len(here) >= recordHeader && !knownRmgr(here[17]) {
		return rec, false, w.stop("resource manager %d", here[17])
	}
	if total > int64(len(here)) {
		w.part = partialRecord{start: start, total: int(total), body: w.part.body[:0]}
		return rec, false, nil
	}
	r := here[:total]
	if crc := recordCRC(crc32.Update(0, castagnoli, r[recordHeader:]), r); crc != le.Uint32(r[20:]) {
		return rec, false, w.stop("record checksum %08X, want %08X", crc, le.Uint32(r[20:]))
	}
	w.off += int(total)
	return w.deliver(start, r, r[recordHeader:]), true, nil
}

// finish closes the partial record, blind if it began before our first segment.
func (w *walWalker) finish() (rec rawRecord, blind bool, err error) {
	p := &w.part
	if p.blind {
		w.align()
		p.drop()
		return rec, true, nil
	}
	le := binary.LittleEndian
	if prev := recordPrev(p.head[:]); w.prev != 0 && prev != w.prev || !knownRmgr(p.head[17]) {
		return rec, false, w.stop("record at %s follows %s, want %s", p.start, prev, w.prev)
	}
	if crc := recordCRC(p.crc, p.head[:]); crc != le.Uint32(p.head[20:]) {
		return rec, false, w.stop("checksum of the record at %s is %08X, want %08X", p.start, crc, le.Uint32(p.head[20:]))
	}
	rec = w.deliver(p.start, p.head[:], p.body)
	p.drop()
	return rec, false, nil
}

// deliver steps over the padding and notes the record as the last whole one.
func (w *walWalker) deliver(start LSN, head, body []byte) rawRecord {
	w.align()
	w.prev = start
	if start >= w.base {
		w.last = start
		if w.first == 0 {
			w.first, w.firstPrev = start, recordPrev(head)
		}
	}
	rec := rawRecord{start: start, end: w.base + LSN(w.off), kind: kindOf(head[17], head[16])}
	if rec.kind != 0 {
		rec.info, rec.xid, rec.body = head[16], binary.LittleEndian.Uint32(head[4:]), body
	}
	if rec.kind == RecordSwitch {
		w.switched, rec.end = true, w.base+LSN(w.size)
	}
	return rec
}

// align moves past the padding to the next multiple of eight.
func (w *walWalker) align() {
	w.off = min((w.off+7)&^7, w.page)
	w.valid = w.off
}

func (p *partialRecord) drop() { *p = partialRecord{body: p.body[:0]} }

// add takes the next bytes: into the header, the checksum, and the body if kept.
func (p *partialRecord) add(b []byte) {
	if p.blind {
		p.have += len(b)
		return
	}
	if p.have < recordHeader {
		n := copy(p.head[p.have:], b)
		p.have += n
		b = b[n:]
		if p.have < recordHeader {
			return
		}
		p.keep = kindOf(p.head[17], p.head[16]) != 0
	}
	p.have += len(b)
	p.crc = crc32.Update(p.crc, castagnoli, b)
	if p.keep {
		p.body = append(p.body, b...)
	}
}

// recordCRC ends a record's checksum: its header comes last, without the checksum.
func recordCRC(body uint32, header []byte) uint32 {
	return crc32.Update(body, castagnoli, header[:20])
}

// recordPrev is xl_prev: where the record before this one begins.
func recordPrev(header []byte) LSN { return LSN(binary.LittleEndian.Uint64(header[8:])) }

func knownRmgr(id byte) bool { return id <= maxBuiltinRmgr || id >= minCustomRmgr }
