package retention

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
)

// at sleeps until a time of the bubble's clock, which begins in 2000.
func (w *world) at(text string) *world {
	w.Helper()
	t, err := time.Parse("2006-01-02 15:04", text)
	w.must(err)
	time.Sleep(time.Until(t))
	return w
}

// Backups by their day and hour, and which of them a policy keeps.
func TestRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, day := range []string{"2000-01-02 02:00", "2000-01-03 02:00", "2000-01-31 02:00", "2000-01-31 20:00", "2000-02-01 02:00", "2000-02-06 02:00",
			"2000-02-07 02:00", "2000-02-07 14:00", "2000-12-31 02:00", "2001-01-01 02:00"} {
			w.at(day).backup(1, "")
			w.wal(1)
		}
		w.at("2001-01-02 00:00")
		f, err := Gather(t.Context(), w.repo(w.store))
		w.must(err)
		for _, c := range []struct {
			name string
			Policy
			want string // indices of what is kept
		}{
			{"nothing configured", Policy{}, "0123456789"},
			{"count", Policy{Keep: 3}, "789"},
			{"count of more than there are", Policy{Keep: 30}, "0123456789"},
			{"minimum", Policy{Daily: 1, Minimum: 2}, "89"},
			{"the newest good one in any case", Policy{Yearly: 1}, "9"},
			{"daily: the newest of each day, empty days do not count", Policy{Daily: 4}, "5789"},
			{"weekly: ISO weeks, Monday to Sunday", Policy{Weekly: 4}, "5789"},
			{"monthly", Policy{Monthly: 4}, "3789"},
			{"yearly", Policy{Yearly: 2}, "89"},
			{"window: the one before it stays", Policy{Window: 24 * time.Hour}, "89"},
			{"a minute longer, counted from the newest moment, not from now", Policy{Window: 24*time.Hour + time.Minute}, "789"},
			{"longer window", Policy{Window: 330 * 24 * time.Hour}, "56789"},
			{"all together", Policy{Keep: 1, Monthly: 3, Yearly: 1, Window: time.Hour}, "789"},
		} {
			c.Garbage = time.Hour
			plan, err := NewPlan(f, c.Policy, time.Now())
			w.must(err)
			var kept []string
			for i, v := range plan.Backups {
				if v.Action == Keep {
					kept = append(kept, string(rune('0'+i)))
				}
			}
			want := strings.Split(c.want, "")
			if slices.Sort(want); !slices.Equal(kept, want) {
				t.Errorf("%s: kept %v, want %v", c.name, kept, want)
			}
		}
	})
}

// The words that a person reads.
func TestReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wal(1)
		w.backup(1, "")
		held := w.backup(1, "")
		w.backup(1, "", catalog.Damage{Path: "base/1/1", Blocks: []uint32{1}})
		w.at("2000-01-05 00:00").backup(1, "")
		w.wal(1)
		w.backup(1, "")
		w.backup(1, "", catalog.Damage{Path: "base/1/1", Blocks: []uint32{1}})
		w.start(held.ID)
		w.must(w.repo(w.store).Hold(t.Context(), catalog.Hold{Backup: held.ID, Name: "hold", Reason: "court", By: "jane", At: time.Now(),
			Until: time.Now().Add(time.Hour)}))
		plan, _, err := w.expire(w.store, Policy{Window: time.Minute, Weekly: 1, WALFull: 1, Garbage: time.Hour})
		w.must(err)
		var lines []string
		for _, v := range append(plan.Backups, plan.Runs...) {
			lines = append(lines, string(v.Action)+": "+strings.Join(v.Reasons, "; ")+"|"+v.Fault)
		}
		for _, v := range plan.WAL {
			lines = append(lines, string(v.Action)+" "+v.First.Name()[20:]+"-"+v.Last.Name()[20:]+": "+v.Reason)
		}
		want := `hide: no rule keeps it|
keep: held by jane until 2000-01-05T01:04:00Z: court; parent of 20000105T000400Z-x7, which is running|
hide: no rule keeps it|the server had bad pages
keep: the window of timeline 1 begins after it|
keep: at least 1 stay; the newest good one on timeline 1; inside the window since 2000-01-05T00:02:00Z; weekly 2000-W01|
keep: is younger than 20000105T000200Z-x5|the server had bad pages
keep: never committed; its newest object is younger than 1h0m0s|
remove 0001-0001: nothing that stays leads to it
keep 0002-0008: follows 20000101T000100Z-x1`
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wal(1)
		w.backup(1, "")
		policy := Policy{Keep: 1, Garbage: time.Hour}
		for name, c := range map[string]struct {
			change func(f *Facts, now *time.Time)
			want   string
		}{
			"our clock is ahead": {func(f *Facts, now *time.Time) { *now = now.Add(61 * time.Minute) },
				"expire nothing: this host's clock and the store's differ by 1h1m0s"},
			"our clock is behind": {func(f *Facts, now *time.Time) { *now = now.Add(-2 * time.Minute); f.Clock = *now },
				"expire nothing: it is 2000-01-01T00:00:00Z here, and backup 20000101T000100Z-x1 ended at 2000-01-01T00:02:00Z"},
			"a conflict of histories": {func(f *Facts, now *time.Time) { f.Conflicts = []string{"00000002.history"} },
				"expire nothing: two contents of 00000002.history are kept"},
			"a lost history": {func(f *Facts, now *time.Time) {
				w.put(postgres.WALSegment, seg(3, 5))
				*f, _ = Gather(t.Context(), w.repo(w.store))
			}, "expire nothing: 00000003.history is not in the archive: nobody knows which backups lead to its WAL"},
		} {
			f, err := Gather(t.Context(), w.repo(w.store))
			w.must(err)
			now := time.Now()
			c.change(&f, &now)
			_, err = NewPlan(f, policy, now)
			refused, ok := errors.AsType[*RefusedError](err)
			if !ok || err.Error() != c.want || refused.Hint() == "" {
				t.Errorf("%s: %v", name, err)
			}
			w.must(errors.Join(w.store.Delete(t.Context(), "main/77/wal/00000003/00000000/"+storage.Key(seg(3, 5).Name()))))
		}
	})
}

