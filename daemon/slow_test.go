package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// A backup that outlasts its period is no missed one: its run holds the claim.
func TestSlowBackupIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = func() time.Duration { return 80 * time.Second }
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("replica")).end()
		}
		time.Sleep(6 * time.Minute)
		missed, err := catalog.New(w.store, catalog.Location{Scope: "main", System: 7}, catalog.Options{}).MissedIDs(t.Context())
		if err != nil || len(w.taken()) == 0 {
			t.Fatal(err, w.taken())
		}
		for _, id := range missed {
			if w.by(id) != "" {
				t.Errorf("%s was taken and reported as missed", id)
			}
		}
	})
}
