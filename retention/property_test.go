package retention

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

var (
	seedFlag = flag.Uint64("seed", 0, "repeat the lives of this seed")
	lives    = flag.Int("lives", 16, "how many lives")
)

// TestLives expires again and again in random lives and asks the oracle each time.
func TestLives(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i := range *lives {
		seed := seed + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				w := newWorld(t)
				w.wal(2)
				p := randomPolicy(r)
				for range 4 {
					w.live(r, 8)
					if r.IntN(3) == 0 {
						p = randomPolicy(r)
					}
					w.judge(p)
					if t.Failed() {
						t.Logf("seed %d, policy %+v", seed, p)
						return
					}
				}
			})
		})
	}
}

// judge expires once and holds the outcome against what was before.
func (w *world) judge(p Policy) {
	w.Helper()
	before, keysBefore := w.look(), w.keys()
	archive, err := w.repo(w.store).Archive(w.Context())
	w.must(err)
	lost := numbers(archive.Missing())
	var good []catalog.Manifest // full ones, newest first
	for _, m := range slices.Backward(w.backups) {
		if before.good(m) && m.Type == catalog.Full {
			good = append(good, m)
		}
	}
	plan, out, err := w.expire(w.store, p)
	w.must(err)
	after, keysAfter := w.look(), w.keys()

	// The newest stay: by count, and the minimum.
	for i, m := range good[:min(len(good), max(1, p.Minimum, p.Keep))] {
		if !after.visible[m.ID] || !after.good(m) {
			w.Errorf("good backup %d, %s, is gone", i, m.ID)
		}
	}
	gone := 0
	for _, m := range w.backups {
		if before.visible[m.ID] && !after.visible[m.ID] {
			gone++
		}
		// What is there, hidden or not, is as whole as it was.
		if after.present[m.ID] && before.good(m) != after.good(m) {
			w.Errorf("backup %s was good and is not", m.ID)
		}
		if before.visible[m.ID] && !after.present[m.ID] {
			w.Errorf("backup %s was removed in one step", m.ID)
		}
	}
	if p.empty() && gone > 0 {
		w.Error("a backup expired without a rule")
	}

	// What could be replayed from a backup that stays can be still; of those that
	// count for WAL, if only some do.
	for _, m := range w.backups {
		i := slices.IndexFunc(good, func(g catalog.Manifest) bool { return g.ID == m.ID })
		if !after.present[m.ID] || p.WALFull > 0 && (i < 0 || i >= p.WALFull) {
			continue
		}
		w.points(func(t tli, n uint64) {
			if before.replays(m, t, n) && !after.replays(m, t, n) {
				w.Errorf("backup %s does not reach segment %d of timeline %d any more", m.ID, n, t)
			}
		})
	}
	// Every moment of the window that could be reached can be still.
	w.points(func(t tli, n uint64) {
		if p.Window > 0 && time.Since(w.times[seg(t, n)]) < p.Window && before.reachable(t, n) && !after.reachable(t, n) {
			w.Errorf("segment %d of timeline %d, archived %s ago, cannot be reached any more", n, t, time.Since(w.times[seg(t, n)]))
		}
	})
	// The living timeline can be restored if it could be.
	if n := w.next[w.newest]; n > 0 && before.reachable(w.newest, n-1) && !after.reachable(w.newest, n-1) {
		w.Errorf("the end of the living timeline %d cannot be reached any more", w.newest)
	}

	// Nobody takes what expired for a loss, and no loss is covered up where WAL stays.
	archive, err = w.repo(w.store).Archive(w.Context())
	w.must(err)
	still := numbers(archive.Missing())
	for s := range still {
		if !lost[s] {
			w.Errorf("%s counts as lost now", s)
		}
	}
	for s := range lost {
		follows := func(m catalog.Manifest) bool {
			return after.present[m.ID] && before.good(m) && number(m.StartLSN) <= s.Number(size) && w.on(s.Timeline, m.Timeline, number(m.StartLSN))
		}
		if !still[s] && !plan.gone(s) && slices.ContainsFunc(w.backups, follows) {
			w.Errorf("%s is lost, and does not count as such now", s)
		}
	}

	w.printed(plan, out, keysBefore, keysAfter)
	w.settled(p)
}

func numbers(gaps []catalog.Range) map[postgres.Segment]bool {
	all := map[postgres.Segment]bool{}
	for _, g := range gaps {
		for s, n := g.First, 0; n < g.Segments; s, n = s.Next(size), n+1 {
			all[s] = true
		}
	}
	return all
}

// points are all segments ever archived.
func (w *world) points(each func(t tli, n uint64)) {
	for s := range w.times {
		each(s.Timeline, s.Number(size))
	}
}

// printed: what the plan says is what was done.
func (w *world) printed(plan Plan, out Outcome, before, after map[string]bool) {
	w.Helper()
	if len(out.Withdrawn) > 0 {
		w.Errorf("withdrawn without a reason: %v", out.Withdrawn)
	}
	var hide, remove []catalog.BackupID
	for _, v := range plan.Backups {
		switch v.Action {
		case Hide:
			hide = append(hide, v.Backup)
		case Remove:
			remove = append(remove, v.Backup)
		}
		if len(v.Reasons) == 0 {
			w.Errorf("no reason for %s", v.Backup)
		}
	}
	slices.Reverse(remove)
	if !slices.Equal(hide, out.Hidden) || !slices.Equal(remove, out.Removed) {
		w.Errorf("planned to hide %v and remove %v, did %v and %v", hide, remove, out.Hidden, out.Removed)
	}
	for _, v := range plan.WAL {
		for s := v.First; ; s = s.Next(size) {
			key := fmt.Sprintf("main/77/wal/%s/%08X/%s", s.Timeline, s.Log, s.Name())
			if !before[key] || after[key] != (v.Action == Keep) {
				w.Errorf("%s: plan says %s, there before %t, after %t", key, v.Action, before[key], after[key])
			}
			if s == v.Last {
				break
			}
		}
	}
}

// settled: nothing is left to do but what time brings, and time brings nothing back.
func (w *world) settled(p Policy) {
	w.Helper()
	f, err := Gather(w.Context(), w.repo(w.store))
	w.must(err)
	plan, err := NewPlan(f, p, time.Now())
	w.must(err)
	if p.Grace > 0 && plan.Changes() {
		w.Errorf("a second plan still changes something: %+v", plan)
	}
	kept := map[catalog.BackupID]bool{}
	for _, v := range plan.Backups {
		kept[v.Backup] = v.Action == Keep || v.Action == Show
		if v.Action == Show {
			w.Errorf("%s is shown again", v.Backup)
		}
	}
	f.Clock = f.Clock.Add(77 * time.Hour)
	later, err := NewPlan(f, p, time.Now().Add(77*time.Hour))
	w.must(err)
	for _, v := range later.Backups {
		if v.Action == Show || v.Action == Keep && !kept[v.Backup] {
			w.Errorf("%s expired and comes back by waiting: %v", v.Backup, v.Reasons)
		}
	}
}
