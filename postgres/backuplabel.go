package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// BackupLabel is the backup_label that pg_backup_stop gives: where recovery starts.
type BackupLabel struct {
	StartLSN            LSN
	StartFile           WALFile
	CheckpointLSN       LSN
	Method              string // "streamed"
	From                string // "primary" or "standby"
	StartTime           string // in the server's log_timezone, as it wrote it
	Label               string
	StartTimeline       TimelineID
	IncrementalFrom     LSN // 0 unless the backup is an incremental one of 17 and later
	IncrementalTimeline TimelineID
	// Raw is the text as it was read; what goes into a backup is this.
	Raw string
}

// maxBackupLabel is far above what a server writes: the label has 1 KiB at most.
const maxBackupLabel = 64 << 10

// ParseBackupLabel reads the text of backup_label. Lines it does not know are kept
// in Raw and otherwise passed over, as PostgreSQL does.
func ParseBackupLabel(text string) (BackupLabel, error) {
	l := BackupLabel{Raw: text}
	bad := func(format string, args ...any) (BackupLabel, error) {
		return BackupLabel{}, fmt.Errorf("read backup_label: "+format, args...)
	}
	if len(text) > maxBackupLabel {
		return bad("%d bytes, more than %d", len(text), maxBackupLabel)
	}
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			continue
		}
		if seen[key] {
			return bad("line %d: %s stands there twice", n, key)
		}
		seen[key] = true
		if err := l.set(key, value); err != nil {
			return bad("line %d: %s: %w", n, key, err)
		}
	}
	for _, key := range []string{"START WAL LOCATION", "CHECKPOINT LOCATION", "START TIMELINE"} {
		if !seen[key] {
			return bad("no line %s", key)
		}
	}
	if l.StartTimeline != l.StartFile.Segment.Timeline {
		return bad("start timeline %d does not agree with the file %s", uint32(l.StartTimeline), l.StartFile)
	}
	if seen["INCREMENTAL FROM LSN"] != seen["INCREMENTAL FROM TLI"] {
		return bad("INCREMENTAL FROM LSN and TLI must stand there both or neither")
	}
	return l, nil
}

func (l *BackupLabel) set(key, value string) (err error) {
	timeline := func(s string) (TimelineID, error) {
		v, ok := parsePositive(s)
		if !ok {
			return 0, fmt.Errorf("timeline %q: want a positive number", s)
		}
		return TimelineID(v), nil
	}
	switch key {
	case "START WAL LOCATION":
		lsn, file, ok := strings.Cut(value, " (file ")
		if !ok || !strings.HasSuffix(file, ")") {
			return fmt.Errorf("%q: want an LSN and a file", value)
		}
		if l.StartFile, err = ParseWALFile(strings.TrimSuffix(file, ")")); err != nil {
			return err
		}
		if l.StartFile.Kind != WALSegment {
			return fmt.Errorf("%s is not a segment", l.StartFile)
		}
		l.StartLSN, err = ParseLSN(lsn)
	case "CHECKPOINT LOCATION":
		l.CheckpointLSN, err = ParseLSN(value)
	case "BACKUP METHOD":
		l.Method = value
	case "BACKUP FROM":
		l.From = value
	case "START TIME":
		l.StartTime = value
	case "LABEL":
		l.Label = value
	case "START TIMELINE":
		l.StartTimeline, err = timeline(value)
	case "INCREMENTAL FROM LSN":
		l.IncrementalFrom, err = ParseLSN(value)
	case "INCREMENTAL FROM TLI":
		l.IncrementalTimeline, err = timeline(value)
	}
	return err
}

// String writes the label from its fields, line for line as the server does. A
// stored label is Raw; this is for one that was changed.
func (l BackupLabel) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "START WAL LOCATION: %s (file %s)\n", l.StartLSN, l.StartFile)
	fmt.Fprintf(&b, "CHECKPOINT LOCATION: %s\n", l.CheckpointLSN)
	fmt.Fprintf(&b, "BACKUP METHOD: %s\nBACKUP FROM: %s\n", l.Method, l.From)
	fmt.Fprintf(&b, "START TIME: %s\nLABEL: %s\n", l.StartTime, l.Label)
	fmt.Fprintf(&b, "START TIMELINE: %d\n", uint32(l.StartTimeline))
	if l.IncrementalTimeline != 0 {
		fmt.Fprintf(&b, "INCREMENTAL FROM LSN: %s\nINCREMENTAL FROM TLI: %d\n", l.IncrementalFrom, uint32(l.IncrementalTimeline))
	}
	return b.String()
}

// Full is the label without the lines that make it an incremental's: what a
// restored chain must carry (R22).
func (l BackupLabel) Full() BackupLabel {
	l.IncrementalFrom, l.IncrementalTimeline = 0, 0
	l.Raw = l.String()
	return l
}

// ParseTablespaceMap reads tablespace_map: a line "oid path" per tablespace, with a
// backslash before a newline, carriage return or backslash that belongs to the path.
func ParseTablespaceMap(text string) ([]Tablespace, error) {
	var out []Tablespace
	var line strings.Builder
	flush := func() error {
		s := line.String()
		line.Reset()
		if s == "" {
			return nil
		}
		number, path, ok := strings.Cut(s, " ")
		oid, valid := parsePositive(number)
		switch {
		case !valid || !ok || path == "" || strings.Contains(path, "\x00"):
			return fmt.Errorf("read tablespace_map line %d: %q: want an oid and a path", len(out)+1, s)
		case len(path) >= maxPath:
			return fmt.Errorf("read tablespace_map line %d: path of %d bytes, more than %d", len(out)+1, len(path), maxPath-1)
		}
		if slices.ContainsFunc(out, func(t Tablespace) bool { return t.OID == oid }) {
			return fmt.Errorf("read tablespace_map line %d: tablespace %d stands there twice", len(out)+1, oid)
		}
		out = append(out, Tablespace{OID: oid, Path: path})
		return nil
	}
	escaped := false
	for i := range len(text) {
		switch c := text[i]; {
		case escaped:
			line.WriteByte(c)
			escaped = false
		case c == '\\':
			escaped = true
		case c == '\n' || c == '\r':
			if err := flush(); err != nil {
				return nil, err
			}
		default:
			line.WriteByte(c)
		}
	}
	if escaped || line.Len() > 0 {
		return nil, fmt.Errorf("read tablespace_map: it ends in mid line %d", len(out)+1)
	}
	return out, nil
}
