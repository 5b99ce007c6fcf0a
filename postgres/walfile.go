package postgres

import (
	"fmt"
	"regexp"
	"strconv"
)

// WALKind tells what PostgreSQL's %f may name.
type WALKind uint8

// The kinds of file that archive_command and restore_command handle.
const (
	WALSegment       WALKind = iota + 1 // 000000010000000000000001
	WALPartial                          // 000000010000000000000001.partial
	WALHistory                          // 00000002.history
	WALBackupHistory                    // 000000010000000000000002.00000028.backup
)

func (k WALKind) String() string {
	switch k {
	case WALSegment:
		return "segment"
	case WALPartial:
		return "partial"
	case WALHistory:
		return "history"
	case WALBackupHistory:
		return "backup history"
	}
	return "unknown"
}

// WALFile is a parsed %f. Segment.Timeline is set for every kind; Log and Seg
// are zero for a history file. Offset is set for a backup history file only.
type WALFile struct {
	Kind    WALKind
	Segment Segment
	Offset  uint32
}

// walName is timeline, log, segment, what follows, and in it the offset of a .backup.
var walName = regexp.MustCompile(`^([0-9A-F]{8})(?:\.history|([0-9A-F]{8})([0-9A-F]{8})(\.partial|\.([0-9A-F]{8})\.backup)?)$`)

// ParseWALFile reads exactly the names PostgreSQL itself makes: upper-case
// hexadecimal, nothing before or after.
func ParseWALFile(name string) (WALFile, error) {
	m := walName.FindStringSubmatch(name)
	hex := func(s string) uint32 {
		v, _ := strconv.ParseUint(s, 16, 32) // what the pattern lets through fits
		return uint32(v)
	}
	if m == nil || hex(m[1]) == 0 {
		return WALFile{}, fmt.Errorf("WAL file name %q: want a segment, .partial, .history or .backup name", name)
	}
	f := WALFile{Kind: WALSegment, Segment: Segment{Timeline: TimelineID(hex(m[1])), Log: hex(m[2]), Seg: hex(m[3])}, Offset: hex(m[5])}
	switch {
	case m[2] == "":
		f.Kind = WALHistory
	case m[5] != "":
		f.Kind = WALBackupHistory
	case m[4] != "":
		f.Kind = WALPartial
	}
	return f, nil
}

// String is the file name; ParseWALFile reads it back.
func (f WALFile) String() string {
	switch f.Kind {
	case WALPartial:
		return f.Segment.Name() + ".partial"
	case WALHistory:
		return f.Segment.Timeline.String() + ".history"
	case WALBackupHistory:
		return fmt.Sprintf("%s.%08X.backup", f.Segment.Name(), f.Offset)
	}
	return f.Segment.Name()
}

// MarshalText writes the name into documents.
func (f WALFile) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// HistoryFile is the name of the timeline's history file.
func HistoryFile(tli TimelineID) WALFile {
	return WALFile{Kind: WALHistory, Segment: Segment{Timeline: tli}}
}
