package e2e

import "testing"

// TestNoGap is one round of the campaign, and its control: the store is down while
// the standbys make more than three restartpoints, and then the leader dies for good.
func TestNoGap(t *testing.T) {
	t.Run("all", func(t *testing.T) { unbroken(t, gapCase{all, long, closed, atPromotion}, true) })
	t.Run("nothing", func(t *testing.T) { unbroken(t, gapCase{means{}, short, silent, atPromotion}, false) })
}

// unbroken plays a case, and insists that the archive is whole afterwards, or is not.
func unbroken(t *testing.T, c gapCase, whole bool) (lost []string, about int) {
	t.Log(c)
	f := failover(gapWorld(t, c.means), c)
	t.Logf("%s died, %s leads; the archive lacked %d files: %v", f.dead.Name, f.next.Name, len(f.backlog), f.backlog)
	f.goesOn()
	lost, about = f.settled()
	acked := f.acknowledged()
	t.Logf("%d files were acknowledged; the archive lacks %v for good, of which %d lie about on members", acked, lost, about)
	f.seen(lost)
	if len(lost) == 0 {
		f.restores()
	}
	if (len(lost) == 0) != whole {
		t.Errorf("%s: the archive lacks %v", c, lost)
	}
	return lost, about
}
