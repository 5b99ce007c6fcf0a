package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
)

// stamp remembers on this host that something failed, so that a caller which tries
// again every few seconds does not make the same work, and noise, each time.
type stamp struct {
	path string
	what string
	log  *slog.Logger
}

// failures is the content of a stamp.
type failures struct {
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
	Error string    `json:"error"`
}

func newStamp(dir, what string, log *slog.Logger) stamp {
	return stamp{filepath.Join(dir, what+".failed"), what, log}
}

// Pauses between attempts: doubled from the first to the longest; older failures
// than forgotten do not count.
const (
	firstPause   = 10 * time.Second
	longestPause = 5 * time.Minute
	forgotten    = time.Hour
)

// next is when the next attempt may be made. A clock that was set back forgets.
func (f failures) next(now time.Time) time.Time {
	if age := now.Sub(f.Last); f.Count == 0 || age < 0 || age > forgotten {
		return now
	}
	return f.Last.Add(min(firstPause<<min(f.Count-1, 10), longestPause))
}

func (s stamp) read() (f failures) {
	data, err := os.ReadFile(s.path)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return failures{}
	}
	return f
}

// allows refuses an attempt that comes too early.
func (s stamp) allows(now time.Time) error {
	f := s.read()
	if next := f.next(now); next.After(now) {
		return fail(exitPreflight, "to try at once: rm "+s.path, "%s failed %s, last at %s (%s): not tried again before %s",
			s.what, plural(f.Count, "time"), f.Last.UTC().Format(time.RFC3339), f.Error, next.UTC().Format(time.RFC3339))
	}
	return nil
}

// note remembers how an attempt ended.
func (s stamp) note(now time.Time, failed error) {
	if failed == nil {
		_ = os.Remove(s.path)
		return
	}
	f := s.read()
	if now.Sub(f.Last).Abs() > forgotten {
		f.Count = 0
	}
	data, err := json.Marshal(failures{f.Count + 1, now.UTC(), failed.Error()})
	if err = errors.Join(err, atomicfile.MkdirAll(filepath.Dir(s.path), 0o700)); err == nil {
		err = atomicfile.Write(s.path, data, 0o600)
	}
	if err != nil {
		s.log.Warn(s.what+" will not pause between attempts", "error", err)
	}
}
