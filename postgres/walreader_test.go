package postgres

import (
	"errors"
	"io"
	"testing"
)

// knownReader yields what is decoded, from a position on.
type knownReader struct {
	*RecordReader
	from, end LSN
}

func newKnownReader(from LSN, next SegmentSource) *knownReader {
	return &knownReader{RecordReader: NewRecordReader(next), from: from}
}

func (r *knownReader) Next() (Record, error) {
	for {
		rec, err := r.RecordReader.Next()
		if err == nil {
			r.end = rec.End
		}
		if err != nil || rec.Kind != 0 && rec.Start >= r.from {
			return rec, err
		}
	}
}

func TestRecordReaderStartsAndJoins(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		names := s.segments(1)
		r := newKnownReader(0, s.source(t, names[0], names[2]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if errors.Is(err, io.EOF) || errors.Is(err, ErrEndOfWAL) {
			t.Errorf("a missing segment gives %v", err)
		}
		// Over the fork: the child's segment repeats the parent's, then goes on.
		branch := append(names[:len(names)-1:len(names)-1], s.segments(2)...)
		h, err := ParseTimelineHistory(2, s["00000002.history"])
		if err != nil {
			t.Fatal(err)
		}
		fork, _ := h.SwitchOf(1)
		r = newKnownReader(fork, s.source(t, branch...))
		rec, err := r.Next()
		if err != nil || rec.Start != fork || rec.NewTimeline != 2 || rec.PrevTimeline != 1 || rec.Timeline != 2 {
			t.Errorf("first record at the fork %s: %+v %v", fork, rec, err)
		}
	})
}

func FuzzScanSegment(f *testing.F) {
	b := newWALBuilder(mib, SegmentAt(1, 1<<20, mib))
	b.commit(1, 1)
	b.filler(20000)
	b.commit(2, 2)
	b.switchSegment()
	f.Add(b.segs[0][:3*8192], uint16(0))
	s := loadSample(f, "15")["000000010000000000000009"]
	f.Add(s[:4*8192], uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, number uint16) {
		whole := make([]byte, mib)
		copy(whole, data)
		name := WALFile{Kind: WALSegment, Segment: Segment{Timeline: 1, Seg: uint32(number)}}
		if h, err := ParseWALHeader(whole); err == nil && h.SegmentSize == mib {
			name.Segment = SegmentAt(h.Timeline, h.Address, mib)
		}
		facts, err := scanTwice(t, name, whole)
		if err != nil && facts.Walked || err == nil && facts.ValidEnd > uint32(mib) {
			t.Errorf("%+v %v", facts, err)
		}
		once := false
		r := newKnownReader(0, func() (Segment, *io.SectionReader, error) {
			if once {
				return Segment{}, nil, io.EOF
			}
			once = true
			return name.Segment, section(whole), nil
		})
		commits := 0
		for {
			rec, err := r.Next()
			if err != nil {
				break
			}
			if rec.Kind.EndsTransaction() {
				commits++
			}
		}
		if facts.Walked && commits != facts.Commits {
			t.Errorf("the reader sees %d commits, the scan %d", commits, facts.Commits)
		}
	})
}

func BenchmarkScanSegment(b *testing.B) {
	w := newWALBuilder(DefaultSegmentSize, SegmentAt(1, 1<<30, DefaultSegmentSize))
	for len(w.segs) < 2 { // pgbench's mixture
		for _, n := range []int{140, 74, 79, 79, 64} {
			w.filler(n)
		}
		w.commit(1, 1)
	}
	b.SetBytes(int64(DefaultSegmentSize))
	for b.Loop() {
		if _, err := ScanSegment(WALFile{Kind: WALSegment, Segment: w.first}, w.segs[0]); err != nil {
			b.Fatal(err)
		}
	}
}
