package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// many daemons share a repository and, mostly, claims.
type many struct {
	mu        sync.Mutex
	random    *rand.Rand
	claims    bool // there is an etcd
	holders   map[time.Time]holder
	committed map[time.Time]time.Time
	missed    map[time.Time]string
	faults    []string
}

type holder struct {
	by   int
	lost chan struct{} // closed when the lease runs out
}

func (m *many) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func (m *many) between(least, most time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return least + time.Duration(m.random.Int64N(int64(most-least)))
}

// one of them: its clock is off, and unless it is healthy it sleeps, dies and fails.
type one struct {
	*many
	n       int
	healthy bool
	skew    time.Duration
	gate    chan struct{} // full while it is stopped, as by SIGSTOP
}

func (o *one) now() time.Time { return time.Now().Add(o.skew) }

// alive waits out a pause.
func (o *one) alive() {
	o.gate <- struct{}{}
	<-o.gate
}

const (
	period = time.Hour
	days   = 30 * time.Hour
)

func (o *one) job(t testing.TB, from time.Time) Job {
	return Job{Name: "hourly", Timetable: timetable(t, "0 * * * *", "UTC"), From: from, Attempts: 2, Delay: time.Minute, Ceiling: 50 * time.Minute,
		Done: func(_ context.Context, at time.Time) (bool, error) {
			o.alive()
			o.mu.Lock()
			defer o.mu.Unlock()
			_, ok := o.committed[at]
			if !o.healthy && o.random.IntN(20) == 0 {
				return false, errors.New("the store is away")
			}
			return ok, nil
		},
		Turn: o.turn, Run: o.run,
		Missed: func(_ context.Context, at time.Time, why string) error {
			o.alive()
			o.mu.Lock()
			defer o.mu.Unlock()
			if h, ok := o.holders[at]; ok && h.by != o.n {
				return fmt.Errorf("daemon %d runs it", h.by)
			}
			o.missed[at] = why
			return nil
		},
	}
}

func (o *one) turn(ctx context.Context, at time.Time) (bool, string, error) {
	o.alive()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.claims {
		return true, "", nil
	}
	if h, ok := o.holders[at]; ok {
		return false, fmt.Sprintf("daemon %d has it", h.by), nil
	}
	h := holder{o.n, make(chan struct{})}
	o.holders[at] = h
	context.AfterFunc(ctx, func() { o.release(at, h) })
	return true, "", nil
}

func (o *one) release(at time.Time, h holder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holders[at] == h {
		delete(o.holders, at)
		close(h.lost)
	}
}

func (o *one) run(ctx context.Context, at time.Time) error {
	o.mu.Lock()
	if o.healthy {
		if when, ok := o.committed[at]; ok {
			o.fault("%s is run again, %s after it was done", at, time.Since(when))
		}
	}
	if late := o.now().Sub(at); late < 0 || o.healthy && late > period {
		o.fault("%s is run %s after its time", at, late)
	}
	if at.Minute() != 0 {
		o.fault("%s is no scheduled time", at)
	}
	h := o.holders[at]
	fails := !o.healthy && o.random.IntN(3) == 0
	o.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-h.lost:
		return errors.New("the claim was lost")
	case <-time.After(o.between(time.Second, 4*time.Minute)):
	}
	o.alive()
	o.mu.Lock()
	defer o.mu.Unlock()
	if fails {
		return errors.New("broken")
	}
	if _, ok := o.committed[at]; ok {
		return errors.New("committed already")
	}
	o.committed[at] = time.Now()
	return nil
}

// live runs a daemon for its life: in turns it runs, sleeps and is dead.
func (o *one) live(ctx context.Context, t *testing.T, file string, from time.Time) {
	for ctx.Err() == nil {
		life, end := context.WithCancel(ctx)
		r := &Runner{Now: o.now, File: file}
		r.SetJobs([]Job{o.job(t, from)})
		ended := make(chan struct{})
		go func() { defer close(ended); _ = r.Run(life) }()
		if o.healthy {
			<-ended
			end()
			return
		}
		nap(ctx, o.between(time.Minute, 9*time.Hour))
		if o.between(0, 2) == 0 {
			o.gate <- struct{}{}
			pause := o.between(time.Second, 3*time.Hour)
			nap(ctx, min(pause, time.Minute))
			o.loseLeases()
			nap(ctx, max(0, pause-time.Minute))
			<-o.gate
		}
		end()
		<-ended
		nap(ctx, o.between(time.Second, 5*time.Hour))
		o.skew = o.between(-30*time.Second, 30*time.Second)
	}
}

func (o *one) loseLeases() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for at, h := range o.holders {
		if h.by == o.n {
			delete(o.holders, at)
			close(h.lost)
		}
	}
}

func nap(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Whatever the others do, with a healthy member each scheduled time is committed, and
// it runs nothing that is done. Without one, each time is committed or reported.
func TestManyDaemons(t *testing.T) {
	for range 3 {
		seed := rand.Uint64()
		for _, claims := range []bool{true, false} {
			for _, healthy := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					manyDaemons(t, seed, claims, healthy)
				})
				if t.Failed() {
					t.Fatalf("seed %d, claims %v, healthy %v", seed, claims, healthy)
				}
			}
		}
	}
}

func manyDaemons(t *testing.T, seed uint64, claims, healthy bool) {
	m := &many{random: rand.New(rand.NewPCG(seed, 2)), claims: claims, holders: map[time.Time]holder{}, committed: map[time.Time]time.Time{}, missed: map[time.Time]string{}}
	ctx, end := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	from, dir := time.Now().Add(time.Minute), t.TempDir()
	daemons := 1 + m.random.IntN(4)
	for n := range daemons {
		o := &one{many: m, n: n, healthy: healthy && n == 0, skew: m.between(-30*time.Second, 30*time.Second), gate: make(chan struct{}, 1)}
		wait.Go(func() { o.live(ctx, t, filepath.Join(dir, fmt.Sprint(n)), from) })
	}
	time.Sleep(days)
	if !healthy { // somebody looks after what is open
		o := &one{many: m, n: daemons, healthy: true, gate: make(chan struct{}, 1)}
		wait.Go(func() { o.live(ctx, t, filepath.Join(dir, "0"), from) })
	}
	time.Sleep(2 * time.Hour)
	end()
	wait.Wait()

	m.mu.Lock()
	defer m.mu.Unlock()
	for _, fault := range m.faults {
		t.Error(fault)
	}
	first := from
	if !healthy { // before anything was done and remembered there is nothing to go by
		for first = range m.committed {
			break
		}
		for at := range m.committed {
			if at.Before(first) {
				first = at
			}
		}
	}
	scheduled := timetable(t, "0 * * * *", "UTC")
	for at := scheduled.Next(first); at.Before(from.Add(days)); at = scheduled.Next(at) {
		_, done := m.committed[at]
		why, missed := m.missed[at]
		switch {
		case healthy && !done:
			t.Errorf("%s was not done", at)
		case !done && !missed:
			t.Errorf("%s was neither done nor reported", at)
		case claims && done && missed:
			t.Errorf("%s was done, and is reported as missed: %s", at, why)
		}
	}
}
