package retry

import (
	"context"
	"sync"
	"time"
)

// watch cancels a try in which nothing moves.
type watch struct {
	limit  time.Duration
	cancel context.CancelFunc

	mu    sync.Mutex
	timer *time.Timer
	bytes int64
	at    time.Time // of the last byte, or the start
	over  bool
}

func newWatch(limit time.Duration, cancel context.CancelFunc) *watch {
	w := &watch{limit: max(limit, time.Millisecond), cancel: cancel, at: time.Now()}
	w.timer = time.AfterFunc(w.limit, w.expire)
	return w
}

func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.cancel()
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
func (w *watch) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) fired() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

func (w *watch) progress() (int64, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes, w.at
}
