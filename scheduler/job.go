package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Job is what is to be done at the times of a timetable. Its functions are asked one
// at a time. Their context ends with the attempt; one that does not return a minute
// after that is abandoned and counts as hung.
type Job struct {
	Name      string // of all jobs another
	Timetable Timetable
	// From is when the job began to be: what was due earlier is not its own.
	From time.Time
	// LatestStart is how long after its time an attempt may still begin; 0: until the next time.
	LatestStart time.Duration
	Attempts    int           // at a time, by this Runner; 0: as many as it takes
	Delay       time.Duration // between two attempts
	Ceiling     time.Duration // wall clock of one attempt; 0: none
	// Horizon is for how long after a time it can be told that it was not done. Times
	// that nobody looked at, and which are older, are not reported as missed. 0: a day.
	Horizon time.Duration

	// Done tells whether the work of a time is done, by whomever. Nil: it is when Run
	// has returned without an error here.
	Done func(ctx context.Context, at time.Time) (bool, error)
	// Turn tells whether it is ours to do, and why not. It is asked again while it is
	// not. Run always follows when it is, with the same context, even if that has ended:
	// it gives back what Turn took. Nil: always ours.
	Turn func(ctx context.Context, at time.Time) (mine bool, why string, err error)
	Run  func(ctx context.Context, at time.Time) error
	// Missed records a time that was overtaken, or whose latest start has passed. An
	// error makes it be asked again, after Done. Nil: nobody wants to know.
	Missed func(ctx context.Context, at time.Time, why string) error
}

// State is a job at one moment.
type State struct {
	Job     string    `json:"job"`
	Next    time.Time `json:"next,omitzero"`
	Due     time.Time `json:"due,omitzero"`           // the time that is due and not done
	Waits   string    `json:"waits,omitempty"`        // why not yet
	Running time.Time `json:"running_since,omitzero"` // of the attempt for Due
	Tries   int       `json:"attempts,omitempty"`     // begun for Due
	Hung    int       `json:"hung,omitempty"`         // abandoned attempts that still have not ended
	Last    Outcome   `json:"last,omitzero"`
}

// Outcome is how a scheduled time ended, or the last attempt at it.
type Outcome struct {
	At     time.Time `json:"at"`     // the scheduled time
	Ended  time.Time `json:"ended"`  // when that was known
	Result string    `json:"result"` // one of the results
	Error  string    `json:"error,omitempty"`
}

// The results.
const (
	Succeeded = "done"
	Failed    = "failed"
	Overdue   = "missed"
	Hung      = "hung"
)

// Bounds of what a job's functions may take of our time.
const (
	askLimit = 30 * time.Second // until Turn has said yes or no
	patience = time.Minute      // to return after its context ended
	poll     = 10 * time.Second // between two questions, and looks at the clock
	mostHung = 4                // abandoned attempts of one job
)

var (
	errSlow    = fmt.Errorf("no answer within %s", askLimit)
	errCeiling = errors.New("the attempt took too long")
)

// result is how an attempt ended: done, or not and why. An attempt that never
// began has only found out whether it should.
type result struct {
	done, hung bool
	err        error
	why        string
}

// try makes one attempt if the time is not done and is ours.
func (j Job) try(ctx context.Context, at time.Time, begin func()) result {
	if done, err := j.done(ctx, at); done || err != nil {
		return result{done: done, err: err}
	}
	if j.Turn != nil {
		if mine, why, err := j.Turn(ctx, at); !mine || err != nil {
			return result{why: why, err: err}
		}
	}
	late := ctx.Err() != nil // Run is called all the same: it gives back what Turn took
	if !late {
		begin()
	}
	err := j.Run(ctx, at)
	if err == nil {
		return result{done: true}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	// Ours may have failed because another's was first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
	defer cancel()
	done, _ := j.done(ctx, at)
	return result{done: done, err: err}
}

func (j Job) done(ctx context.Context, at time.Time) (bool, error) {
	if j.Done == nil {
		return false, nil
	}
	done, err := j.Done(ctx, at)
	if err != nil {
		return false, fmt.Errorf("find out whether it is done: %w", err)
	}
	return done, nil
}

// supervise runs f, which calls begin where it goes on from asking to working, and
// ends its context when either takes too long. It does not wait for ever: a hung f is
// left alone, and ended receives its result some time.
func supervise(parent context.Context, ceiling time.Duration, f func(ctx context.Context, begin func()) result) (r result, ended <-chan result) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	begun, results := make(chan struct{}), make(chan result, 1)
	go func() { results <- f(ctx, func() { close(begun) }) }()
	limit, tooLong, told, stop := time.NewTimer(askLimit), errSlow, false, parent.Done()
	defer limit.Stop()
	for {
		select {
		case r := <-results:
			return r, nil
		case <-begun:
			begun = nil
			if tooLong = errCeiling; ceiling > 0 && !told {
				limit.Reset(ceiling)
			} else if !told {
				limit.Stop()
			}
		case <-stop:
			stop, told, tooLong = nil, true, context.Cause(parent)
			limit.Reset(patience)
		case <-limit.C:
			if told {
				return result{hung: true, err: fmt.Errorf("%w, and it does not end: it was abandoned", tooLong)}, results
			}
			told = true
			cancel(tooLong)
			limit.Reset(patience)
		}
	}
}
