package postgres

import (
	"bytes"
	"strconv"
	"testing"
)

func TestWALHeaderOfServers(t *testing.T) {
	for _, major := range sampleMajors {
		s := loadSample(t, major)
		control, err := ParseControlData(s["pg_control"])
		if err != nil {
			t.Fatal(err)
		}
		history, err := ParseTimelineHistory(2, s["00000002.history"])
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range append(s.segments(1), s.segments(2)...) {
			h, err := ParseWALHeader(s[name])
			if err != nil {
				t.Fatal(err)
			}
			if strconv.Itoa(h.Major) != major || h.System != control.System || h.SegmentSize != control.SegmentSize || h.BlockSize != 8192 {
				t.Errorf("%s of %s: %+v", name, major, h)
			}
			f := mustName(t, name)
			if err := h.CheckName(f, control.System, history); err != nil {
				t.Error(err)
			}
			if i == len(s.segments(1)) && (h.Timeline != 1 || f.Segment.Timeline != 2) {
				t.Errorf("%s: the first segment of timeline 2 has the page timeline %d", name, h.Timeline)
			}
		}
	}
}

func TestWALHeaderCheckName(t *testing.T) {
	b := newWALBuilder(mib, SegmentAt(2, 5<<20, mib))
	b.commit(1, 1)
	h, err := ParseWALHeader(b.segs[0])
	if err != nil {
		t.Fatal(err)
	}
	of3, err := ParseTimelineHistory(3, []byte("1\t0/1\tx\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		system  SystemIdentifier
		history TimelineHistory
		ok      bool
	}{
		{"000000020000000000000005", 77, TimelineHistory{}, true},
		{"000000020000000000000005", 0, RootHistory(2), true},
		{"000000020000000000000005.partial", 77, of3, true}, // another timeline's history decides nothing
		{"000000030000000000000005", 77, TimelineHistory{}, true},
		{"000000030000000000000005", 77, of3, false},
		{"000000010000000000000005", 77, TimelineHistory{}, false},
		{"000000020000000000000006", 77, TimelineHistory{}, false},
		{"000000020000000100000005", 77, TimelineHistory{}, false},
		{"000000020000000000001005", 77, TimelineHistory{}, false},
		{"000000020000000000000005", 78, TimelineHistory{}, false},
		{"00000002.history", 77, TimelineHistory{}, false},
		{"000000020000000000000005.00000028.backup", 77, TimelineHistory{}, false},
	} {
		if err := h.CheckName(mustName(t, c.name), c.system, c.history); (err == nil) != c.ok {
			t.Errorf("%s of system %d: %v", c.name, c.system, err)
		}
	}
}

func TestWALHeaderRefuses(t *testing.T) {
	b := newWALBuilder(mib, SegmentAt(2, 5<<20, mib))
	b.commit(1, 1)
	good := b.segs[0][:longPageHeader]
	if _, err := ParseWALHeader(good); err != nil {
		t.Fatal(err)
	}
	for at, what := range map[int]string{0: "magic", 2: "flags", 3: "flags", 8: "address", 32: "segment size", 36: "block size"} {
		bad := bytes.Clone(good)
		bad[at] ^= 0x12
		if h, err := ParseWALHeader(bad); err == nil {
			t.Errorf("%s: accepted as %+v", what, h)
		}
	}
	for _, at := range []int{4, 24} {
		bad := bytes.Clone(good)
		clear(bad[at : at+4])
		if h, err := ParseWALHeader(bad); err == nil {
			t.Errorf("zero at %d: accepted as %+v", at, h)
		}
	}
	if _, err := ParseWALHeader(good[:39]); err == nil {
		t.Error("39 bytes are accepted")
	}
}

func FuzzWALHeader(f *testing.F) {
	b := newWALBuilder(mib, SegmentAt(2, 5<<20, mib))
	b.commit(1, 1)
	f.Add(b.segs[0][:longPageHeader])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseWALHeader(b)
		if err != nil {
			return
		}
		name := WALFile{Kind: WALSegment, Segment: SegmentAt(h.Timeline, h.Address, h.SegmentSize)}
		if err := h.CheckName(name, h.System, RootHistory(h.Timeline)); err != nil {
			t.Error(err)
		}
	})
}
