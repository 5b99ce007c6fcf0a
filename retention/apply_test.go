package retention

import (
	"errors"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/verify"
)

var two = Policy{Keep: 2, Minimum: 1, Grace: time.Hour, Garbage: 48 * time.Hour}

// ripe is a repository in which one expiry hides two backups and removes another,
// an unfinished run, WAL, a partial segment and a conflict.
func ripe(t *testing.T) *world {
	w := newWorld(t)
	w.start("")
	w.wal(1)
	w.backup(2, "")
	conflict := postgres.WALFile{Kind: postgres.WALSegment, Segment: seg(1, 1)}
	if _, err := w.repo(w.store).PutWAL(t.Context(), conflict, []byte("other"), &postgres.SegmentFacts{}); err == nil {
		t.Fatal("want a conflict")
	}
	w.branch(1, w.next[1])
	w.wal(2)
	w.backup(1, "")
	time.Sleep(50 * time.Hour)
	w.backup(1, "")
	if _, out, err := w.expire(w.store, two); err != nil || len(out.Hidden) != 1 || len(out.Runs) != 1 || out.WAL != 2 {
		t.Fatal(out, err)
	}
	time.Sleep(2 * time.Hour)
	w.start("")
	w.backup(1, "")
	w.backup(2, "")
	time.Sleep(49 * time.Hour)
	return w
}

var runID = regexp.MustCompile(`/[0-9a-f]{8}/`)

func (w *world) names() []string {
	var found []string
	for key := range w.keys() {
		if strings.Contains(key, "/report/clock/") {
			continue // an asking for the time that was cut short leaves it
		}
		found = append(found, runID.ReplaceAllString(key, "/RUN/"))
	}
	return slices.Sorted(slices.Values(found))
}

// Whatever call fails, or from whatever call on all do: what is there is whole, and
// the next expiry ends where an undisturbed one would have.
func TestInterrupted(t *testing.T) {
	var want, calls []string
	synctest.Test(t, func(t *testing.T) {
		w := ripe(t)
		bucket := faulty.New(w.store, nil)
		if plan, out, err := w.expire(bucket, two); err != nil || len(out.Hidden) != 2 || len(out.Removed) != 1 || len(out.Runs) != 1 || out.WAL < 3 {
			t.Fatalf("%+v\n%+v %v", plan, out, err)
		}
		want, calls = w.names(), bucket.Calls()
	})
	lost := errors.New("the connection is lost")
	for i, call := range calls {
		faults := []faulty.Plan{faulty.Nth(i+1, lost)}
		if strings.HasPrefix(call, "put") || strings.HasPrefix(call, "delete") {
			faults = append(faults, faulty.NthAfter(i+1, lost), faulty.From(i+1, lost))
		}
		for _, fault := range faults {
			synctest.Test(t, func(t *testing.T) {
				w := ripe(t)
				if _, _, err := w.expire(faulty.New(w.store, fault), two); err == nil {
					t.Errorf("call %d, %s, failed, and nobody said so", i+1, call)
				}
				w.whole(call)
				for range 3 {
					if _, _, err := w.expire(w.store, two); err != nil {
						t.Fatalf("after %s failed: %v", call, err)
					}
				}
				w.whole(call)
				if got := w.names(); !slices.Equal(got, want) {
					t.Errorf("%s: left are\n%s\nwant\n%s", call, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		}
		if t.Failed() {
			return
		}
	}
}

// whole: every backup that is there has all that it needs.
func (w *world) whole(failed string) {
	w.Helper()
	repo := w.repo(w.store)
	archive, err := repo.Archive(w.Context())
	w.must(err)
	inventory, err := repo.Inventory(w.Context())
	w.must(err)
	for _, b := range inventory.Backups {
		if b.Manifest == nil {
			continue
		}
		v := &verify.Verifier{Repository: repo, Archive: archive, Level: verify.Presence}
		err := v.Backup(w.Context(), *b.Manifest)
		if found, _ := v.Found(); err != nil || len(found) > 0 {
			w.Errorf("%s failed: backup %s is there and not whole: %v %v", failed, b.ID, found, err)
		}
	}
}

// What takes hold of a backup between plan and tombstone, or between plan and
// removal, keeps it, with all its WAL.
func TestLastMoment(t *testing.T) {
	for name, take := range map[string]func(w *world, id catalog.BackupID){
		"a hold": func(w *world, id catalog.BackupID) {
			w.must(w.repo(w.store).Hold(w.Context(), catalog.Hold{Backup: id, Name: "hold", Reason: "court", By: "me", At: time.Now()}))
		},
		"a restore": func(w *world, id catalog.BackupID) {
			release := w.repo(w.store).HoldForRestore(w.Context(), id, "me", slog.New(slog.DiscardHandler))
			w.Cleanup(release)
		},
		"a running child":   func(w *world, id catalog.BackupID) { w.start(id) },
		"a committed child": func(w *world, id catalog.BackupID) { w.backup(1, id) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := ripe(t)
				before := w.look()
				f, err := Gather(t.Context(), w.repo(w.store))
				w.must(err)
				plan, err := NewPlan(f, two, time.Now())
				w.must(err)
				taken := []catalog.BackupID{w.backups[1].ID}
				if name == "a hold" || name == "a restore" { // a hidden one can still be held, and a restore may have begun before
					taken = append(taken, w.backups[0].ID)
				}
				for _, id := range taken {
					take(w, id)
				}
				out, err := Apply(t.Context(), w.repo(w.store), plan, Options{})
				w.must(err)
				after := w.look()
				if slices.Sort(out.Withdrawn); !slices.Equal(out.Withdrawn, slices.Sorted(slices.Values(taken))) || len(out.Hidden) != 1 || out.WAL != 0 {
					t.Errorf("%+v", out)
				}
				for _, id := range taken {
					if i := slices.IndexFunc(w.backups, func(m catalog.Manifest) bool { return m.ID == id }); !after.visible[id] || !after.good(w.backups[i]) {
						t.Errorf("%s is hidden or not whole", id)
					}
				}
				if name != "a committed child" && !maps.Equal(before.segments, after.segments) {
					t.Error("WAL was removed")
				}
			})
		})
	}
}

// What another expiry shows again, by a longer policy, after this one has looked, as
// when this one was paused there, is not removed.
func TestShownByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := ripe(t)
		id, shown := w.backups[0].ID, false
		f, err := Gather(t.Context(), w.repo(w.store))
		w.must(err)
		plan, err := NewPlan(f, two, time.Now())
		w.must(err)
		store := faulty.New(w.store, func(call faulty.Call) (f faulty.Fault) {
			if call.Op == "list" && strings.HasSuffix(string(call.Key), "/hold/") && !shown { // its tombstone was seen just now
				shown = true
				f.Before = w.repo(w.store).Unexpire(t.Context(), id)
			}
			return f
		})
		out, err := Apply(t.Context(), w.repo(store), plan, Options{})
		w.must(err)
		if after := w.look(); !shown || !after.visible[id] || !after.good(w.backups[0]) || len(out.Removed) != 0 || out.WAL != 0 {
			t.Errorf("%s was shown again and is removed: %+v", id, out)
		}
	})
}

