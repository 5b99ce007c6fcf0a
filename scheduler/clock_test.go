package scheduler

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A clock that goes back does nothing twice and reports nothing that has not come yet;
// one that goes ahead leaves reports.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		var mu sync.Mutex
		var skew time.Duration
		jump := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			skew = d
		}
		r := &Runner{Now: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(skew)
		}}
		runs(t, r, w.job(t, "0 * * * *"))
		until("01:10")
		jump(-65 * time.Minute)
		until("02:01") // 00:56 on its clock
		w.want(t, "00:00 run 00:00", "01:00 run 01:00")
		jump(0)
		until("02:02")
		jump(3 * time.Hour)
		until("02:03")
		const unseen = "missed: nothing looked at it before the next time had come"
		w.want(t, "00:00 run 00:00", "01:00 run 01:00", "02:00 run 02:01", "03:00 "+unseen, "04:00 "+unseen, "05:00 run 02:02")
		jump(0)
		until("02:30")
		w.want(t, "00:00 run 00:00", "01:00 run 01:00", "02:00 run 02:01", "03:00 "+unseen, "04:00 "+unseen, "05:00 run 02:02")
	})
}

// What passes while no process lives is reported by the next one, within the horizon.
func TestRemembers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "schedules.json")
	synctest.Test(t, func(t *testing.T) {
		var w world
		j := w.job(t, "0 * * * *")
		stop := runs(t, &Runner{File: file}, j)
		until("00:10")
		stop()
		until("03:30")
		stop = runs(t, &Runner{File: file}, j)
		until("03:40")
		const unseen = "missed: nothing looked at it before the next time had come"
		w.want(t, "00:00 run 00:00", "01:00 "+unseen, "02:00 "+unseen, "03:00 run 03:30")
		stop()
		until("07:30")
		j.Horizon = 151 * time.Minute
		stop = runs(t, &Runner{File: file}, j)
		until("07:40")
		w.want(t, "00:00 run 00:00", "01:00 "+unseen, "02:00 "+unseen, "03:00 run 03:30", "05:00 "+unseen, "06:00 "+unseen, "07:00 run 07:30")
		stop()
		until("10:30")
		j.Timetable = timetable(t, "30 * * * *", "UTC") // not what it was: nothing was missed
		stop = runs(t, &Runner{File: file}, j)
		until("10:31")
		w.want(t, "00:00 run 00:00", "01:00 "+unseen, "02:00 "+unseen, "03:00 run 03:30", "05:00 "+unseen, "06:00 "+unseen, "07:00 run 07:30", "10:30 run 10:30")
		stop()
		for _, text := range []string{"null", "{", `{"test":null}`, `{"test":{"at":"2100-01-01T00:30:00Z","next":"2100-01-01T01:30:00Z"}}`, `{"test":{"at":"0001-01-01T00:00:00Z"}}`} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			stop = runs(t, &Runner{File: file}, j)
			synctest.Wait()
			stop()
		}
		if w.mu.Lock(); len(w.events) != 8 {
			t.Errorf("%q", w.events)
		}
		w.mu.Unlock()
	})
}

// When the job began to be may become known later: what was due before is dropped.
func TestFromComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w world
		r := &Runner{}
		j := w.job(t, "0 * * * *")
		var ready atomic.Bool
		j.Turn = func(context.Context, time.Time) (bool, string, error) { return ready.Load(), "not read yet", nil }
		runs(t, r, j)
		until("00:01")
		j.From = midnight.Add(time.Second)
		r.SetJobs([]Job{j})
		ready.Store(true)
		until("01:30")
		w.want(t, "01:00 run 01:00")
	})
}
