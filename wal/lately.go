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
	if g.State == "" {
		return false
	}
	info, err := os.Stat(g.failureNote())
	return err == nil && time.Since(info.ModTime()).Abs() < failureAge
}

// noteFailure remembers, or forgets, that the archive did not answer.
func (g *Getter) noteFailure(failed bool) {
	if g.State == "" {
		return
	}
	if !failed {
		_ = os.Remove(g.failureNote())
		return
	}
	if os.MkdirAll(g.State, 0o700) == nil {
		_ = os.WriteFile(g.failureNote(), nil, 0o600)
	}
}

// unanswered tells a store that did not answer from one that answered badly, which
// costs no time: a gap on one timeline must not hide the same position on another.
func unanswered(err error) bool {
	_, stall := errors.AsType[*StalledError](err)
	return stall || errors.Is(err, context.DeadlineExceeded) || storage.IsRetryable(err)
}
