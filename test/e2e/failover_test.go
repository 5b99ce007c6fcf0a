package e2e

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestFailoverBetweenStopAndCommit kills the leader for good while its backup waits
// for the WAL it needs. Whatever becomes of that backup, what is listed is
// restorable, the next one works, and the former leader joins again.
func TestFailoverBetweenStopAndCommit(t *testing.T) {
	w := newWorld(t, worldOptions{proxied: true, extra: "backup: {wal_timeout: 90s}\n"})
	journal := t.TempDir()
	leader := w.cluster.Leader()
	w.marker().mark("first")
	stop := w.work(journal)

	// WAL goes through until the copy is under way, and from then on nothing does.
	ended := make(chan result, 1)
	go func() { ended <- w.do(leader, "backup", "--format", "json") }()
	lab.Poll(t, time.Minute, "the first pack in the store", func() error { return w.stored("base-0001.tar") })
	w.proxy.Set(faultproxy.Rule{Method: http.MethodPut, Match: "/wal/", Fault: faultproxy.Fault{Status: 503}})
	refused := func() error {
		if w.proxy.Count(http.MethodPut, "/wal/") < 3 {
			return errNotYet
		}
		return nil
	}
	lab.Poll(t, time.Minute, "pushes that the store refuses", refused)
	dead, next := w.cluster.Failover()
	t.Logf("%s is dead, %s leads", dead.Name, next.Name)
	w.proxy.Set()
	first := <-ended
	t.Logf("the backup under way ended with %d: %s", first.code, first.stderr)
	stop()
	m := w.marker()
	m.mark("second")

	var manifest catalog.Manifest
	if first.code == 0 {
		if err := json.Unmarshal([]byte(first.stdout), &manifest); err != nil {
			t.Fatal(err)
		}
	}
	var list struct {
		Backups []struct{ ID catalog.BackupID }
	}
	if err := json.Unmarshal([]byte(w.must(next, "list", "--format", "json").stdout), &list); err != nil {
		t.Fatal(err)
	}
	if (first.code == 0) != (len(list.Backups) == 1 && list.Backups[0].ID == manifest.ID) {
		t.Fatalf("exit %d, and listed are %+v", first.code, list.Backups)
	}
	if first.code == 0 {
		w.restoreAndStart(next, "--target-immediate", "--backup", string(manifest.ID)).stop()
	}

	second := w.backup(next)
	m.mark("third")
	m.archived()
	r := w.restoreAndStart(next)
	if got := r.marks(); got != "first second third" {
		t.Errorf("the copy holds %q", got)
	}
	r.judge(journal, w.commits(2))

	// pg_rewind brings the former leader back, through our restore_command.
	dead.Start()
	w.cluster.WaitHealthy(2 * time.Minute)
	// The archive as a whole may have a gap now: what the dead leader could not push.
	w.must(dead, "verify", string(second.ID), "--level", "full")
}
