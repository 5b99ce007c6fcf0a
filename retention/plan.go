package retention

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Action is what becomes of a backup, a run or a span of WAL.
type Action string

// The actions.
const (
	Keep   Action = "keep"
	Show   Action = "show"   // was hidden and is wanted again
	Hide   Action = "hide"   // gets a tombstone
	Wait   Action = "wait"   // is hidden; its data is removed when the grace period is over
	Remove Action = "remove" // its data goes
	Forget Action = "forget" // its tombstone goes, long after everything else
)

// Verdict is what becomes of one backup, or of one run that never committed, and why.
type Verdict struct {
	Backup  catalog.BackupID `json:"backup"`
	Run     catalog.RunID    `json:"run,omitempty"` // of an unfinished run
	Action  Action           `json:"action"`
	Reasons []string         `json:"reasons"`
	Fault   string           `json:"fault,omitempty"` // why it is no good one
	Time    time.Time        `json:"time,omitzero"`   // when the backup ended; a run's newest object
	Stored  int64            `json:"stored"`          // bytes
	// After is, of one that waits, when its data may go.
	After time.Time `json:"after,omitzero"`
}

// WALVerdict is what becomes of a span of a timeline's segments, with the partial
// segments, backup history files and conflicts of the same names.
type WALVerdict struct {
	Timeline postgres.TimelineID `json:"timeline"`
	catalog.Range
	Action Action `json:"action"` // keep or remove
	Reason string `json:"reason"`
}

// Plan is what Apply does.
type Plan struct {
	At      time.Time    `json:"at"`
	Backups []Verdict    `json:"backups"` // by ID
	Runs    []Verdict    `json:"runs"`    // unfinished ones
	WAL     []WALVerdict `json:"wal"`

	facts Facts
	now   time.Time // the earlier of our clock and the store's
	kept  map[postgres.TimelineID][]span
}

// RefusedError says why nothing is decided.
type RefusedError struct{ Why, Advice string }

func (e *RefusedError) Error() string { return "expire nothing: " + e.Why }

// Hint says what to do about it.
func (e *RefusedError) Hint() string { return e.Advice }

func refuse(advice, format string, args ...any) error {
	return &RefusedError{Why: fmt.Sprintf(format, args...), Advice: advice}
}

// Changes tells whether the plan does anything.
func (p Plan) Changes() bool {
	acts := func(v Verdict) bool { return v.Action != Keep && v.Action != Wait }
	return slices.ContainsFunc(p.Backups, acts) || slices.ContainsFunc(p.Runs, acts) ||
		slices.ContainsFunc(p.WAL, func(v WALVerdict) bool { return v.Action == Remove })
}
