// Package hook is what archive_command and restore_command need before anything
// else, and all that pgha-wal is made of: who waits for a file, what the exit status
// would make PostgreSQL believe, and the way to ask the daemon.
package hook

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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

var modes = [...]string{"rewind", "promotion", "standby", "recovery"}

func (m Mode) String() string { return modes[m] }

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

// ModeOfArgs is the mode of a get of which nothing but its arguments is known yet:
// the most careful one that any of them could mean.
func ModeOfArgs(args []string) Mode {
	mode := ModeOf("", "")
	for _, arg := range args {
		mode = max(mode, ModeOf(DataDir(arg, ""), arg))
	}
	return mode
}

// RecoveryXLOG is where PostgreSQL's recovery wants a segment. Only then does it
// ask for the next ones, too.
const RecoveryXLOG = "RECOVERYXLOG"

// ByRecovery tells whether dest is what PostgreSQL's own recovery wants a file
// under, whatever it asks for.
func ByRecovery(dest string) bool {
	name := filepath.Base(dest)
	return name == RecoveryXLOG || name == "RECOVERYHISTORY"
}

// Exit statuses of archive-get.
const (
	ExitAbsent    = 1   // proven absence: PostgreSQL ends recovery or looks elsewhere
	ExitTrouble   = 75  // PostgreSQL asks again
	ExitStopShort = 200 // PostgreSQL stops instead of promoting short
)

// TroubleCode is the exit status of everything but success and proven absence.
func (m Mode) TroubleCode() int {
	if m == Recovery {
		return ExitStopShort
	}
	return ExitTrouble
}
