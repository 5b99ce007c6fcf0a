package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Bubbles of synctest begin at midnight UTC of 2000-01-01.
var midnight = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// world is what a job does and what is recorded of it.
type world struct {
	mu     sync.Mutex
	done   map[time.Time]bool
	events []string // "02:00 run", "03:00 missed ..."
	run    func(ctx context.Context, at time.Time) error
}

func (w *world) add(at time.Time, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, at.UTC().Format("15:04 ")+fmt.Sprintf(format, args...))
}

func (w *world) is(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[at.UTC()]
}

func (w *world) set(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[at.UTC()] = true
}

func (w *world) job(t testing.TB, expression string) Job {
	w.done = map[time.Time]bool{}
	return Job{Name: "test", Timetable: timetable(t, expression, "UTC"), Attempts: 2, Delay: 5 * time.Minute, Ceiling: 30 * time.Minute,
		Done: func(_ context.Context, at time.Time) (bool, error) { return w.is(at), nil },
		Run: func(ctx context.Context, at time.Time) error {
			if ctx.Err() != nil {
				w.add(at, "given back")
				return ctx.Err()
			}
			w.add(at, "run %s", time.Now().UTC().Format("15:04"))
			if w.run != nil {
				if err := w.run(ctx, at); err != nil {
					return err
				}
			}
			w.set(at)
			return nil
		},
		Missed: func(_ context.Context, at time.Time, why string) error { w.add(at, "missed: %s", why); return nil },
	}
}

func (w *world) want(t *testing.T, events ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.events, events) {
		t.Errorf("\n got %q\nwant %q", w.events, events)
	}
}

// takes works for so long, unless it is to end.
func takes(d time.Duration, err error) func(context.Context, time.Time) error {
	return func(ctx context.Context, _ time.Time) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// runs starts a Runner, and ends it at the end of the test.
func runs(t *testing.T, r *Runner, jobs ...Job) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	r.SetJobs(jobs)
	go func() { ended <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// until sleeps to a time of the day and lets everything come to rest there.
func until(text string) {
	clock, _ := time.Parse("15:04", text)
	at := midnight.Add(time.Duration(clock.Hour())*time.Hour + time.Duration(clock.Minute())*time.Minute)
	time.Sleep(time.Until(at) + time.Second)
	synctest.Wait()
}

func state(t *testing.T, r *Runner, name string) State {
	t.Helper()
	for _, s := range r.States() {
		if s.Job == name {
			return s
		}
	}
	t.Fatalf("no job %s", name)
	return State{}
}

func TestRunsAtItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		r := &Runner{}
		j := w.job(t, "0 * * * *")
		j.From = midnight.Add(time.Minute) // as if the cluster had been made then
		runs(t, r, j)
		until("00:30")
		if s := state(t, r, "test"); !s.Next.Equal(midnight.Add(time.Hour)) || !s.Due.IsZero() {
			t.Errorf("%+v", s)
		}
		until("02:30")
		w.want(t, "01:00 run 01:00", "02:00 run 02:00")
		if s := state(t, r, "test"); s.Last.Result != Succeeded || !s.Last.At.Equal(midnight.Add(2*time.Hour)) || !s.Due.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// What was due while nobody ran is caught up, once, and not before the job began to be.
func TestCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		runs(t, &Runner{}, w.job(t, "0 * * * *"))
		until("00:59")
		w.want(t, "00:00 run 00:00")
	})
	synctest.Test(t, func(t *testing.T) {
		var w world
		j := w.job(t, "0 0 * * *")
		time.Sleep(3 * time.Hour)
		stop := runs(t, &Runner{}, j)
		until("04:00")
		stop()
		runs(t, &Runner{}, j) // again: it is done
		until("23:00")
		w.want(t, "00:00 run 03:00")
	})
}

func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.run = func(context.Context, time.Time) error { return errors.New("no space") }
		r := &Runner{}
		j := w.job(t, "0 * * * *")
		j.From = midnight.Add(time.Minute)
		runs(t, r, j)
		until("01:02")
		s := state(t, r, "test")
		if !s.Due.Equal(midnight.Add(time.Hour)) || s.Tries != 1 || s.Waits != "attempt 1 failed: no space" || s.Last.Result != Failed || s.Last.Error != "no space" {
			t.Errorf("%+v", s)
		}
		until("01:59")
		w.want(t, "01:00 run 01:00", "01:00 run 01:05")
		until("02:01") // the next time has its own attempts
		w.want(t, "01:00 run 01:00", "01:00 run 01:05",
			"01:00 missed: the next time has come before it was done; it waited because: attempt 2, the last one, failed: no space", "02:00 run 02:00")
	})
}

