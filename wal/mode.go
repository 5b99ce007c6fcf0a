package wal

import (
	"cmp"
	"errors"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/hook"
)

// ExitCode is what archive-get says to PostgreSQL.
func ExitCode(m hook.Mode, err error) int {
	_, absent := errors.AsType[*AbsentError](err)
	switch {
	case err == nil:
		return 0
	case absent:
		return hook.ExitAbsent
	}
	return m.TroubleCode()
}

// Timeouts bound a Get by mode: how long it goes on without a byte of progress.
// Zero values are the defaults.
type Timeouts struct {
	Recovery time.Duration // 15 min
	Standby  time.Duration // 2 s
	Rewind   time.Duration // 60 s
}

// patient is the limit where PostgreSQL cannot go on without the file.
func (t Timeouts) patient(m hook.Mode) time.Duration {
	if m == hook.Recovery {
		return cmp.Or(t.Recovery, 15*time.Minute)
	}
	return cmp.Or(t.Rewind, time.Minute)
}
