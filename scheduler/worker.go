package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// worker looks after one job.
type worker struct {
	runner *Runner
	log    *slog.Logger
	wake   chan struct{} // the job was replaced or taken away

	mu       sync.Mutex
	job      Job
	retired  bool
	progress progress
	running  time.Time
	hung     int
	last     Outcome
	untold   string // why a missed time could not be reported; used by run alone
}

func (w *worker) replace(j Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.runner.now()
	was, wasOK := Due(w.job.Timetable, now)
	is, isOK := Due(j.Timetable, now)
	same := wasOK == isOK && was.Equal(is) && w.job.Timetable.Next(now).Equal(j.Timetable.Next(now))
	w.job, w.retired, w.progress.changed = j, false, w.progress.changed || !same
	w.poke()
}

func (w *worker) retire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retired = true
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run goes on until ctx ends or the job is taken away.
func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil && !w.runner.leave(w) {
		w.mu.Lock()
		j, now := w.job, w.runner.now()
		w.progress.advance(j, now)
		p := w.progress
		w.mu.Unlock()

		w.report(ctx, j, p.passed)
		began := !p.at.IsZero() && !p.settled && !now.Before(p.again) && w.attempt(ctx, j, p.at)
		w.mark()
		if began {
			continue // the next time may have come meanwhile
		}

		w.mu.Lock()
		timer := time.NewTimer(w.progress.wait(j, w.runner.now()))
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// report tells of the times that went by without being done. What cannot be told now
// stays for later.
func (w *worker) report(ctx context.Context, j Job, all []passed) {
	told := 0
	for _, m := range all {
		r := w.supervise(ctx, 0, func(ctx context.Context, _ func()) result {
			done, err := j.done(ctx, m.at)
			if !done && err == nil && j.Missed != nil {
				err = j.Missed(ctx, m.at, m.why)
			}
			return result{done: done, err: err}
		})
		if r.err != nil {
			if w.untold != r.err.Error() {
				w.log.WarnContext(ctx, "a missed time cannot be reported yet", "event", "schedule.unreported", "at", m.at, "error", r.err)
			}
			w.untold = r.err.Error()
			break
		}
		told++
		if !r.done {
			w.log.WarnContext(ctx, "a scheduled time was missed", "event", "schedule.missed", "at", m.at, "reason", m.why)
			w.end(Outcome{At: m.at, Result: Overdue, Error: m.why})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.passed = w.progress.passed[told:]
}

// attempt finds out whether a time is done and whose it is, and runs the job if it is
// ours; began tells that it was.
func (w *worker) attempt(ctx context.Context, j Job, at time.Time) (began bool) {
	w.mu.Lock()
	tries := w.progress.tries
	w.mu.Unlock()
	if j.Attempts > 0 && tries >= j.Attempts { // another's attempt may still succeed
		j.Turn = func(context.Context, time.Time) (bool, string, error) { return false, "", nil }
	}
	r := w.supervise(ctx, j.Ceiling, func(ctx context.Context, begin func()) result {
		return j.try(ctx, at, func() {
			w.begin(ctx, at)
			begin()
		})
	})
	w.mu.Lock()
	began, w.running = !w.running.IsZero(), time.Time{}
	now := w.runner.now()
	w.progress.settled = r.done
	if began {
		w.progress.again = now.Add(j.Delay)
	}
	tries = w.progress.tries
	w.mu.Unlock()

	switch {
	case r.done:
		w.log.InfoContext(ctx, "a scheduled time is done", "event", "schedule.done", "at", at, "ours", began && r.err == nil)
		w.end(Outcome{At: at, Result: Succeeded})
	case ctx.Err() != nil:
		w.log.InfoContext(ctx, "an attempt was ended", "event", "schedule.ended", "at", at, "began", began, "hung", r.hung)
	case began:
		w.log.ErrorContext(ctx, "an attempt failed", "event", "schedule.failed", "at", at, "attempt", tries, "error", r.err)
		o := Outcome{At: at, Result: Failed, Error: fmt.Sprint(r.err)}
		if r.hung {
			o.Result = Hung
		}
		w.end(o)
		last := ""
		if tries == j.Attempts {
			last = ", the last one,"
		}
		w.waits(ctx, fmt.Sprintf("attempt %d%s failed: %v", tries, last, r.err))
	case r.err != nil:
		w.waits(ctx, r.err.Error())
	case r.why != "":
		w.waits(ctx, r.why)
	}
	return began
}

// supervise counts what is abandoned until it ends, and lets it not become too much.
func (w *worker) supervise(ctx context.Context, ceiling time.Duration, f func(ctx context.Context, begin func()) result) result {
	count := func(n int) int {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hung += n
		return w.hung
	}
	if hung := count(0); hung >= mostHung {
		return result{err: fmt.Errorf("%d abandoned attempts of it have not ended; restart this process", hung)}
	}
	r, ended := supervise(ctx, ceiling, f)
	if ended != nil {
		count(1)
		go func() {
			<-ended
			count(-1)
		}()
	}
	return r
}

func (w *worker) begin(ctx context.Context, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.progress.why = w.runner.now(), ""
	w.progress.tries++
	w.log.InfoContext(ctx, "an attempt begins", "event", "schedule.begins", "at", at, "attempt", w.progress.tries)
}

// waits says once why a time that is due is not done.
func (w *worker) waits(ctx context.Context, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.progress.why != why {
		w.progress.why = why
		w.log.InfoContext(ctx, "a scheduled time waits", "event", "schedule.waits", "at", w.progress.at, "reason", why)
	}
}

func (w *worker) end(o Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o.Ended = w.runner.now()
	w.last = o
}

func (w *worker) snapshot(now time.Time) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := State{Job: w.job.Name, Next: w.job.Timetable.Next(now), Hung: w.hung, Last: w.last}
	if p := w.progress; !p.at.IsZero() && !p.settled {
		s.Due, s.Waits, s.Running, s.Tries = p.at, p.why, w.running, p.tries
	}
	return s
}
