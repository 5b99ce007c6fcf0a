package backoff

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStamp(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "state"), "work", slog.New(slog.DiscardHandler))
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for i, pause := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		s.Note(now, os.ErrInvalid)
		next := now.Add(pause * time.Second)
		if got := s.read().next(now); !got.Equal(next) {
			t.Errorf("after failure %d: next at %s, want %s", i+1, got, next)
		}
		if s.Allows(next.Add(-time.Second)) == nil || s.Allows(next) != nil {
			t.Errorf("after failure %d: not refused until %s", i+1, next)
		}
		now = next
	}
	if err := s.Allows(now.Add(-time.Hour)); err != nil {
		t.Errorf("a clock set back: %v", err)
	}
	s.Note(now.Add(2*time.Hour), os.ErrInvalid)
	if f := s.read(); f.Count != 1 {
		t.Errorf("an old row of failures counts: %+v", f)
	}
	s.Note(now, nil)
	if err := s.Allows(now); err != nil {
		t.Errorf("after a success: %v", err)
	}
	if err := os.WriteFile(s.path, []byte("{"), 0o600); err != nil || s.Allows(now) != nil {
		t.Errorf("a torn stamp refuses: %v", err)
	}
}
