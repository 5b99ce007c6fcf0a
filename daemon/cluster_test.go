package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

func TestEachTimeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("prefer-replica")).end()
		}
		time.Sleep(10*time.Minute + 30*time.Second)
		if missed := w.judge(began, 10); missed > 0 || w.waste() > 0 || len(w.taken()) != 10 {
			t.Errorf("%d missed, %d for nothing, %v", missed, w.waste(), w.taken())
		}
		for _, by := range w.taken() {
			if by != "n2 of n2" {
				t.Errorf("taken by %s: everybody is healthy, so n2 copies itself", by)
			}
		}
	})
}

// A leader change ends a backup of the leader, and the next attempt is of the new one.
func TestLeaderChangeEndsItsBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = func() time.Duration { return 40 * time.Second }
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("leader")).end()
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(70 * time.Second)))
		w.lead("n3")
		time.Sleep(time.Minute)
		if got := w.taken(); !slices.Equal(got, []string{"n3 of n3"}) || w.failures("n1") != 1 {
			t.Errorf("%v, %d failed", got, w.failures("n1"))
		}
	})
}

func TestPromotionEndsTheCopyOfAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = func() time.Duration { return 20 * time.Second }
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("prefer-replica")).end()
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(73 * time.Second))) // at no moment in which anybody asks anew
		w.lead("n2")
		time.Sleep(45 * time.Second)
		if got := w.taken(); !slices.Equal(got, []string{"n1 of n1"}) || w.failures("n2") != 1 {
			t.Errorf("%v, %d failed: n1 follows now", got, w.failures("n2"))
		}
	})
}

// Where its daemon dies in the middle, another takes over once its lease has ended.
func TestAnotherTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = func() time.Duration { return 10 * time.Second }
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("prefer-replica")).end()
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(65 * time.Second)))
		w.kill("n2")
		time.Sleep(50 * time.Second)
		if got := w.taken(); !slices.Equal(got, []string{"n3 of n3"}) {
			t.Error(got)
		}
	})
}

// Two backup hosts would both take it: the claim lets one.
func TestTheClaimDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, name := range []string{"backup1", "backup2"} {
			defer w.start(name, minutely("prefer-replica")).end()
		}
		time.Sleep(5*time.Minute + 30*time.Second)
		if len(w.taken()) != 5 || w.waste() > 0 {
			t.Errorf("%d for nothing, %v", w.waste(), w.taken())
		}
	})
}

// A backup ends with its claim, which etcd ends where it has not heard of us for long.
func TestALostClaimEndsTheBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = func() time.Duration { return 50 * time.Second }
		n := w.start("n2", minutely("prefer-replica"))
		defer n.end()
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(65 * time.Second)))
		w.etcd(errors.New("away"))
		time.Sleep(15 * time.Second)
		if len(n.status(time.Now()).Running) != 1 {
			t.Error("a short absence of etcd ended the backup")
		}
		time.Sleep(10 * time.Second)
		if d := n.status(time.Now()); len(d.Running) != 0 || w.failures("n2") != 1 || len(w.taken()) > 0 {
			t.Errorf("the claim is lost, and %+v runs; %d failed", d.Running, w.failures("n2"))
		}
		w.etcd(nil)
	})
}

func TestEtcdAwaySchedulesWaitAndSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		n := w.start("n2", minutely("prefer-replica"))
		defer n.end()
		time.Sleep(70 * time.Second)
		w.etcd(errors.New("etcd: no endpoint answers"))
		time.Sleep(time.Minute)
		d := n.status(time.Now())
		if why := d.Schedules[0].Waits; !strings.Contains(why, "the cluster cannot be seen: etcd: no endpoint answers") {
			t.Errorf("waits because %q", why)
		}
		if !slices.ContainsFunc(d.Problems, func(p string) bool { return strings.HasPrefix(p, "etcd: ") }) || n.ready(time.Now()) == nil {
			t.Errorf("problems %q", d.Problems)
		}
		time.Sleep(2 * time.Minute)
		w.etcd(nil)
		time.Sleep(2 * time.Minute)
		if missed := w.judge(began, 6); missed == 0 {
			t.Error("nothing was missed while etcd was away for three minutes")
		}
	})
}

func TestEmulatedWritesWantOneDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, name := range []string{"n2", "n3"} {
			defer w.start(name, minutely("prefer-replica"), func(s *service) { s.config.Repositories[0].ConditionalWrites = config.Emulate }).end()
		}
		time.Sleep(3 * time.Minute)
		why := w.node("n2").runner.States()[0].Waits
		if len(w.taken()) > 0 || !strings.Contains(why, "2 daemons are registered") {
			t.Errorf("%v, %q", w.taken(), why)
		}
		w.kill("n3")
		time.Sleep(2 * time.Minute)
		if len(w.taken()) == 0 {
			t.Error("one daemon alone takes none")
		}
	})
}

