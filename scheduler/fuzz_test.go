package scheduler

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Whatever the file of marks says, what is taken for settled is a time of the timetable
// that has passed.
func FuzzMarks(f *testing.F) {
	f.Add([]byte(`{"nightly":{"at":"2026-11-21T02:00:00Z","next":"2026-11-22T02:00:00Z"}}`))
	f.Add([]byte(`{"nightly":{"at":"9999-11-21T02:00:00Z","next":"2026-11-22T02:00:00Z"}}`))
	f.Add([]byte(`null`))
	table := timetable(f, "0 2 * * *", "UTC")
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "marks")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		now := at(t, "2026-11-21T05:00:00Z")
		m := readMarks(path, slog.New(slog.DiscardHandler))
		p := m.of(Job{Name: "nightly", Timetable: table}, now)
		if p.settled && (p.at.After(now) || p.at.UTC().Format(time.TimeOnly) != "02:00:00") {
			t.Errorf("%+v", p)
		}
		m.set("nightly", mark{At: now, Next: now})
		if again := readMarks(path, slog.New(slog.DiscardHandler)); !again.all["nightly"].At.Equal(now) && m.all["nightly"].At.Year() < 9999 {
			t.Errorf("%+v", again.all)
		}
	})
}
