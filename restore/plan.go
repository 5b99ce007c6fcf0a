package restore

import (
	"cmp"
	"fmt"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Plan is everything a restore will do: decided once from facts, printed by
// --plan, and followed without asking anything again.
type Plan struct {
	Backup catalog.Manifest `json:"backup"`
	// Target is what was asked for.
	Target Target `json:"target"`
	// Effective is what the recovery settings are to say. It differs from Target
	// where PostgreSQL would not find an end by itself: a time after the last commit
	// becomes the LSN of that commit. Its Timeline is always set.
	Effective Target `json:"effective"`
	// Timeline is the branch to recover along; written as a number, never "latest" (R26).
	Timeline postgres.TimelineID      `json:"timeline"`
	History  postgres.TimelineHistory `json:"history"`
	// Stop is where recovery must end.
	Stop Stop `json:"stop"`
	// WAL is what recovery will read, oldest first, every segment proven present.
	WAL []postgres.Segment `json:"wal"`
	// GapBehind tells that the archive has a gap behind the last segment of WAL: the
	// recovery must not look ahead into it.
	GapBehind bool `json:"gap_behind,omitempty"`
	// Tablespaces are all links that the copy will have or that replay will make.
	Tablespaces []TablespacePlan `json:"tablespaces,omitempty"`
	// Notes are said to the user before anything happens.
	Notes []string `json:"notes,omitempty"`
}

// Stop is the position where recovery must end: what prove compares with.
type Stop struct {
	// LSN is the end of the last record that recovery replays.
	LSN      postgres.LSN        `json:"lsn"`
	Timeline postgres.TimelineID `json:"timeline"`
	// Exact is false where the position cannot be known beforehand (latest, with an
	// archive that may still grow): recovery then ends at LSN or later.
	Exact bool `json:"exact"`
	// Time is the time of the last commit or abort that is kept; zero if none after the backup.
	Time time.Time `json:"time,omitzero"`
	// What describes the record in words: "after commit of transaction 751 at ...".
	What string `json:"what"`
}

// TablespacePlan is where one tablespace of the copy will stand.
type TablespacePlan struct {
	OID  uint32 `json:"oid"`
	From string `json:"from"` // the path in the backup or in the CREATE TABLESPACE record
	To   string `json:"to"`
	// Later tells that the tablespace is created during replay, after the backup.
	Later bool `json:"later,omitempty"`
}

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
