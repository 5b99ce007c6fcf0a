package postgres

import (
	"fmt"
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

// ParseWALFile reads exactly the names PostgreSQL itself makes: upper-case
// hexadecimal, nothing before or after.
func ParseWALFile(name string) (WALFile, error) {
	bad := fmt.Errorf("WAL file name %q: want a segment, .partial, .history or .backup name", name)
	hex := func(s string) (uint32, bool) {
		for _, c := range []byte(s) {
			if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
				return 0, false
			}
		}
		v, err := strconv.ParseUint(s, 16, 32)
		return uint32(v), err == nil
	}
	if len(name) == 8+len(".history") && name[8:] == ".history" {
		tli, ok := hex(name[:8])
		if !ok || tli == 0 {
			return WALFile{}, bad
		}
		return WALFile{Kind: WALHistory, Segment: Segment{Timeline: TimelineID(tli)}}, nil
	}
	if len(name) < 24 {
		return WALFile{}, bad
	}
	tli, ok1 := hex(name[:8])
	log, ok2 := hex(name[8:16])
	seg, ok3 := hex(name[16:24])
	if !ok1 || !ok2 || !ok3 || tli == 0 {
		return WALFile{}, bad
	}
	f := WALFile{Kind: WALSegment, Segment: Segment{Timeline: TimelineID(tli), Log: log, Seg: seg}}
	switch rest := name[24:]; {
	case rest == "":
		return f, nil
	case rest == ".partial":
		f.Kind = WALPartial
		return f, nil
	case len(rest) == 1+8+len(".backup") && rest[0] == '.' && rest[9:] == ".backup":
		off, ok := hex(rest[1:9])
		if !ok {
			return WALFile{}, bad
		}
		f.Kind, f.Offset = WALBackupHistory, off
		return f, nil
	}
	return WALFile{}, bad
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

// HistoryFile is the name of the timeline's history file.
func HistoryFile(tli TimelineID) WALFile {
	return WALFile{Kind: WALHistory, Segment: Segment{Timeline: tli}}
}
