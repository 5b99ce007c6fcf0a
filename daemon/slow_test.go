package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
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

// Nights on which no daemon ran are reported, however long ago: a tombstone tells
// for a year whether there was a backup.
func TestNightsWithoutDaemons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.marks = filepath.Join(t.TempDir(), "schedules.json")
		nightly := minutely(cluster.FromLeader)
		nightly.Name, nightly.Cron = "nightly", "0 2 * * *"
		n := w.start("n1", nightly)
		time.Sleep(36 * time.Hour)
		n.end()
		time.Sleep(96 * time.Hour)
		n = w.start("n1", nightly)
		time.Sleep(time.Hour)
		n.end()
		missed, err := n.opener(7).MissedIDs(t.Context())
		want := []catalog.BackupID{"20000103T020000Z-nightly", "20000104T020000Z-nightly", "20000105T020000Z-nightly"}
		if err != nil || !slices.Equal(missed, want) || len(w.commits) != 3 {
			t.Errorf("%v: missed %v, want %v; taken %v", err, missed, want, w.commits)
		}
	})
}

// Where the chosen member cannot do it, another one does, within the same time.
func TestAnotherTakesWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := minutely(cluster.FromReplica)
		c.RetryDelay = 10 * time.Minute
		defer w.start("n1", c).end()
		defer w.start("n2", c, func(s *service) {
			s.take = func(context.Context, task) (catalog.Manifest, error) {
				return catalog.Manifest{}, errors.New("the disk is sick")
			}
		}).end()
		defer w.start("n3", c).end()
		time.Sleep(5*time.Minute + 30*time.Second)
		synctest.Wait()
		if missed := w.judge(w.created, 5); missed > 0 {
			t.Errorf("%d of 5 were missed", missed)
		}
		for id, by := range w.commits {
			if by != "n3 of n3" {
				t.Errorf("%s was taken by %s", id, by)
			}
		}
	})
}
