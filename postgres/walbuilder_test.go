package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"reflect"
	"testing"
)

// walBuilder lays out records as a server does, to make what is rare in the field.
type walBuilder struct {
	size  SegmentSize
	magic uint16
	tli   TimelineID
	first Segment
	segs  [][]byte
	pos   LSN // where the next byte goes
	prev  LSN
}

func newWALBuilder(size SegmentSize, at Segment) *walBuilder {
	return &walBuilder{size: size, magic: 0xD110, tli: at.Timeline, first: at, pos: at.Start(size)}
}

// room is the rest of the page at pos, after a header if one is due there.
func (b *walBuilder) room(rem int, flags uint16) []byte {
	const page = 8192
	if b.pos == b.first.Start(b.size)+LSN(len(b.segs))*LSN(b.size) {
		b.segs = append(b.segs, make([]byte, b.size))
	}
	seg := b.segs[len(b.segs)-1]
	off := int(uint64(b.pos) % uint64(b.size))
	if off%page == 0 {
		le, h, size := binary.LittleEndian, seg[off:], shortPageHeader
		if rem > 0 {
			flags |= pageContinues
		}
		if off == 0 {
			flags, size = flags|pageLongHeader, longPageHeader
			le.PutUint64(h[24:], 77)
			le.PutUint32(h[32:], uint32(b.size))
			le.PutUint32(h[36:], page)
		}
		le.PutUint16(h, b.magic)
		le.PutUint16(h[2:], flags)
		le.PutUint32(h[4:], uint32(b.tli))
		le.PutUint64(h[8:], uint64(b.pos))
		le.PutUint32(h[16:], uint32(rem))
		off += size
		b.pos += LSN(size)
	}
	return seg[off : (off/page+1)*page]
}

// add writes a record and gives its start and its end.
func (b *walBuilder) add(rmid, info byte, xid uint32, body []byte) (start, end LSN) {
	b.room(0, 0)
	start = b.pos
	b.put(b.bytes(rmid, info, xid, body))
	b.prev = start
	b.pos = (b.pos + 7) &^ 7
	return start, b.pos
}

// bytes is the record that would come next.
func (b *walBuilder) bytes(rmid, info byte, xid uint32, body []byte) []byte {
	le := binary.LittleEndian
	r := make([]byte, recordHeader, recordHeader+len(body))
	le.PutUint32(r, uint32(recordHeader+len(body)))
	le.PutUint32(r[4:], xid)
	le.PutUint64(r[8:], uint64(b.prev))
	r[16], r[17] = info, rmid
	le.PutUint32(r[20:], crc32.Update(crc32.Update(0, castagnoli, body), castagnoli, r[:20]))
	return append(r, body...)
}

func (b *walBuilder) put(r []byte) {
	for len(r) > 0 {
		n := copy(b.room(len(r), 0), r)
		r = r[n:]
		b.pos += LSN(n)
	}
}

// commit writes the commit of xid at a number of microseconds since 2000.
func (b *walBuilder) commit(xid uint32, at uint64) (start, end LSN) {
	return b.add(rmXact, 0, xid, append([]byte{255, 8}, binary.LittleEndian.AppendUint64(nil, at)...))
}

// filler writes a record of the given total length that nobody decodes.
func (b *walBuilder) filler(total int) (start, end LSN) {
	return b.add(10, 0, 1, bytes.Repeat([]byte{0xA5}, total-recordHeader))
}

// fillTo writes a filler so that n bytes are left in the segment.
func (b *walBuilder) fillTo(n int) {
	b.room(0, 0)
	for {
		left := int(uint64(b.size) - uint64(b.pos)%uint64(b.size))
		page := int(8192 - uint64(b.pos)%8192)
		switch {
		case left <= 8192:
			if left-n > 0 {
				b.filler(left - n)
			}
			return
		default:
			b.filler(page)
			b.room(0, 0)
		}
	}
}

// switchSegment writes XLOG_SWITCH and goes to the next segment.
func (b *walBuilder) switchSegment() {
	b.add(rmXLOG, xlogSwitch, 0, nil)
	b.pos = (b.pos + LSN(b.size) - 1) / LSN(b.size) * LSN(b.size)
}

func (b *walBuilder) source() SegmentSource {
	seg, i := b.first, 0
	return func() (Segment, *io.SectionReader, error) {
		if i == len(b.segs) {
			return Segment{}, nil, io.EOF
		}
		s, data := seg, b.segs[i]
		seg, i = seg.Next(b.size), i+1
		return s, section(data), nil
	}
}

func (b *walBuilder) scan(t testing.TB, i int) SegmentFacts {
	t.Helper()
	seg := b.first
	for range i {
		seg = seg.Next(b.size)
	}
	f, err := scanTwice(t, WALFile{Kind: WALSegment, Segment: seg}, b.segs[i])
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// scanTwice insists that a file is scanned like what is in memory.
func scanTwice(t testing.TB, name WALFile, data []byte) (SegmentFacts, error) {
	t.Helper()
	f, err := ScanSegment(name, data)
	at, atErr := ScanSegmentAt(name, bytes.NewReader(data), int64(len(data)))
	if !reflect.DeepEqual(f, at) || fmt.Sprint(err) != fmt.Sprint(atErr) {
		t.Fatalf("%s: %+v, %v; as a file %+v, %v", name, f, err, at, atErr)
	}
	return f, err
}

func section(data []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
}
