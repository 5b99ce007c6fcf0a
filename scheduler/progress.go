package scheduler

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
)

// progress is how far a job is with its times.
type progress struct {
	at      time.Time // the latest time that was due; zero: none was yet
	settled bool      // it is done, or was handed to passed
	tries   int
	again   time.Time // the next attempt begins not earlier
	why     string    // why it is not done
	changed bool      // the timetable is another one since
	passed  []passed  // times that went by, to be looked at once more and reported
}

type passed struct {
	at  time.Time
	why string
}

// mostPassed bounds what a long sleep or a jump of the clock leaves behind.
const mostPassed = 100

// advance takes up what is due now, and puts what is overtaken or late aside.
func (p *progress) advance(j Job, now time.Time) {
	due, ok := p.at, true
	if p.changed || due.IsZero() || due.After(now) || !j.Timetable.Next(due).After(now) {
		due, ok = Due(j.Timetable, now)
	}
	if !p.at.IsZero() && p.at.Before(j.From) { // From has become known since
		*p = progress{}
	}
	if !ok || due.Before(j.From) {
		return
	}
	if !due.Equal(p.at) {
		// Where the clock was put back, a time that has not come yet is not missed.
		if !p.settled && !p.at.IsZero() && !p.at.After(now) {
			p.pass(p.at, "the next time has come before it was done", p.why)
		}
		if !p.at.IsZero() && !p.changed {
			p.unseen(j, due, now.Add(-cmp.Or(j.Horizon, 24*time.Hour)))
		}
		p.at, p.settled, p.tries, p.again, p.why = due, false, 0, time.Time{}, ""
	}
	p.changed = false
	if !p.settled && j.LatestStart > 0 && now.After(due.Add(j.LatestStart)) {
		p.pass(due, "its latest start has passed", p.why)
		p.settled = true
	}
}

// unseen puts aside the times between the last one and due that nobody here looked at:
// the process slept, or an attempt took longer than a period.
func (p *progress) unseen(j Job, due, horizon time.Time) {
	var all []passed
	from := slices.MaxFunc([]time.Time{p.at, horizon}, time.Time.Compare)
	for at := j.Timetable.Next(from); at.Before(due) && !at.IsZero(); at = j.Timetable.Next(at) {
		all = append(all, passed{at, "nothing looked at it before the next time had come"})
		if len(all) > mostPassed {
			all = slices.Delete(all, 0, 1)
		}
	}
	p.passed = append(p.passed, all...)
}

func (p *progress) pass(at time.Time, what, why string) {
	if why != "" {
		what += "; it waited because: " + why
	}
	p.passed = append(p.passed, passed{at, what})
}

// wait is how long nothing is to be done.
func (p *progress) wait(j Job, now time.Time) time.Duration {
	wake := now.Add(poll)
	if next := j.Timetable.Next(now); !next.IsZero() && next.Before(wake) {
		wake = next
	}
	if !p.settled && p.again.After(now) && p.again.Before(wake) {
		wake = p.again
	}
	return wake.Sub(now)
}

// marks is how far the times of each job were looked after, kept in a file. They are
// for reports of missed times only: without them nothing is done twice or not at all.
type marks struct {
	path string
	log  *slog.Logger
	mu   sync.Mutex
	all  map[string]mark // by job
}

// mark: At is settled, and so is all before it. Next tells whether the timetable is
// still the same.
type mark struct {
	At   time.Time `json:"at"`
	Next time.Time `json:"next"`
}

func readMarks(path string, log *slog.Logger) *marks {
	m := &marks{path: path, log: log, all: map[string]mark{}}
	if path == "" {
		return m
	}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &m.all)
	}
	if m.all == nil || err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.all = map[string]mark{}
		log.Warn("what was scheduled before is not known", "event", "schedule.unmarked", "file", path, "error", err)
	}
	return m
}

// of is what is known of a job from before.
func (m *marks) of(j Job, now time.Time) progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, t := m.all[j.Name], j.Timetable
	if k.At.IsZero() || k.At.After(now) || !t.Next(k.At.Add(-time.Second)).Equal(k.At) || !t.Next(k.At).Equal(k.Next) {
		return progress{}
	}
	return progress{at: k.At, settled: true}
}

func (m *marks) set(job string, k mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path == "" || m.all[job].At.Equal(k.At) && m.all[job].Next.Equal(k.Next) {
		return
	}
	m.all[job] = k
	data, err := json.Marshal(m.all)
	if err == nil {
		err = atomicfile.Write(m.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		m.log.Warn("what was scheduled is not remembered", "event", "schedule.unmarked", "file", m.path, "error", err)
	}
}

// mark remembers how far the worker's job is.
func (w *worker) mark() {
	w.mu.Lock()
	p, j := w.progress, w.job
	w.mu.Unlock()
	if p.settled && len(p.passed) == 0 {
		w.runner.marks.set(j.Name, mark{At: p.at, Next: j.Timetable.Next(p.at)})
	}
}
