package wal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// failureAge is how long a standby does not ask an archive again that did not answer.
const failureAge = 10 * time.Second

func (g *Getter) failureNote() string { return filepath.Join(g.State, "archive-get.failed") }

func (g *Getter) failedLately() bool {
	age, known := ageOf(g.failureNote(), time.Now())
	return g.State != "" && known && age < failureAge
}

// noteFailure remembers, or forgets, that the archive did not answer.
func (g *Getter) noteFailure(failed bool) {
	if g.State != "" {
		setNote(g.failureNote(), failed)
	}
}

// ageOf is how long ago a note was set; unknown if it is not.
func ageOf(note string, now time.Time) (age time.Duration, known bool) {
	info, err := os.Stat(note)
	if err != nil {
		return 0, false
	}
	return now.Sub(info.ModTime()).Abs(), true
}

// setNote sets a note now, or takes it away. A lost one costs time only.
func setNote(note string, on bool) {
	if !on {
		_ = os.Remove(note)
	} else if os.MkdirAll(filepath.Dir(note), 0o700) == nil {
		_ = os.WriteFile(note, nil, 0o600)
	}
}

// unanswered tells a store that did not answer from one that answered badly, which
// costs no time: a gap on one timeline must not hide the same position on another.
func unanswered(err error) bool {
	_, stall := errors.AsType[*StalledError](err)
	return stall || errors.Is(err, context.DeadlineExceeded) || storage.IsRetryable(err)
}
