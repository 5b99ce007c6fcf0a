package scheduler

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
)

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
