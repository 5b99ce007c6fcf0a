package wal

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// StalledError ends work that got no further for too long.
type StalledError struct{ Limit time.Duration }

func (e *StalledError) Error() string {
	return fmt.Sprintf("no progress for %s, gave up", e.Limit)
}

// progressWatch ends a context when nobody called alive for a while.
type progressWatch struct {
	mu     sync.Mutex
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func watchProgress(ctx context.Context, limit time.Duration) (context.Context, *progressWatch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &progressWatch{limit: limit, cancel: cancel}
	w.timer = time.AfterFunc(limit, func() { cancel(&StalledError{limit}) })
	return ctx, w
}

func (w *progressWatch) alive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer.Stop() {
		w.timer.Reset(w.limit)
	}
}

func (w *progressWatch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// stalled says in err that it was our deadline which ended the work.
func stalled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != ctx.Err() {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}
