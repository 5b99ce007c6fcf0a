package store_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

// TestStoreSlice has the store refuse, lie and be late, works in FoundationDB's weather, and
// kills the server around a request of each command: another one each time.
func TestStoreSlice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	w.pushes()
	w.credentials()
	w.lists()
	w.clocks()
	short := faultproxy.FoundationDB
	short.Delay, short.Slow = 300*time.Millisecond, 8<<20
	w.report(w.storm("weather", short, seed>>12, 0))
	for _, c := range w.commands() {
		w.count(c)
		t.Logf("%s: %d requests", c.name, len(c.requests))
		w.report(w.around(c, 1+random.IntN(len(c.requests)), moments[random.IntN(len(moments))], seed))
	}
}

func (w *world) report(r result) {
	w.Helper()
	w.Logf("%s (%s): struck %t, exits %d, next %d, %d uploads left, %.1f s", r.Name, r.Request, r.Struck, r.Code, r.Next, r.Uploads, r.Seconds)
	if len(r.Faults) > 0 {
		w.Errorf("%s (%s), exit %d:\n%s\n%s", r.Name, r.Request, r.Code, strings.Join(r.Faults, "\n"), r.Output)
	}
}
