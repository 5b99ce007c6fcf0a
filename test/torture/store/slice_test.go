package store_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

// TestStoreSlice has the store refuse, lie and be late, works in FoundationDB's weather, and
// kills the server around a request of some commands: others each time.
func TestStoreSlice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	w.part("pushes", w.pushes)
	w.part("gets", w.gets)
	w.part("credentials", w.credentials)
	w.part("lists", w.lists)
	w.part("refusals", w.refusals)
	w.part("clocks", w.clocks)
	short := faultproxy.FoundationDB
	short.Delay, short.Slow = 100*time.Millisecond, 8<<20
	w.part("weather", func() { w.report(w.storm("weather", short, seed>>12, 0)) })
	w.part("kills", func() {
		all := w.commands()
		for _, i := range random.Perm(len(all))[:5] {
			c := all[i]
			w.count(c)
			w.Logf("%s: %d requests", c.name, len(c.requests))
			n, at := random.IntN(len(c.requests)), moments[random.IntN(len(moments))]
			for bodiless(c.requests[n], at) {
				at = moments[random.IntN(len(moments))]
			}
			w.report(w.around(c, n+1, at, seed))
		}
	})
}

// part makes a subtest of a part.
func (w *world) part(name string, f func()) {
	all := w.T
	defer func() { w.T = all }()
	all.Run(name, func(t *testing.T) {
		w.T = t
		f()
	})
}

func (w *world) report(r result) {
	w.Helper()
	w.Logf("%s (%s): struck %t, exits %d, next %d, %d uploads left, %.1f s", r.Name, r.Request, r.Struck, r.Code, r.Next, r.Uploads, r.Seconds)
	if len(r.Faults) > 0 {
		w.Errorf("%s (%s), exit %d:\n%s\n%s", r.Name, r.Request, r.Code, strings.Join(r.Faults, "\n"), r.Output)
	}
}
