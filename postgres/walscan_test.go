package postgres

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

const mib = SegmentSize(1 << 20)

// A long random log: every commit comes back where it was put, and every whole
// segment is complete.
func TestWALOfRandomRecords(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, size := range []SegmentSize{mib, 4 * mib} {
		b := newWALBuilder(size, SegmentAt(3, 5<<32-LSN(2*size), size))
		type put struct {
			xid        uint32
			start, end LSN
		}
		var commits []put
		for xid := uint32(1); len(b.segs) < 6; xid++ {
			switch rnd.IntN(40) {
			case 0:
				b.filler(recordHeader + rnd.IntN(3*int(size)))
			case 1, 2, 3:
				b.filler(recordHeader + rnd.IntN(30000))
			case 4:
				b.switchSegment()
			}
			b.filler(recordHeader + rnd.IntN(500))
			start, end := b.commit(xid, uint64(xid))
			commits = append(commits, put{xid, start, end})
		}
		r := newKnownReader(0, b.source())
		for _, want := range commits {
			got, err := r.Next()
			for got.Kind == RecordSwitch {
				got, err = r.Next()
			}
			if err != nil || got.Kind != RecordCommit || got.XID != want.xid || got.Start != want.start || got.End != want.end {
				t.Fatalf("%+v, %v; want %+v", got, err, want)
			}
		}
		for i := range len(b.segs) - 1 {
			if f := b.scan(t, i); !f.Complete(size) || f.Stop != "" {
				t.Errorf("segment %d of %d is not complete: %+v", i, size, f)
			}
		}
		if f := b.scan(t, len(b.segs)-1); f.Complete(size) || f.ValidEnd != uint32(uint64(b.pos)%uint64(size)) || f.Stop == "" {
			t.Errorf("the last segment ends at %s: %+v", b.pos, f)
		}
		if _, err := r.Next(); !errors.Is(err, ErrEndOfWAL) || r.end != b.pos {
			t.Errorf("the reader stops at %s with %v, want %s", r.end, err, b.pos)
		}
	}
}

