// Package backoff remembers on this host that something failed, for a caller that
// would try again every few seconds.
package backoff

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
)

// Stamp keeps attempts apart, so that not every one makes the same work and noise.
type Stamp struct {
	path string
	what string
	log  *slog.Logger
}

// TooSoonError refuses an attempt.
type TooSoonError struct{ problem, path string }

func (e *TooSoonError) Error() string { return e.problem }

// Hint is what a person can do about it.
func (e *TooSoonError) Hint() string { return "to try at once: rm " + e.path }

// failures is the content of a stamp.
type failures struct {
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
	Error string    `json:"error"`
}

// New is the stamp of what, kept as a file in dir.
func New(dir, what string, log *slog.Logger) Stamp {
	return Stamp{filepath.Join(dir, what+".failed"), what, log}
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
	return f.Last.Add(min(firstPause<<min(max(f.Count, 1)-1, 10), longestPause))
}

func (s Stamp) read() (f failures) {
	data, err := os.ReadFile(s.path)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return failures{}
	}
	return f
}

// Allows refuses an attempt that comes too early, with a *TooSoonError.
func (s Stamp) Allows(now time.Time) error {
	f := s.read()
	if next := f.next(now); next.After(now) {
		return &TooSoonError{fmt.Sprintf("%s failed (times in a row: %d), last at %s (%s): not tried again before %s",
			s.what, f.Count, f.Last.UTC().Format(time.RFC3339), f.Error, next.UTC().Format(time.RFC3339)), s.path}
	}
	return nil
}

// Note remembers how an attempt ended.
func (s Stamp) Note(now time.Time, failed error) {
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
