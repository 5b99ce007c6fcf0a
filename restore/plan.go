package restore

import (
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