// Whatever fails, each time gives one backup or a report, and work is hardly ever
// done twice: only where a claim was lost in the middle.
func TestAnyFailures(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				var guard sync.Mutex
				pick := func(n int) int { guard.Lock(); defer guard.Unlock(); return random.IntN(n) }
				w := newWorld(t)
				w.slow = func() time.Duration { return time.Duration(2+pick(50)) * time.Second }
				began := time.Now()
				names := []string{"n1", "n2", "n3"}
				policy := []cluster.SourcePolicy{cluster.FromLeader, cluster.PreferReplica, cluster.FromReplica}[pick(3)]
				for _, name := range names {
					w.start(name, minutely(policy))
				}
				const minutes = 60
				for time.Since(began) < minutes*time.Minute {
					time.Sleep(time.Duration(5+pick(90)) * time.Second)
					switch name := names[pick(3)]; pick(4) {
					case 0, 1:
						w.lead(name)
					case 2:
						w.kill(name)
						time.Sleep(time.Duration(pick(40)) * time.Second)
						w.start(name, minutely(policy))
					case 3:
						w.etcd(errors.New("away"))
						time.Sleep(time.Duration(pick(60)) * time.Second)
						w.etcd(nil)
					}
				}
				time.Sleep(3 * time.Minute)
				missed := w.judge(began, minutes)
				t.Logf("%s: %d taken, %d missed, %d for nothing", policy, len(w.taken()), missed, w.waste())
				if missed > minutes/2 {
					t.Errorf("%d of %d were missed", missed, minutes)
				}
				for _, name := range names {
					w.node(name).end()
				}
			})
		})
	}
}

// Expiry is done by one daemon, and by the next one when that is gone; the others do
// not take it for missed.
func TestExpiryIsDoneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		done := map[string]int{}
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("replica"), func(s *service) {
				s.config.Retention.Schedule = "@every 1m"
				s.expire = func(context.Context) ([]any, error) {
					w.mu.Lock()
					defer w.mu.Unlock()
					done[name]++
					return nil, nil
				}
			}).end()
		}
		time.Sleep(3*time.Minute + 30*time.Second)
		w.kill("n1")
		time.Sleep(3 * time.Minute)
		last := w.node("n3").runner.States()
		w.mu.Lock()
		defer w.mu.Unlock()
		if done["n1"] != 3 || done["n2"] < 2 || done["n3"] > 0 {
			t.Errorf("expired by %v", done)
		}
		for _, state := range last {
			if state.Job == expireJob && state.Last.Result != scheduler.Succeeded {
				t.Errorf("n3 has %+v", state.Last)
			}
		}
	})
}

// Where the first daemon cannot expire, the next one does, until the first can again.
func TestExpiryGoesOnElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		done, denied := map[string]int{}, true
		for _, name := range []string{"n1", "n2"} {
			defer w.start(name, minutely("replica"), func(s *service) {
				s.config.Retention.Schedule = "@every 10m"
				s.expire = func(context.Context) ([]any, error) {
					w.mu.Lock()
					defer w.mu.Unlock()
					if name == "n1" && denied {
						return nil, errors.New("access denied")
					}
					done[name]++
					return nil, nil
				}
			}).end()
		}
		time.Sleep(25 * time.Minute)
		w.mu.Lock()
		if done["n1"] != 0 || done["n2"] == 0 {
			t.Errorf("while n1 is denied: %v", done)
		}
		denied = false
		before := done["n2"]
		w.mu.Unlock()
		time.Sleep(40 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if done["n1"] < 3 || done["n2"] > before+1 {
			t.Errorf("when n1 can again: %v", done)
		}
	})
}

// A daemon that saw an empty store at first learns what is its to do when another has
// made the repository, also where a whole backup is there by the second look.
func TestJobsFollowTheRepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start("n2", minutely(cluster.FromReplica))
		defer n.end()
		whole := n.survey
		n.takeIn(surveyed{at: time.Now(), empty: true}, nil, false)
		n.schedule()
		n.takeIn(whole, nil, false)
		time.Sleep(150 * time.Second)
		synctest.Wait()
		w.judge(w.created, 2)
	})
}

// A backup that hangs and does not end when it is told to has lost its claim: the times
// go on, and the one that it had is reported.
func TestHungBackupLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := minutely(cluster.FromReplica)
		c.Timeout = 20 * time.Second
		hang := make(chan struct{})
		n := w.start("n2", c, func(s *service) {
			take := s.take
			s.take = func(ctx context.Context, t task) (catalog.Manifest, error) {
				if t.ID == catalog.ScheduledID(w.created.Truncate(time.Minute).Add(time.Minute), "minutely") {
					<-hang
					return catalog.Manifest{}, errors.New("hung")
				}
				return take(ctx, t)
			}
		})
		time.Sleep(5*time.Minute + 30*time.Second)
		synctest.Wait()
		if missed := w.judge(w.created, 5); missed == 0 {
			t.Error("the time of the hung backup was not reported")
		}
		close(hang)
		n.end()
	})
}
