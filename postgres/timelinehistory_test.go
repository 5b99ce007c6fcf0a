package postgres

import (
	"strings"
	"testing"
)

func TestTimelineHistoryOfServer(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		h, err := ParseTimelineHistory(2, s["00000002.history"])
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Entries) != 1 || h.Entries[0].Parent != 1 || h.Entries[0].Reason != `at restore point "the end"` {
			t.Errorf("%+v", h)
		}
		fork := h.Entries[0].Switch
		if h.TimelineAt(fork-1) != 1 || h.TimelineAt(fork) != 2 {
			t.Errorf("around the fork: %d %d", h.TimelineAt(fork-1), h.TimelineAt(fork))
		}
	})
}

func TestTimelineHistoryQuestions(t *testing.T) {
	h, err := ParseTimelineHistory(5, []byte("# made by hand\n\n1\t0/3000000\tno recovery target specified\n\r\n  3\t0/5000060\t\n4 0/5000060"))
	if err != nil {
		t.Fatal(err)
	}
	for lsn, want := range map[LSN]TimelineID{0: 1, 0x2FFFFFF: 1, 0x3000000: 3, 0x500005F: 3, 0x5000060: 5, 1 << 40: 5} {
		if got := h.TimelineAt(lsn); got != want {
			t.Errorf("timeline at %s is %d, want %d", lsn, got, want)
		}
		if !h.Contains(want, lsn) || h.Contains(2, lsn) || h.Contains(4, lsn) {
			t.Errorf("%s is not on %d alone", lsn, want)
		}
	}
	if at, ok := h.SwitchOf(3); !ok || at != 0x5000060 {
		t.Error(at, ok)
	}
	for _, tli := range []TimelineID{2, 5, 6} {
		if at, ok := h.SwitchOf(tli); ok {
			t.Errorf("timeline %d was left at %s", tli, at)
		}
	}
	if !h.Descends(1) || !h.Descends(4) || !h.Descends(5) || h.Descends(2) || h.Descends(6) {
		t.Error("ancestors are 1, 3, 4 and 5 itself")
	}
	if root := RootHistory(1); root.TimelineAt(7) != 1 || !root.Contains(1, 0) || root.Contains(2, 7) {
		t.Error("timeline 1 has itself only")
	}
}

// A recovery to a point before the last fork leaves the parent before it was entered.
func TestTimelineHistoryGoingBack(t *testing.T) {
	h, err := ParseTimelineHistory(3, []byte("1\t0/12000088\tx\n2\t0/A000070\ty\n"))
	if err != nil {
		t.Fatal(err)
	}
	for lsn, want := range map[LSN]TimelineID{0xA000000: 1, 0xA000070: 3, 0x12000088: 3, 0x13000000: 3} {
		if got := h.TimelineAt(lsn); got != want {
			t.Errorf("timeline at %s is %d, want %d", lsn, got, want)
		}
	}
	if h.Contains(2, 0x9000000) || h.Contains(2, 0x13000000) {
		t.Error("timeline 2 owns nothing of this branch")
	}
}

func TestTimelineHistoryRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"x\t0/1\ty\n":                         "line 1",
		"1\n":                                 "line 1",
		"#\n1\t0\ty\n":                        "line 2",
		"2\t0/1\ty\n1\t0/2\tz\n":              "line 2",
		"1\t0/1\ty\n1\t0/2\tz\n":              "line 2",
		"3\t0/1\ty\n":                         "not below",
		"0\t0/1\ty\n":                         "positive",
		"-1\t0/1\ty\n":                        "positive",
		strings.Repeat("#\n", maxHistory/2+1): "bytes",
	} {
		if h, err := ParseTimelineHistory(3, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %+v, %v; want %q", text, h, err, want)
		}
	}
}

func FuzzTimelineHistory(f *testing.F) {
	f.Add(uint32(3), []byte("1\t0/12000088\tx\n2\t0/A000070\ty\n"), uint64(5))
	f.Fuzz(func(t *testing.T, tli uint32, data []byte, lsn uint64) {
		h, err := ParseTimelineHistory(TimelineID(tli), data)
		if err == nil && !h.Contains(h.TimelineAt(LSN(lsn)), LSN(lsn)) {
			t.Errorf("%+v at %s", h, LSN(lsn))
		}
	})
}
