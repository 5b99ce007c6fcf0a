package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// TestSeventeen is a full cycle on PostgreSQL 17, whose backup_manifest has another
// version and whose control file another layout.
func TestSeventeen(t *testing.T) {
	w := newWorld(t, worldOptions{major: 17, members: 2, etcd: 1})
	leader := w.cluster.Leader()
	m := w.marker()
	m.mark("before")
	journal := t.TempDir()
	stop := w.work(journal)
	backup := w.backup(leader)
	if backup.Version.Major() != 17 || backup.Damaged() {
		t.Fatalf("the backup: %+v", backup)
	}
	m.mark("a")
	b := m.mark("b")
	m.mark("c")
	stop()
	// The archive goes on through a switchover; the target lies before it.
	w.cluster.Switchover(w.cluster.Replicas()[0])
	m = w.marker()
	d := m.mark("d")
	m.mark("e")
	m.archived()
	commits := w.commits(1, 2)

	for target, want := range map[string]string{stamp(b.at): "before a b", stamp(d.at): "before a b c d"} {
		r := w.restoreAndStart(leader, "--target-time", target)
		if got := r.marks(); got != want {
			t.Errorf("the copy of %s holds %q, want %q", target, got, want)
		}
		t.Logf("ledger: %+v", r.judge(journal, commits))
		content, err := os.ReadFile(filepath.Join(r.dir, "backup_manifest"))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := postgres.ParseBackupManifest(content)
		if err != nil || manifest.Version != 2 || manifest.System != backup.System {
			t.Errorf("backup_manifest of version %d and system %s, want 2 and %s: %v", manifest.Version, manifest.System, backup.System, err)
		}
	}
}
