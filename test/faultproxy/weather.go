package faultproxy

import (
	"math/rand/v2"
	"net/http"
	"time"
)

// Weather is how often, in percent, and how badly a store behaves.
type Weather struct {
	Errors    int           // of requests: 500, 503, a reset, before or after the effect, or an effect that comes late
	Throttled int           // both bodies slow
	Delayed   int           // up to Delay
	Corrupted int           // a bit of either body turned on its way
	Delay     time.Duration // at most
	Slow      int           // bytes per second of a throttled body
}

// FoundationDB is the profile that its simulator is known for.
var FoundationDB = Weather{Errors: 25, Throttled: 30, Delayed: 15, Corrupted: 1, Delay: 10 * time.Second, Slow: 1 << 20}

// Faults deals the weather from a seed, one request after the other.
func (w Weather) Faults(seed uint64) func(*http.Request) Fault {
	random := rand.New(rand.NewPCG(seed, 3))
	percent := func(p int) bool { return random.IntN(100) < p }
	return func(r *http.Request) (f Fault) {
		if percent(w.Errors) {
			switch random.IntN(8) {
			case 0:
				f.Status, f.Code = http.StatusInternalServerError, "InternalError"
			case 1:
				f.Status, f.Code = http.StatusServiceUnavailable, "SlowDown"
			case 2:
				f.Status = http.StatusBadGateway // a page of something between us and the store
			case 3:
				f.Drop = true
			case 4:
				f.LoseReply = true
			case 5:
				f.LateStatus, f.Code = http.StatusInternalServerError, "InternalError"
			case 6:
				f.Truncate = 1 + random.Int64N(1<<16)
			case 7:
				f.Ghost = time.Duration(random.Int64N(int64(w.Delay)/4 + 1))
			}
		}
		if percent(w.Throttled) {
			f.Bandwidth = w.Slow
		}
		if percent(w.Delayed) {
			f.Delay = time.Duration(random.Int64N(int64(w.Delay)))
		}
		if percent(w.Corrupted) {
			if at := 1 + random.Int64N(max(1, r.ContentLength)); r.ContentLength > 0 {
				f.CorruptRequest = at
			} else {
				f.Corrupt = 1 + random.Int64N(1<<16)
			}
		}
		return f
	}
}
