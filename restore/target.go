// Package restore brings a cluster back: it plans from facts, copies, writes the
// recovery settings, and proves where recovery stopped.
package restore

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Kind is the kind of recovery target; PostgreSQL's recovery_target_*.
type Kind string

// The kinds of target.
const (
	Latest    Kind = "latest"
	Time      Kind = "time"
	LSN       Kind = "lsn"
	XID       Kind = "xid"
	Name      Kind = "name"
	Immediate Kind = "immediate"
)

// Action is recovery_target_action.
type Action string

// What PostgreSQL does at the target.
const (
	Promote  Action = "promote"
	Pause    Action = "pause"
	Shutdown Action = "shutdown"
)

// Target is where recovery stops.
type Target struct {
	Kind      Kind         `json:"kind"`
	Time      time.Time    `json:"time,omitzero"`
	LSN       postgres.LSN `json:"lsn,omitempty"`
	XID       uint32       `json:"xid,omitempty"`
	Name      string       `json:"name,omitempty"`
	Exclusive bool         `json:"exclusive,omitempty"` // stop before the target, not after it
	// Timeline is the branch wanted; 0 is the newest that holds the target.
	Timeline postgres.TimelineID `json:"timeline,omitempty"`
	Action   Action              `json:"action"`
}

// String says the target in the user's words.
func (t Target) String() string {
	what := "the end of the archive"
	switch t.Kind {
	case Time:
		what = "time " + stamp(t.Time)
	case LSN:
		what = "LSN " + t.LSN.String()
	case XID:
		what = fmt.Sprintf("transaction %d", t.XID)
	case Name:
		what = fmt.Sprintf("restore point %q", t.Name)
	case Immediate:
		what = "the end of the backup"
	}
	if t.Exclusive {
		what += " (exclusive)"
	}
	if t.Timeline != 0 {
		what += fmt.Sprintf(" on timeline %d", uint32(t.Timeline))
	}
	return what
}

// Validate refuses a target that says nothing or that PostgreSQL cannot have.
func (t Target) Validate() error {
	switch k := t.Kind; {
	case k == Time && t.Time.IsZero():
		return fmt.Errorf("target time is missing")
	case k == LSN && t.LSN == 0:
		return fmt.Errorf("target LSN is missing")
	case k == XID && t.XID < 3:
		return fmt.Errorf("target transaction %d: normal transactions begin at 3", t.XID)
	case k == Name && (t.Name == "" || len(t.Name) > 63):
		return fmt.Errorf("target name %q: want 1 to 63 bytes", t.Name)
	case !slices.Contains([]Kind{Latest, Time, LSN, XID, Name, Immediate}, k):
		return fmt.Errorf("target kind %q is unknown", k)
	}
	return nil
}

// timeLayouts are what ParseTime reads: RFC 3339, with a space instead of the T
// if one likes, and any number of decimals.
var timeLayouts = []string{"2006-01-02T15:04:05Z07:00", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05 Z07:00",
	"2006-01-02 15:04:05Z07", "2006-01-02T15:04:05Z07"}

// ParseTime reads a target time: RFC 3339 with an offset, to the microsecond that
// PostgreSQL keeps. A time without offset, or with the name of a zone, is refused:
// it would mean another moment on another machine. now serves the message.
func ParseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range timeLayouts {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if t.Nanosecond()%1000 != 0 {
			return time.Time{}, fmt.Errorf("time %q: PostgreSQL keeps microseconds: want at most six decimals", s)
		}
		return t.UTC(), nil
	}
	example := now.UTC().Format(timeLayouts[0])
	bare := strings.Replace(s, " ", "T", 1)
	if _, err := time.Parse("2006-01-02T15:04:05", bare); err == nil {
		return time.Time{}, fmt.Errorf("time %q has no offset from UTC: add one, as in %q or %q", s, s+"Z", s+"+02:00")
	}
	if i := strings.LastIndexByte(s, ' '); i > 0 {
		if _, err := time.Parse("2006-01-02T15:04:05", strings.Replace(s[:i], " ", "T", 1)); err == nil {
			return time.Time{}, fmt.Errorf("time %q: the zone %q is a name, which means different offsets to different people: write a number, as in %q", s, s[i+1:], s[:i]+"+02:00")
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339 with an offset, as in %q", s, example)
}

// stamp prints a time as every message does: UTC, to the microsecond, so that it
// can be given back as a target.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }
