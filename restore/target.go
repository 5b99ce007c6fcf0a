// Package restore brings a cluster back: it plans from facts, copies, writes the
// recovery settings, and proves where recovery stopped.
package restore

import (
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
