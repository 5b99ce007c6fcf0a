package keep_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestFill brings to the archive what a dead primary could not: from its own disk, and
// from a standby; and never a segment that is valid in part (R2).
func TestFill(t *testing.T) {
	w := newWorld(t)
	primary := w.primary()
	a, b := primary.standby(), primary.standby()
	for _, n := range []*node{primary, a, b} {
		n.configure("fill_after: 1s")
	}
	own := primary.segments(3)
	primary.Stop("immediate")
	primary.start()
	w.has(own...)
	primary.stop()
	primary.Start()
	a.streams()
	b.streams()

	a.start()
	b.start()
	names := primary.segments(4)
	primary.Exec("insert into t select generate_series(1, 1000)")
	var fork string
	primary.QueryRow("select pg_walfile_name(pg_current_wal_lsn())", &fork)
	a.catches(primary)
	b.catches(primary)
	primary.Kill9()
	w.has(names...)
	if a.said("fill.stored")+b.said("fill.stored") < len(names) {
		t.Errorf("%d and %d files were filled", a.said("fill.stored"), b.said("fill.stored"))
	}

	// The follower keeps the fork's segment under the former name.
	a.Exec("select pg_promote()")
	b.follow(a)
	a.archives(a.archiveCommand())
	more := a.segments(3)
	b.catches(a)
	w.has(append(more, "00000002.history")...)
	if info, err := os.Stat(filepath.Join(b.DataDir, "pg_wal", fork)); err != nil || info.Size() != 1<<20 || slices.Contains(names, fork) {
		t.Errorf("no fork segment on the follower: the test shows nothing: %s, %v, %v", fork, info, err)
	}
	b.until(30*time.Second, "a round of the follower behind the fork", func(s daemon.Status) bool {
		return s.Keep != nil && s.Keep.Frontier.Name() > more[0]
	})
	stored := b.said("fill.stored")
	more = append(more, a.segments(1)...)
	w.has(more...)
	b.until(30*time.Second, "another round of it", func(s daemon.Status) bool { return s.Keep.Frontier.Name() > more[len(more)-1] })
	if got := w.archived(); slices.Contains(got, fork) || !slices.Contains(got, "00000002"+fork[8:]) {
		t.Errorf("the fork's segment %s of the former timeline is archived, or that of the new one is not: %v; %d were filled", fork, got, stored)
	}
	lab.Poll(t, 20*time.Second, "the slot of the promoted to be given up", func() error {
		var slots int
		if a.QueryRow("select count(*) from pg_replication_slots where slot_name ~ '^pgha_keep_'", &slots); slots != 0 {
			return errNotYet
		}
		return nil
	})
	if a.said("keep.ended") != 1 || strings.Contains(read(t, a.daemon.Log), "keep.broken") {
		t.Errorf("keep.ended %d times, or keep.broken", a.said("keep.ended"))
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