// shortLists is a store whose lists lack what hide tells to, in the n-th list of a prefix.
type shortLists struct {
	storage.Bucket
	hide  func(n int, key string) bool
	lists map[storage.Key]int
}

func (s *shortLists) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	s.lists[prefix]++
	n := s.lists[prefix]
	return func(yield func(storage.Object, error) bool) {
		for o, err := range s.Bucket.List(ctx, prefix, after) {
			if err == nil && s.hide(n, string(o.Key)) {
				continue
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// A short list is found out, whatever it lacks; it never makes a good backup a bad one.
func TestShortLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wal(1)
		w.backup(3, "")
		w.branch(1, w.next[1])
		w.backup(1, "")
		w.must(w.repo(w.store).Hold(t.Context(), catalog.Hold{Backup: w.backups[0].ID, Name: "hold", Reason: "why", By: "me"}))
		for name, hide := range map[string]func(n int, key string) bool{
			"a manifest, the second time": func(n int, key string) bool { return n == 2 && strings.HasSuffix(key, "manifest.json") },
			"a hold, the second time":     func(n int, key string) bool { return n == 2 && strings.Contains(key, "/hold/") },
			"a pack, always":              func(n int, key string) bool { return strings.HasSuffix(key, ".tar") },
			"a segment of a backup":       func(n int, key string) bool { return strings.HasSuffix(key, seg(1, 3).Name()) },
			"all below a point of a list": func(n int, key string) bool {
				return strings.Contains(key, "/wal/") && key > "main/77/wal/00000001/00000000/000000010000000000000003"
			},
			"a timeline, the first time":   func(n int, key string) bool { return n <= 2 && strings.Contains(key, "/wal/00000002") },
			"a repository that is no more": func(n int, key string) bool { return strings.Contains(key, "x1/") && n == 2 },
		} {
			_, err := Gather(t.Context(), w.repo(&shortLists{w.store, hide, map[storage.Key]int{}}))
			if err == nil {
				t.Errorf("without %s nobody noticed", name)
			}
		}
		_, err := Gather(t.Context(), w.repo(&shortLists{w.store, func(int, string) bool { return false }, map[storage.Key]int{}}))
		w.must(err)
	})
}

// Any call that fails ends Gather, and nothing was changed but the clock's own object.
func TestGatherFailsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wal(1)
		w.backup(1, "")
		w.must(w.repo(w.store).Hold(t.Context(), catalog.Hold{Backup: w.backups[0].ID, Name: "hold", Reason: "why", By: "me"}))
		w.start("")
		for n := 1; ; n++ {
			bucket := faulty.New(w.store, faulty.Nth(n, errors.New("lost")))
			_, err := Gather(t.Context(), w.repo(bucket))
			if calls := bucket.Calls(); len(calls) < n {
				w.must(err)
				break
			} else if err == nil {
				t.Errorf("call %d, %s, failed, and nobody said so", n, calls[n-1])
			}
		}
		// Without the right to write there is a plan to look at, and nothing to apply.
		denied := faulty.New(w.store, faulty.On("put", faulty.From(1, storage.ErrDenied)))
		f, err := Gather(t.Context(), w.repo(denied))
		w.must(err)
		plan, err := NewPlan(f, Policy{Keep: 1, Garbage: time.Hour}, time.Now().Add(50*time.Hour))
		w.must(err)
		_, err = Apply(t.Context(), w.repo(denied), plan, Options{})
		if _, ok := errors.AsType[*RefusedError](err); !ok || !plan.Changes() {
			t.Errorf("%v %+v", err, plan)
		}
	})
}

// One document that cannot be read: nothing is decided.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, suffix := range []string{"/manifest.json", "/expired.json", "/started", "00000002.history", "/hold", "repository.json"} {
			w := newWorld(t)
			w.wal(1)
			m := w.backup(1, "")
			w.branch(1, w.next[1])
			w.backup(1, "")
			w.must(w.repo(w.store).Hold(t.Context(), catalog.Hold{Backup: m.ID, Name: "hold", Reason: "why", By: "me"}))
			w.must(w.repo(w.store).Expire(t.Context(), m.ID, catalog.Expired{}))
			for key := range w.keys() {
				if strings.HasSuffix(key, suffix) {
					w.must(w.store.Put(t.Context(), storage.Key(key), []byte("{"), storage.PutOptions{}))
				}
			}
			if _, err := Gather(t.Context(), w.repo(w.store)); err == nil {
				t.Errorf("%s was torn, and nobody noticed", suffix)
			}
		}
	})
}
