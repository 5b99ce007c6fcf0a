package retry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// watch cancels a try in which nothing moves.
type watch struct {
	limit time.Duration
	over  atomic.Bool

	mu    sync.Mutex
	timer *time.Timer
	bytes int64
	at    time.Time // of the last byte, or the start
}

func newWatch(limit time.Duration, cancel context.CancelFunc) *watch {
	w := &watch{limit: max(limit, time.Millisecond), at: time.Now()}
	w.timer = time.AfterFunc(w.limit, func() {
		w.over.Store(true)
		cancel()
	})
	return w
}

// moved notes n bytes under way.
func (w *watch) moved(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
	w.at = time.Now()
	if w.timer.Stop() {
		w.timer.Reset(w.limit)
	}
}

// pause stops the clock while it is not the store that we wait for.
func (w *watch) pause() { w.timer.Stop() }

// resume starts it from zero.
func (w *watch) resume() { w.timer.Reset(w.limit) }

func (w *watch) progress() (int64, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes, w.at
}
