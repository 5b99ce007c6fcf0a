// Package restore brings a cluster back: it plans from facts, copies, writes the
// recovery settings, and proves where recovery stopped.
package restore

import (
	"fmt"
	"slices"
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
