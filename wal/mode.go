package wal

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Mode is who waits for a file: it decides how long trouble is retried and what
// exit status it has.
type Mode uint8

// The modes. Rewind is everything but PostgreSQL's own recovery: pg_rewind,
// Patroni's search for a missing segment, a person.
const (
	Rewind Mode = iota
	// Promotion is PostgreSQL's own recovery after it removed its signal files: the
	// last thing it does before it opens is to ask for its parent's history.
	Promotion
	// Standby must be able to promote fast, and asks again by itself.
	Standby
	// Recovery would end early, and promote, on any exit status up to 125.
	Recovery
)

func (m Mode) String() string {
	return [...]string{"rewind", "promotion", "standby", "recovery"}[m]
}

// ModeOf looks at the signal files of PGDATA ("" is the working directory), and
// at dest, which PostgreSQL's own recovery names RECOVERYXLOG or RECOVERYHISTORY.
// What cannot be told is recovery: that stops a server, but loses nothing.
func ModeOf(dataDir, dest string) Mode {
	_, recovery := os.Stat(filepath.Join(dataDir, "recovery.signal"))
	_, standby := os.Stat(filepath.Join(dataDir, "standby.signal"))
	switch {
	case standby != nil && !errors.Is(recovery, fs.ErrNotExist):
		return Recovery
	case !ByRecovery(dest):
		return Rewind
	case standby == nil:
		return Standby
	}
	if _, err := os.Stat(filepath.Join(dataDir, "PG_VERSION")); err != nil {
		return Recovery // not PGDATA: signal files that are not here prove nothing
	}
	return Promotion
}

// ByRecovery tells whether dest is what PostgreSQL's own recovery wants a file
// under, whatever it asks for.
func ByRecovery(dest string) bool {
	name := filepath.Base(dest)
	return name == recoveryXLOG || name == "RECOVERYHISTORY"
}

// recoveryXLOG is where PostgreSQL's recovery wants a segment. Only then does it
// ask for the next ones, too.
const recoveryXLOG = "RECOVERYXLOG"

// Exit statuses of archive-get.
const (
	ExitAbsent    = 1   // proven absence: PostgreSQL ends recovery or looks elsewhere
	ExitTrouble   = 75  // PostgreSQL asks again
	ExitStopShort = 200 // PostgreSQL stops instead of promoting short
)

// ExitCode is what archive-get says to PostgreSQL.
func (m Mode) ExitCode(err error) int {
	_, absent := errors.AsType[*AbsentError](err)
	switch {
	case err == nil:
		return 0
	case absent:
		return ExitAbsent
	}
	return m.TroubleCode()
}

// TroubleCode is the exit status of everything but success and proven absence.
func (m Mode) TroubleCode() int {
	if m == Recovery {
		return ExitStopShort
	}
	return ExitTrouble
}

// Timeouts bound a Get by mode: how long it goes on without a byte of progress.
// Zero values are the defaults.
type Timeouts struct {
	Recovery time.Duration // 15 min
	Standby  time.Duration // 2 s
	Rewind   time.Duration // 60 s
}

// patient is the limit where PostgreSQL cannot go on without the file.
func (t Timeouts) patient(m Mode) time.Duration {
	if m == Recovery {
		return cmp.Or(t.Recovery, 15*time.Minute)
	}
	return cmp.Or(t.Rewind, time.Minute)
}
