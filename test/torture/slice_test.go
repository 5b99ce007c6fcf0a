package torture

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestCrashSlice runs some points of each situation: other ones each time.
func TestCrashSlice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t)
	for _, s := range w.scenarios() {
		began := time.Now()
		w.refer(s)
		for i := range 3 {
			w.report(s, w.attempt(s, seed, i))
		}
		t.Logf("%s: %d calls, %s", s.name, len(s.reference), time.Since(began).Round(time.Millisecond))
	}
}

// report fails the test for what a point has shown.
func (w *world) report(s *scenario, r result) {
	if len(r.Faults) > 0 {
		w.Errorf("%s point %d of seed %d (%s #%d of %s, %s): %s at %s, next run exits %d\n%s\n%s", s.name, r.Index, r.Seed, r.How, r.N, r.Of, r.Errno,
			r.End, r.Call, r.Next, listed(r.Faults), r.Output)
	}
}
