package scheduler

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Runner runs jobs at their times, each by itself: one that hangs blocks no other.
// The zero value is ready. Its methods are safe for concurrent use.
type Runner struct {
	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
	// File remembers over a restart up to where the times of each job were looked
	// after, so that those that pass meanwhile are reported as missed. "": nothing does.
	File string

	mu      sync.Mutex
	ctx     context.Context // of Run, while it runs
	workers map[string]*worker
	wait    sync.WaitGroup
	marks   *marks
}

// SetJobs replaces the jobs by others, which are told apart by their names. An attempt
// that runs goes on, and no other one of the same name begins beside it.
func (r *Runner) SetJobs(jobs []Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.workers == nil {
		r.workers, r.marks = map[string]*worker{}, readMarks(r.File, r.log())
	}
	given := map[string]bool{}
	for _, j := range jobs {
		given[j.Name] = true
		w, ok := r.workers[j.Name]
		if ok {
			w.replace(j)
			continue
		}
		w = &worker{runner: r, job: j, wake: make(chan struct{}, 1), log: r.log().With("job", j.Name)}
		w.progress = r.marks.of(j, r.now())
		r.workers[j.Name] = w
		if r.ctx != nil {
			r.start(w)
		}
	}
	for name, w := range r.workers {
		if !given[name] {
			w.retire()
			if r.ctx == nil {
				delete(r.workers, name)
			}
		}
	}
}

func (r *Runner) start(w *worker) {
	r.wait.Go(func() { w.run(r.ctx) })
}

// Run runs the jobs until ctx ends, and then waits until their attempts have ended, a
// minute at most. It may be called once.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	for _, w := range r.workers {
		r.start(w)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.wait.Wait()
	return context.Cause(ctx)
}

// States are all jobs at this moment, by name.
func (r *Runner) States() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	states := []State{}
	for _, w := range r.workers {
		states = append(states, w.snapshot(r.now()))
	}
	slices.SortFunc(states, func(a, b State) int { return cmp.Compare(a.Job, b.Job) })
	return states
}

// leave forgets a worker whose job was taken away and not given again.
func (r *Runner) leave(w *worker) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.retired {
		delete(r.workers, w.job.Name)
	}
	return w.retired
}

func (r *Runner) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Runner) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}
