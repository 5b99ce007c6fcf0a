// Package retention decides which backups and which WAL go, and removes them.
//
// Gather reads what the repository holds, NewPlan decides (values to values), Apply
// acts by the plan and asks only whether it still may. A backup goes in two steps:
// a tombstone hides it, and after the grace period its data is removed (R16).
package retention

import (
	"errors"
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

// Policy says what is kept. A backup stays if any rule keeps it; zero switches a
// rule off, and with no rule at all everything stays. Only good full backups are
// counted: an incremental stays with the full backup below it.
type Policy struct {
	Keep int // newest ones
	// Window is how far back every moment can be restored, counted from the newest
	// moment that can be: where nothing comes in, nothing expires by it.
	Window time.Duration
	// The newest one of each of so many days, ISO weeks, months and years (UTC) that
	// have one.
	Daily, Weekly, Monthly, Yearly int
	Minimum                        int // good ones that stay whatever the rules say; at least 1
	// WALFull is of how many of the newest ones the WAL after them stays; older ones
	// keep their own from start to stop. 0: of all.
	WALFull int
	Grace   time.Duration // between hiding a backup and removing its data
	Garbage time.Duration // age of what an unfinished run has left; at least an hour
}

// Validate refuses what makes no sense.
func (p Policy) Validate() error {
	if min(p.Keep, p.Daily, p.Weekly, p.Monthly, p.Yearly, p.Minimum, p.WALFull) < 0 || min(p.Window, p.Grace) < 0 {
		return errors.New("retention: want no negative number")
	}
	if p.Garbage < time.Hour {
		return fmt.Errorf("retention: garbage %s: want at least 1h, a run may be under way", p.Garbage)
	}
	return nil
}

func (p Policy) empty() bool { return p.Keep+p.Daily+p.Weekly+p.Monthly+p.Yearly == 0 && p.Window == 0 }