// A backup whose data is being removed cannot be held any more; one that is only
// hidden comes back.
func TestHoldOfHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := ripe(t)
		repo, id := w.repo(w.store), w.backups[0].ID
		h := catalog.Hold{Backup: id, Name: "hold", Reason: "court", By: "me", At: time.Now()}
		w.must(repo.Hold(t.Context(), h))
		if !w.look().visible[id] {
			t.Error("still hidden")
		}
		for range 2 {
			if plan, _, err := w.expire(w.store, two); err != nil || plan.Backups[0].Action != Keep {
				t.Errorf("%+v %v", plan.Backups[0], err)
			}
			time.Sleep(3 * time.Hour)
		}
		w.must(repo.Release(t.Context(), id, "hold"))
		_, _, err := w.expire(w.store, two)
		w.must(err)
		w.must(repo.BeginRemoval(t.Context(), id, catalog.Removal{Run: w.backups[0].Run}))
		if err := repo.Hold(t.Context(), h); !errors.Is(err, catalog.ErrExpired) {
			t.Errorf("hold of one that is being removed: %v", err)
		}
		if holds, err := repo.Holds(t.Context()); err != nil || len(holds) != 0 {
			t.Errorf("%v %v", holds, err)
		}
	})
}

// Tombstones stay when the data is gone, and go long after.
func TestAfterlife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := ripe(t)
		_, _, err := w.expire(w.store, two)
		w.must(err)
		repo, id := w.repo(w.store), w.backups[0].ID
		if taken, err := repo.Taken(t.Context(), id); err != nil || !taken || w.look().present[id] {
			t.Errorf("taken %t, %v", taken, err)
		}
		time.Sleep(401 * 24 * time.Hour)
		w.backup(1, "")
		plan, _, err := w.expire(w.store, two)
		w.must(err)
		if taken, err := repo.Taken(t.Context(), id); err != nil || taken || plan.Backups[0].Action != Forget {
			t.Errorf("taken %t, %v, %+v", taken, err, plan.Backups[0])
		}
	})
}

// A parent that was hidden before its child waits for it.
func TestChildrenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wal(1)
		parent := w.backup(1, "")
		child := w.backup(1, parent.ID)
		w.backup(1, "")
		policy := Policy{Keep: 1, Grace: time.Hour, Garbage: 48 * time.Hour}
		_, out, err := w.expire(w.store, policy)
		if w.must(err); len(out.Hidden) != 2 {
			t.Fatalf("%+v", out)
		}
		w.must(w.repo(w.store).Hold(t.Context(), catalog.Hold{Backup: child.ID, Name: "hold", Reason: "why", By: "me", Until: time.Now().Add(time.Minute)}))
		time.Sleep(2 * time.Hour)
		plan, out, err := w.expire(w.store, policy)
		if w.must(err); len(out.Removed) != 0 || plan.Backups[0].Action != Wait || !w.look().good(child) {
			t.Errorf("%+v", plan.Backups)
		}
		time.Sleep(2 * time.Hour)
		_, out, err = w.expire(w.store, policy)
		if w.must(err); !slices.Equal(out.Removed, []catalog.BackupID{child.ID, parent.ID}) {
			t.Errorf("%+v", out)
		}
	})
}

// A run is garbage when nothing came for long, however long ago it began (R16); until
// then its WAL stays.
func TestSlowRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wal(1)
		run, started := w.start("")
		for range 3 {
			time.Sleep(47 * time.Hour)
			pack, err := run.NewPack(t.Context(), catalog.PackName(0, 1+len(w.backups)))
			w.must(err)
			_, _, err = pack.Close()
			w.must(err)
			w.backup(1, "")
			plan, out, err := w.expire(w.store, Policy{Keep: 1, Garbage: 48 * time.Hour})
			w.must(err)
			if len(out.Runs) > 0 || plan.Runs[0].Action != Keep || !w.look().segments[seg(1, number(started.StartLSN)).Name()] {
				t.Fatalf("%+v", plan)
			}
		}
		time.Sleep(48 * time.Hour)
		for range 2 {
			if _, _, err := w.expire(w.store, Policy{Keep: 1, Garbage: 48 * time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
		if w.look().segments[seg(1, number(started.StartLSN)).Name()] || len(w.keys()) > 15 {
			t.Errorf("left: %v", w.names())
		}
	})
}
