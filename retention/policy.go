// Package retention decides which backups and which WAL go, and removes them.
//
// Gather reads what the repository holds, NewPlan decides (values to values), Apply
// acts by the plan and asks only whether it still may. A backup goes in two steps:
// a tombstone hides it, and after the grace period its data is removed (R16).
package retention

import (
	"errors"
	"fmt"
	"time"
)

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
