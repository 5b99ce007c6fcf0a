package postgres

import (
	"encoding/json"
	"testing"
)

func TestLSN(t *testing.T) {
	for text, want := range map[string]LSN{"0/0": 0, "16/B374D848": 0x16B374D848, "0/2000028": 0x2000028, "FFFFFFFF/FFFFFFFF": ^LSN(0), "16/b374d848": 0x16B374D848} {
		if got, err := ParseLSN(text); err != nil || got != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "/", "0/", "/0", "0/000000000", "000000000/0", "g/0", "0/-1", "0/0/0", " 0/0", "0x1/0"} {
		if got, err := ParseLSN(text); err == nil {
			t.Errorf("%q: accepted as %s", text, got)
		}
	}
	b, err := json.Marshal(map[string]any{"lsn": LSN(0x16B374D848), "system": SystemIdentifier(7710482905472961713)})
	if err != nil || string(b) != `{"lsn":"16/B374D848","system":"7710482905472961713"}` {
		t.Errorf("%s %v", b, err)
	}
	var back struct {
		LSN    LSN              `json:"lsn"`
		System SystemIdentifier `json:"system"`
	}
	if err := json.Unmarshal(b, &back); err != nil || back.LSN != 0x16B374D848 || back.System != 7710482905472961713 {
		t.Errorf("%+v %v", back, err)
	}
}

func TestIdentifiers(t *testing.T) {
	for _, text := range []string{"", "0", "-1", "+1", "01", "18446744073709551616", "x"} {
		if got, err := ParseSystemIdentifier(text); err == nil {
			t.Errorf("%q: accepted as %s", text, got)
		}
	}
	if v := Version(150018); v.Major() != 15 || v.Minor() != 18 || v.String() != "15.18" || !v.Supported() {
		t.Error(v)
	}
	if Version(140009).Supported() || Version(190000).Supported() {
		t.Error("14 and 19 are not supported")
	}
}

func TestSegmentArithmetic(t *testing.T) {
	for _, size := range []SegmentSize{1 << 20, 16 << 20, 64 << 20, 1 << 30} {
		if err := size.Validate(); err != nil {
			t.Error(err)
		}
		for _, lsn := range []LSN{0, 1, LSN(size) - 1, LSN(size), 1<<32 - 1, 1 << 32, 0x16B374D848, 1<<40 + 5} {
			s := SegmentAt(3, lsn, size)
			if lsn < s.Start(size) || lsn >= s.End(size) {
				t.Errorf("%s of %d does not hold %s", s, size, lsn)
			}
			if n := s.Next(size); n.Start(size) != s.End(size) || n.Timeline != 3 {
				t.Errorf("%s is followed by %s", s, n)
			}
			if f, err := ParseWALFile(s.Name()); err != nil || f.Segment != s {
				t.Errorf("%s reads back as %v, %v", s, f, err)
			}
		}
		if got := SegmentEndingAt(1, LSN(size), size); got != SegmentAt(1, 0, size) {
			t.Errorf("the byte before %d lies in %s", size, got)
		}
		if got := SegmentEndingAt(1, 0, size); got != SegmentAt(1, 0, size) {
			t.Error(got)
		}
	}
	for _, size := range []SegmentSize{0, 1 << 19, 1 << 31, 3 << 20, 1<<20 + 1} {
		if size.Validate() == nil {
			t.Errorf("size %d is accepted", size)
		}
	}
	if got := SegmentAt(1, 1<<32, DefaultSegmentSize).On(2).Name(); got != "000000020000000100000000" {
		t.Error(got)
	}
}

func TestParseWALFile(t *testing.T) {
	for name, kind := range map[string]WALKind{
		"000000010000000000000001":                 WALSegment,
		"0000000A00000001000000FF.partial":         WALPartial,
		"00000002.history":                         WALHistory,
		"000000010000000000000002.00000028.backup": WALBackupHistory,
	} {
		f, err := ParseWALFile(name)
		if err != nil || f.Kind != kind || f.String() != name {
			t.Errorf("%s: %v %v %v", name, f, f.Kind, err)
		}
	}
	for _, name := range []string{"", "00000001000000000000000", "0000000100000000000000011", "00000001000000000000000g", "00000001000000000000000a",
		"000000000000000000000001", "00000000.history", "0000002.history", "00000002.historyx", "000000010000000000000002.0000028.backup",
		"000000010000000000000002.00000028.backupx", "000000010000000000000001.gz", "../00010000000000000001", "+00000010000000000000001", "RECOVERYXLOG"} {
		if f, err := ParseWALFile(name); err == nil {
			t.Errorf("%q: accepted as %v", name, f)
		}
	}
	if HistoryFile(0x1F).String() != "0000001F.history" {
		t.Error(HistoryFile(0x1F))
	}
}

func FuzzLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLSN(text)
		if err != nil {
			return
		}
		if again, err := ParseLSN(l.String()); err != nil || again != l {
			t.Errorf("%q: %s reads back as %s, %v", text, l, again, err)
		}
	})
}

func FuzzWALFile(f *testing.F) {
	f.Add("000000010000000000000001.partial")
	f.Add("00000002.history")
	f.Add("000000010000000000000002.00000028.backup")
	f.Fuzz(func(t *testing.T, name string) {
		if w, err := ParseWALFile(name); err == nil && w.String() != name {
			t.Errorf("%q prints as %q", name, w)
		}
	})
}
