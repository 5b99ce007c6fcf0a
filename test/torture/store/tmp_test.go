package store_test

import (
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

func TestTmpPlants(t *testing.T) {
	w := newWorld(t)
	w.report(w.storm("plant", faultproxy.Weather{Errors: 25, Corrupted: 12, Delay: 200 * time.Millisecond}, 5, 0))
	for _, c := range w.commands() {
		if c.name == "expire" || c.name == "list" || c.name == "get the end" {
			w.count(c)
			for n := 1; n <= min(6, len(c.requests)); n += 2 {
				w.report(w.around(c, n, faultproxy.BeforeRequest, 3))
			}
		}
	}
}