func TestScanSegmentOpenRecord(t *testing.T) {
	for left, want := range map[int]string{8: "unknown", 16: "unknown", 24: "xact", 32: "xact", 0: ""} {
		b := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
		b.fillTo(left)
		start, end := b.commit(9, 1)
		f := b.scan(t, 0)
		if !f.Complete(mib) || f.ValidEnd != 1<<20 || f.Commits != 0 {
			t.Errorf("%d bytes left: %+v", left, f)
		}
		if want == "" {
			if f.Open != nil {
				t.Errorf("%d bytes left: open %+v", left, f.Open)
			}
			continue
		}
		if f.Open == nil || f.Open.Kind != want || f.Open.LSN != start || f.LastLSN != start {
			t.Errorf("%d bytes left: open %+v, want %s at %s", left, f.Open, want, start)
		}
		if f := b.scan(t, 1); f.FirstLSN != 0 || f.Commits != 0 || f.Stop == "" {
			t.Errorf("%d bytes left: the next segment has %+v", left, f)
		}
		r := newKnownReader(0, b.source())
		if got, err := r.Next(); err != nil || got.XID != 9 || got.End != end {
			t.Errorf("%d bytes left: %+v %v", left, got, err)
		}
		b.segs = b.segs[:1]
		r = newKnownReader(0, b.source())
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	b := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
	b.filler(3 << 20)
	if f := b.scan(t, 0); f.Open == nil || f.Open.Kind != "other" || f.FirstLSN != f.Open.LSN {
		t.Errorf("%+v", f)
	}
	if f := b.scan(t, 1); !f.Complete(mib) || f.FirstLSN != 0 || f.LastLSN != 0 || f.Open != nil {
		t.Errorf("a segment in the middle of a record: %+v", f)
	}
}

// A recycled file keeps old pages behind the new ones.
func TestScanSegmentRecycledTail(t *testing.T) {
	old := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
	for len(old.segs) < 2 {
		old.commit(1, 1)
	}
	for _, cut := range []int{8192 * 3, 8192*3 + 512} {
		b := newWALBuilder(mib, SegmentAt(1, 9<<20, mib))
		for uint64(b.pos)%uint64(mib) < uint64(cut)-200 {
			b.commit(2, 2)
		}
		_, end := b.commit(3, 3)
		clean := b.scan(t, 0)
		from := (int(uint64(end)%uint64(mib)) + 511) &^ 511
		copy(b.segs[0][from:], old.segs[0][from:])
		f := b.scan(t, 0)
		if f.ValidEnd != uint32(uint64(end)%uint64(mib)) || f.Complete(mib) || f.Commits != clean.Commits {
			t.Errorf("%+v, want the end at %s", f, end)
		}
	}
}

// A file that cannot be read to its end tells nothing.
func TestScanSegmentUnreadable(t *testing.T) {
	b := newWALBuilder(4*mib, SegmentAt(1, 1<<30, 4*mib))
	for range 100 {
		b.filler(30_000)
	}
	whole := b.segs[0]
	for _, end := range []int{0, 20, 1 << 20, 2<<20 + 5} {
		f, err := ScanSegmentAt(WALFile{Kind: WALSegment, Segment: b.first}, bytes.NewReader(whole[:end]), int64(len(whole)))
		if err == nil || errors.Is(err, ErrEndOfWAL) || f.Walked || f.ValidEnd != uint32(len(whole)) {
			t.Errorf("%d bytes of %d: %+v, %v", end, len(whole), f, err)
		}
	}
	b.switchSegment()
	if f, err := ScanSegmentAt(WALFile{Kind: WALSegment, Segment: b.first}, bytes.NewReader(whole[:3<<20]), int64(len(whole))); err == nil || f.Switched {
		t.Errorf("zeros that were not read: %+v, %v", f, err)
	}
}

func TestScanSegmentSwitch(t *testing.T) {
	b := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
	b.commit(1, 1)
	b.switchSegment()
	f := b.scan(t, 0)
	if !f.Switched || !f.Complete(mib) || f.ValidEnd >= 8192 {
		t.Errorf("%+v", f)
	}
	for _, at := range []int{int(f.ValidEnd), 100_003, 1<<20 - 1} {
		b.segs[0][at] = 1
		if g := b.scan(t, 0); g.Switched || g.Complete(mib) || g.ValidEnd != f.ValidEnd || g.Stop == "" {
			t.Errorf("byte %d set: %+v", at, g)
		}
		b.segs[0][at] = 0
	}
}

// A crashed primary gives up a record that it could not finish.
func TestOverwrittenRecord(t *testing.T) {
	for _, across := range []bool{false, true} {
		b := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
		b.commit(1, 1)
		if across {
			b.fillTo(64)
		}
		r := b.bytes(10, 0, 1, make([]byte, 5000))
		for page := b.pos / 8192; b.pos/8192 == page; {
			if across || 8192-b.pos%8192 < LSN(len(r)) {
				n := copy(b.room(0, 0), r)
				b.pos += LSN(n)
				break
			}
			b.filler(4000)
			r = b.bytes(10, 0, 1, make([]byte, 5000))
			page = b.pos / 8192
		}
		b.room(0, pageOverwrites)
		b.add(rmXLOG, 0xD0, 0, []byte{255, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		b.commit(2, 2)
		rd := newKnownReader(0, b.source())
		for _, xid := range []uint32{1, 2} {
			if got, err := rd.Next(); err != nil || got.XID != xid {
				t.Fatalf("across %v: %+v %v, want xid %d", across, got, err, xid)
			}
		}
	}
}

func TestScanSegmentDamage(t *testing.T) {
	b := newWALBuilder(mib, SegmentAt(2, 1<<20, mib))
	for len(b.segs) < 2 {
		b.filler(700)
		b.commit(5, 5)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		at := longPageHeader + rnd.IntN(1<<20-longPageHeader)
		if at%8192 >= 20 && at%8192 < 24 {
			continue // padding of the page header says nothing
		}
		data := bytes.Clone(b.segs[0])
		data[at] ^= 1 << rnd.IntN(8)
		f, err := scanTwice(t, WALFile{Kind: WALSegment, Segment: b.first}, data)
		if err != nil || int(f.ValidEnd) > at {
			// Padding between records is covered by no checksum.
			if f.Complete(mib) && b.segs[0][at] == 0 {
				continue
			}
			t.Errorf("byte %d changed: %+v %v", at, f, err)
		}
	}
	for name, change := range map[string]func(d []byte) []byte{
		"zeros": func(d []byte) []byte { return make([]byte, len(d)) }, "empty": func(d []byte) []byte { return nil },
		"short": func(d []byte) []byte { return d[:8192] }, "long": func(d []byte) []byte { return append(d, 0) },
		"magic": func(d []byte) []byte { d[0]++; return d }, "address": func(d []byte) []byte { d[10]++; return d },
	} {
		data := change(bytes.Clone(b.segs[0]))
		f, err := scanTwice(t, WALFile{Kind: WALSegment, Segment: b.first}, data)
		if err == nil || f.Walked || f.ValidEnd != uint32(len(data)) || f.Complete(mib) {
			t.Errorf("%s: %+v %v", name, f, err)
		}
	}
}

// Each field of a page header ends the log at its page by itself.
func TestPageHeaderDamage(t *testing.T) {
	b := newWALBuilder(mib, SegmentAt(2, 1<<20, mib))
	for range 3 {
		b.room(0, 0)
		b.filler(int(8192 - b.pos%8192))
	}
	b.filler(20000) // begins with the fourth page and runs over the next two
	b.fillTo(0)
	if f := b.scan(t, 0); !f.Complete(mib) {
		t.Fatalf("%+v", f)
	}
	for _, c := range []struct {
		page, at int
		value    byte
		want     int
	}{
		{3, 0, 0x11, 3}, {3, 2, 0x10, 3}, {3, 2, 0x02, 3}, {3, 4, 3, 3}, {3, 10, 9, 3}, {3, 2, 0x01, 3}, // a record continued from nowhere
		{4, 16, 1, 3}, {4, 2, 0, 3}, {4, 4, 1, 3}, {5, 8, 1, 3},
	} {
		data := bytes.Clone(b.segs[0])
		data[c.page*8192+c.at] = c.value
		f, err := scanTwice(t, WALFile{Kind: WALSegment, Segment: b.first}, data)
		if err != nil || f.Stop == "" || f.ValidEnd != uint32(c.want*8192) {
			t.Errorf("page %d byte %d = %d: %+v %v", c.page, c.at, c.value, f, err)
		}
	}
}

// A record that does not name the one before it is a stale one, however whole.
func TestRecordChain(t *testing.T) {
	for _, total := range []int{100, 9000} {
		b := newWALBuilder(mib, SegmentAt(2, 1<<20, mib))
		b.commit(1, 1)
		_, end := b.commit(2, 2)
		b.prev -= 8
		b.filler(total)
		if f := b.scan(t, 0); f.ValidEnd != uint32(uint64(end)%uint64(mib)) || f.Commits != 2 || f.Complete(mib) {
			t.Errorf("record of %d bytes: %+v", total, f)
		}
	}
}

// A crash may leave the first pages of the rest: the next segment begins by
// continuing the record, and gives it up on a later page.
func TestJoinsWhereRecordIsGivenUpLater(t *testing.T) {
	for pages := range 3 {
		b := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
		b.fillTo(64)
		r := b.bytes(10, 0, 1, make([]byte, 50000))
		for left := pages; len(r) > 0; left-- {
			n := copy(b.room(len(r), 0), r)
			r = r[n:]
			if b.pos += LSN(n); left == 0 {
				break
			}
		}
		b.room(0, pageOverwrites)
		b.add(rmXLOG, 0xD0, 0, []byte{255, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		b.commit(2, 2)
		before, next := b.scan(t, 0), b.scan(t, 1)
		if before.Open == nil || next.FirstPrev == 0 || !before.Joins(before.LastLSN, next) {
			t.Errorf("given up after %d pages: %+v does not join %+v", pages, next, before)
		}
	}
}
