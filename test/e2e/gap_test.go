package e2e

import (
	"testing"
	"time"
)

// TestNoGap is one round of the campaign, and its control: the store is down while the
// standbys have more than three restartpoints, and then the leader dies for good.
func TestNoGap(t *testing.T) {
	for name, c := range map[string]gapCase{
		"everything": {everything, torn, closed, atPromotion},
		"nothing":    {means{}, long, silent, atPromotion},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			unbroken(t, c, c.means == everything)
		})
	}
}

// unbroken plays a case, and insists that the archive is whole afterwards, or is not.
func unbroken(t *testing.T, c gapCase, whole bool) *failedOver {
	t.Log(c)
	f := failover(gapWorld(t, c.means), c)
	t.Logf("%s died, %s leads; the archive lacked %d files: %v", f.dead.Name, f.next.Name, len(f.backlog), f.backlog)
	f.goesOn()
	f.settled()
	f.acknowledged()
	t.Logf("%d files were acknowledged; the archive lacks %v for good, of which %d lie about on members", f.acked, f.lost, f.about)
	f.seen()
	if len(f.lost) == 0 {
		f.cluster.WaitHealthy(time.Minute)
		f.restores()
	}
	if (len(f.lost) == 0) != whole {
		t.Errorf("%s: the archive lacks %v", c, f.lost)
	}
	return f
}