// An attempt that failed because another's was first is no failure, and one of
// another's ends ours.
func TestAnotherWasFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.run = func(_ context.Context, at time.Time) error {
			w.set(at)
			return errors.New("committed already")
		}
		r := &Runner{}
		j := w.job(t, "0 * * * *")
		runs(t, r, j)
		until("00:01")
		if s := state(t, r, "test"); s.Last.Result != Succeeded || s.Last.Error != "" {
			t.Errorf("%+v", s)
		}
		until("00:50")
		w.want(t, "00:00 run 00:00")
		if s := state(t, r, "test"); s.Last.Result != Succeeded || !s.Due.IsZero() {
			t.Errorf("%+v", s)
		}
		w.set(midnight.Add(time.Hour))
		until("01:50")
		w.want(t, "00:00 run 00:00")
	})
}

// Our attempts are used up; another's success is seen all the same.
func TestAnotherIsBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.run = func(context.Context, time.Time) error { return errors.New("broken here") }
		r := &Runner{}
		runs(t, r, w.job(t, "0 * * * *"))
		until("00:30")
		w.set(midnight)
		until("01:01")
		w.want(t, "00:00 run 00:00", "00:00 run 00:05", "01:00 run 01:00")
	})
}

func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		r := &Runner{}
		j := w.job(t, "0 * * * *")
		why := "it is pg2's"
		var mu sync.Mutex
		var mine bool
		var trouble error
		say := func(yes bool, err error) {
			mu.Lock()
			defer mu.Unlock()
			mine, trouble = yes, err
		}
		j.Turn = func(context.Context, time.Time) (bool, string, error) {
			mu.Lock()
			defer mu.Unlock()
			return mine, why, trouble
		}
		runs(t, r, j)
		until("00:10")
		if s := state(t, r, "test"); s.Waits != why || s.Tries != 0 || !s.Running.IsZero() {
			t.Errorf("%+v", s)
		}
		say(false, errors.New("etcd is away"))
		until("00:20")
		if s := state(t, r, "test"); s.Waits != "etcd is away" {
			t.Errorf("%+v", s)
		}
		say(true, nil)
		until("00:21")
		w.want(t, "00:00 run 00:20")
	})
}

func TestLatestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		j := w.job(t, "0 * * * *")
		j.LatestStart = 10 * time.Minute
		var ready atomic.Bool
		j.Turn = func(context.Context, time.Time) (bool, string, error) { return ready.Load(), "no replica streams", nil }
		runs(t, &Runner{}, j)
		until("00:09")
		w.want(t)
		until("00:11")
		w.want(t, "00:00 missed: its latest start has passed; it waited because: no replica streams")
		ready.Store(true)
		until("01:01")
		w.want(t, "00:00 missed: its latest start has passed; it waited because: no replica streams", "01:00 run 01:00")
	})
	synctest.Test(t, func(t *testing.T) { // an attempt that began in time may go on, the next may not begin
		var w world
		j := w.job(t, "0 * * * *")
		j.LatestStart = 10 * time.Minute
		w.run = takes(20*time.Minute, errors.New("torn"))
		runs(t, &Runner{}, j)
		until("00:50")
		w.want(t, "00:00 run 00:00", "00:00 missed: its latest start has passed; it waited because: attempt 1 failed: torn")
	})
	synctest.Test(t, func(t *testing.T) { // done by another within the time: nothing is missed
		var w world
		j := w.job(t, "0 * * * *")
		j.LatestStart = 10 * time.Minute
		w.set(midnight)
		time.Sleep(20 * time.Minute)
		runs(t, &Runner{}, j)
		until("00:50")
		w.want(t)
	})
}

// The ceiling ends an attempt by its context, and an attempt that takes no notice is
// left alone: the job's own next time and the other jobs come.
func TestCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.run = func(ctx context.Context, _ time.Time) error { <-ctx.Done(); return ctx.Err() }
		r := &Runner{}
		runs(t, r, w.job(t, "0 * * * *"))
		until("00:32")
		w.want(t, "00:00 run 00:00")
		if s := state(t, r, "test"); s.Last.Result != Failed || s.Last.Error != "the attempt took too long: context canceled" || s.Hung != 0 {
			t.Errorf("%+v", s)
		}
		until("00:36")
		w.want(t, "00:00 run 00:00", "00:00 run 00:35")
	})
	synctest.Test(t, func(t *testing.T) {
		var w, other world
		release := make(chan struct{})
		w.run = func(_ context.Context, at time.Time) error {
			if at.Equal(midnight) {
				<-release
			}
			return nil
		}
		first := w.job(t, "0 * * * *")
		first.Attempts = 1
		r := &Runner{}
		j := other.job(t, "*/30 * * * *")
		j.Name = "other"
		runs(t, r, first, j)
		until("00:32")
		if s := state(t, r, "test"); s.Hung != 1 || s.Last.Result != Hung || !strings.Contains(s.Last.Error, "abandoned") {
			t.Errorf("%+v", s)
		}
		until("01:30")
		other.want(t, "00:00 run 00:00", "00:30 run 00:30", "01:00 run 01:00", "01:30 run 01:30")
		w.want(t, "00:00 run 00:00",
			"00:00 missed: the next time has come before it was done; it waited because: attempt 1, the last one, failed: the attempt took too long, and it does not end: it was abandoned",
			"01:00 run 01:00")
		close(release)
		synctest.Wait()
		if s := state(t, r, "test"); s.Hung != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Questions that hang are left alone too, and not without end.
func TestHungQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		release := make(chan struct{})
		var asked atomic.Int32
		j := w.job(t, "0 0 * * *")
		j.Turn = func(context.Context, time.Time) (bool, string, error) { asked.Add(1); <-release; return true, "", nil }
		r := &Runner{}
		runs(t, r, j)
		until("01:00")
		s := state(t, r, "test")
		if asked.Load() != mostHung || s.Hung != mostHung || s.Waits != "4 abandoned attempts of it have not ended; restart this process" {
			t.Errorf("%d asked, %+v", asked.Load(), s)
		}
		close(release)
		until("01:01") // what it said too late did not count, what it says now does
		w.want(t, slices.Concat(slices.Repeat([]string{"00:00 given back"}, mostHung), []string{"00:00 run 01:00"})...)
	})
}

func TestOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		j := w.job(t, "*/10 * * * *")
		j.Ceiling = 0
		w.run = takes(35*time.Minute, nil)
		runs(t, &Runner{}, j)
		until("00:36")
		const unseen = "missed: nothing looked at it before the next time had come"
		w.want(t, "00:00 run 00:00", "00:10 "+unseen, "00:20 "+unseen, "00:30 run 00:35")
	})
}

// A report that cannot be written is written later, and not at all where the work
// turns out to be done.
func TestReportsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		j := w.job(t, "0 * * * *")
		j.LatestStart = time.Minute
		j.Turn = func(context.Context, time.Time) (bool, string, error) { return false, "it is pg2's", nil }
		var free atomic.Bool
		missed := j.Missed
		j.Missed = func(ctx context.Context, at time.Time, why string) error {
			if !free.Load() {
				return errors.New("pg2 still runs it")
			}
			return missed(ctx, at, why)
		}
		runs(t, &Runner{}, j)
		until("00:30")
		w.set(midnight)
		until("01:30")
		free.Store(true)
		until("01:31")
		w.want(t, "01:00 missed: its latest start has passed; it waited because: it is pg2's")
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		r := &Runner{}
		j := w.job(t, "0 * * * *")
		w.run = takes(20*time.Minute, nil)
		runs(t, r, j)
		until("00:10") // an attempt runs: taken away and given again, it goes on alone
		r.SetJobs(nil)
		r.SetJobs([]Job{j})
		until("00:30")
		w.want(t, "00:00 run 00:00")
		r.SetJobs(nil)
		until("01:30")
		w.want(t, "00:00 run 00:00")
		if s := r.States(); len(s) != 0 {
			t.Errorf("%+v", s)
		}
		r.SetJobs([]Job{j})
		until("01:40")
		w.want(t, "00:00 run 00:00", "01:00 run 01:30")
	})
	synctest.Test(t, func(t *testing.T) { // another zone: its latest time is caught up, what lies between is nobody's
		var w world
		r := &Runner{}
		j := w.job(t, "0 20 * * *") // 20:00 of the day before
		runs(t, r, j)
		until("00:10")
		j.Timetable = timetable(t, "0 20 * * *", "America/New_York") // 01:00 UTC
		r.SetJobs([]Job{j})
		until("00:20")
		j.Timetable = timetable(t, "*/5 * * * *", "UTC")
		r.SetJobs([]Job{j})
		until("00:21")
		w.want(t, "20:00 run 00:00", "01:00 run 00:10", "00:20 run 00:20")
	})
}

// The end of the context ends the attempt, and waits for it; what hangs is not waited
// for longer than the patience.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		w.run = func(ctx context.Context, _ time.Time) error {
			<-ctx.Done()
			time.Sleep(10 * time.Second) // it cleans up
			w.add(midnight, "clean")
			return ctx.Err()
		}
		stop := runs(t, &Runner{}, w.job(t, "0 * * * *"))
		until("00:01")
		stop()
		w.want(t, "00:00 run 00:00", "00:00 clean")
	})
	synctest.Test(t, func(t *testing.T) {
		var w world
		release := make(chan struct{})
		w.run = func(context.Context, time.Time) error { <-release; return nil }
		stop := runs(t, &Runner{}, w.job(t, "0 * * * *"))
		until("00:01")
		before := time.Now()
		stop()
		if took := time.Since(before); took != patience {
			t.Errorf("it took %s to end", took)
		}
		close(release)
	})
}

// A job without questions: what Run has done is done.
func TestPlainJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		j := w.job(t, "@every 1h")
		j.Done, j.Missed = nil, nil
		failed := false
		w.run = func(context.Context, time.Time) error {
			if !failed {
				failed = true
				return errors.New("not yet")
			}
			return nil
		}
		runs(t, &Runner{}, j)
		until("01:01")
		w.want(t, "00:00 run 00:00", "00:00 run 00:05", "01:00 run 01:00")
	})
}
