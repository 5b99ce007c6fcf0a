package restore

import (
	"cmp"
	"fmt"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Outcome is where recovery stopped, as the server shows it.
type Outcome struct {
	Action   Action              `json:"action"` // what the server did in the end
	LSN      postgres.LSN        `json:"lsn"`    // end of the last record replayed
	Timeline postgres.TimelineID `json:"timeline"`
	// NewTimeline is the one opened by a promotion.
	NewTimeline postgres.TimelineID `json:"new_timeline,omitempty"`
	// LastCommit is the time of the last commit or abort replayed; zero if there was none.
	LastCommit time.Time `json:"last_commit,omitzero"`
}

// Prove compares where recovery stopped with where the plan says it must. A
// difference is a *VerificationError that names both positions.
func Prove(plan Plan, seen Outcome) error {
	bad := func(format string, args ...any) error {
		return &VerificationError{
			Problem: fmt.Sprintf(format, args...),
			Advice:  "do not use the copy: keep its log, and run the restore again; the archive is unchanged",
		}
	}
	action, want := cmp.Or(plan.Effective.Action, Promote), plan.Stop
	if seen.Action != action {
		return bad("the server should %s at %s on timeline %d, it did %s at %s on timeline %d",
			action, want.LSN, uint32(want.Timeline), seen.Action, seen.LSN, uint32(seen.Timeline))
	}
	short := seen.LSN < want.LSN || seen.Timeline < want.Timeline
	far := want.Exact && (seen.LSN > want.LSN || seen.Timeline > want.Timeline)
	if short || far {
		return bad("recovery stopped at %s on timeline %d, it had to stop at %s on timeline %d (%s)",
			seen.LSN, uint32(seen.Timeline), want.LSN, uint32(want.Timeline), want.What)
	}
	return nil
}
