package postgres

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Limits of a .history file: failovers, and bytes.
const (
	maxForks   = 10_000
	maxHistory = 1 << 20
)

// TimelineHistory is the content of a .history file: the branches that lead to
// Timeline, oldest first. Timeline 1 has no file and no entries.
type TimelineHistory struct {
	Timeline TimelineID     `json:"timeline"`
	Entries  []HistoryEntry `json:"entries,omitempty"`
}

// HistoryEntry says that Parent was left at Switch, its first byte not taken over.
type HistoryEntry struct {
	Parent TimelineID `json:"parent"`
	Switch LSN        `json:"switch"`
	Reason string     `json:"reason,omitempty"`
}

// RootHistory is the history of a timeline that has no file.
func RootHistory(tli TimelineID) TimelineHistory { return TimelineHistory{Timeline: tli} }

// ParseTimelineHistory reads the file as PostgreSQL does: blank lines and lines
// with # are skipped, parents must increase and stay below tli. Switch points need
// not increase: after a recovery to a point before the last fork a parent is left
// before it was entered, and owns nothing of the branch. Errors carry the line.
func ParseTimelineHistory(tli TimelineID, data []byte) (TimelineHistory, error) {
	h := TimelineHistory{Timeline: tli}
	bad := func(line int, format string, args ...any) (TimelineHistory, error) {
		return TimelineHistory{}, fmt.Errorf("read %s line %d: %w", HistoryFile(tli), line, fmt.Errorf(format, args...))
	}
	if len(data) > maxHistory {
		return TimelineHistory{}, fmt.Errorf("read %s: %d bytes, more than %d", HistoryFile(tli), len(data), maxHistory)
	}
	n := 0
	for raw := range bytes.Lines(data) {
		n++
		line := strings.TrimSpace(string(raw))
		if line == "" || line[0] == '#' {
			continue
		}
		number, rest := cutField(line)
		position, reason := cutField(rest)
		parent, ok := parsePositive(number)
		if !ok {
			return bad(n, "timeline %q: want a positive number", number)
		}
		lsn, err := ParseLSN(position)
		if err != nil {
			return bad(n, "switch point: %w", err)
		}
		if last := len(h.Entries) - 1; last >= 0 && TimelineID(parent) <= h.Entries[last].Parent {
			return bad(n, "timeline %d follows %d: want increasing numbers", parent, uint32(h.Entries[last].Parent))
		}
		if TimelineID(parent) >= tli {
			return bad(n, "timeline %d is not below its child %d", parent, uint32(tli))
		}
		if len(h.Entries) == maxForks {
			return bad(n, "more than %d entries", maxForks)
		}
		h.Entries = append(h.Entries, HistoryEntry{Parent: TimelineID(parent), Switch: lsn, Reason: reason})
	}
	return h, nil
}

// cutField takes the word up to the first blank or tab.
func cutField(s string) (field, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// span is the part of the branch that entry i owns; the last one is h itself,
// without an end. PostgreSQL searches them newest first, and so do we.
func (h TimelineHistory) span(i int) (tli TimelineID, begin, end LSN) {
	if i > 0 {
		begin = h.Entries[i-1].Switch
	}
	if i == len(h.Entries) {
		return h.Timeline, begin, ^LSN(0)
	}
	return h.Entries[i].Parent, begin, h.Entries[i].Switch
}

// TimelineAt is the timeline on which the branch writes the byte at lsn.
func (h TimelineHistory) TimelineAt(lsn LSN) TimelineID {
	for i := len(h.Entries); i >= 0; i-- {
		if tli, begin, end := h.span(i); begin <= lsn && lsn < end {
			return tli
		}
	}
	return h.Timeline
}

// Contains tells whether the byte at lsn, as timeline tli wrote it, lies on the
// branch that leads to h.
func (h TimelineHistory) Contains(tli TimelineID, lsn LSN) bool {
	return h.Descends(tli) && h.TimelineAt(lsn) == tli
}

// SwitchOf is where the ancestor tli was left; false for h itself and strangers.
func (h TimelineHistory) SwitchOf(tli TimelineID) (LSN, bool) {
	i := slices.IndexFunc(h.Entries, func(e HistoryEntry) bool { return e.Parent == tli })
	if i < 0 {
		return 0, false
	}
	return h.Entries[i].Switch, true
}

// Descends tells whether tli is h's own timeline or one of its ancestors.
func (h TimelineHistory) Descends(tli TimelineID) bool {
	_, ancestor := h.SwitchOf(tli)
	return ancestor || tli == h.Timeline
}
