package backoff

import (
	"log/slog"
	"os"
	"testing"
	"time"
)

// Whatever stands in the file, an attempt is put off for minutes at the most.
func FuzzStamp(f *testing.F) {
	f.Add([]byte(`{"count":3,"last":"2026-11-21T02:00:00Z","error":"x"}`))
	f.Add([]byte(`{"count":-3,"last":"2026-11-21T02:00:00Z"}`))
	f.Add([]byte(`{"count":9223372036854775807,"last":"2026-11-21T02:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		now := time.Date(2026, 11, 21, 2, 0, 5, 0, time.UTC)
		s := New(t.TempDir(), "x", slog.New(slog.DiscardHandler))
		if err := os.WriteFile(s.path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if next := s.read().next(now); next.Sub(now) > longestPause {
			t.Errorf("put off until %s", next)
		}
		if err := s.Allows(now.Add(longestPause)); err != nil {
			t.Error(err)
		}
	})
}
