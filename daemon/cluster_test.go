package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/scheduler"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// world is an etcd, a Patroni and a store that several daemons share, in virtual time.
type world struct {
	*testing.T
	store *mem.Bucket
	slow  func() time.Duration // how long a backup takes

	created time.Time // of the repository
	marks   string    // the file in which a scheduler remembers; "": none

	mu      sync.Mutex
	t       cluster.Topology
	away    error // etcd's
	changed chan struct{}
	daemons map[string]*node
	claims  map[string]*fakeClaim
	commits map[catalog.BackupID]string // by whom and of whom
	double  int                         // backups taken for nothing
}

type node struct {
	*service
	end  context.CancelFunc
	dead bool
}

const lease = 20 * time.Second

// newWorld begins a second after a full minute.
func newWorld(t *testing.T) *world {
	time.Sleep(time.Second)
	return &world{T: t, created: time.Now(), store: mem.New(), t: three(), changed: make(chan struct{}), daemons: map[string]*node{}, claims: map[string]*fakeClaim{},
		commits: map[catalog.BackupID]string{}, slow: func() time.Duration { return 5 * time.Second }}
}

type fakeClaim struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	by     string
	drop   func()
}

func (c *fakeClaim) Context() context.Context { return c.ctx }
func (c *fakeClaim) Release()                 { c.drop(); c.cancel(nil) }

func (w *world) claim(by, key string) (claim, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away != nil {
		return nil, w.away
	}
	if c, ok := w.claims[key]; ok {
		return nil, &patroni.ClaimedError{Key: key, By: c.by}
	}
	c := &fakeClaim{by: by}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.drop = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.claims[key] == c {
			delete(w.claims, key)
		}
	}
	w.claims[key] = c
	return c, nil
}

// change changes what Patroni shows.
func (w *world) change(f func(t *cluster.Topology)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	members := slices.Clone(w.t.Members)
	w.t.Members = members
	f(&w.t)
	close(w.changed)
	w.changed = make(chan struct{})
}

// lead makes another member the leader.
func (w *world) lead(name string) {
	w.change(func(t *cluster.Topology) {
		t.Leader = name
		for i := range t.Members {
			if t.Members[i].Role = cluster.Replica; t.Members[i].Name == name {
				t.Members[i].Role = cluster.Primary
			}
		}
	})
}

// etcd takes etcd away or brings it back.
func (w *world) etcd(away error) {
	w.change(func(*cluster.Topology) { w.away = away })
	if away == nil {
		return
	}
	time.AfterFunc(lease, func() {
		w.mu.Lock()
		all := slices.Collect(maps.Values(w.claims))
		still := w.away != nil
		w.mu.Unlock()
		for _, c := range all {
			if still {
				c.drop()
				c.cancel(patroni.ErrClaimLost)
			}
		}
	})
}

// start starts a daemon on a member.
func (w *world) start(name string, c config.Schedule) *node {
	n := &node{}
	s := &service{log: slog.New(slog.DiscardHandler), started: time.Now(), me: cluster.Daemon{Member: name, DataDir: !strings.HasPrefix(name, "backup")},
		again: make(chan struct{}, 1), running: map[string]*Running{}, holds: map[string]hold{}, runner: &scheduler.Runner{File: w.marks},
		config: config.Config{Schedules: []config.Schedule{c}, Repositories: []config.Repository{{}}},
		opener: func(id postgres.SystemIdentifier) *catalog.Repository {
			return catalog.New(w.store, catalog.Location{Scope: "main", System: id}, catalog.Options{})
		}}
	s.survey.at, s.survey.Info.Created = time.Now(), w.created
	s.survey.Backups = []catalog.Surveyed{{State: catalog.BackupOK}}
	s.watch = func(ctx context.Context, each func(cluster.Topology, error)) {
		for ctx.Err() == nil {
			w.mu.Lock()
			t, err, changed := w.t, w.away, w.changed
			w.mu.Unlock()
			each(t, err)
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
	s.daemons = func(context.Context) (all []cluster.Daemon, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, n := range w.daemons {
			all = append(all, n.me)
		}
		return all, w.away
	}
	s.claim = func(_ context.Context, key string) (claim, error) { return w.claim(name, key) }
	s.done = func(_ context.Context, id catalog.BackupID) (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.commits[id] != "", nil
	}
	s.take = func(ctx context.Context, t task) (catalog.Manifest, error) {
		select {
		case <-ctx.Done():
			return catalog.Manifest{}, ctx.Err()
		case <-time.After(w.slow()):
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case n.dead:
			return catalog.Manifest{}, errors.New("dead")
		case w.commits[t.ID] != "":
			w.double++
			return catalog.Manifest{}, catalog.ErrCommitted
		}
		w.commits[t.ID] = name + " of " + t.From.Member
		return catalog.Manifest{ID: t.ID, Member: t.From.Member}, nil
	}
	n.service = s
	ctx, cancel := context.WithCancel(w.Context())
	n.end = cancel
	w.mu.Lock()
	w.daemons[name] = n
	w.mu.Unlock()
	go s.watch(ctx, s.see)
	s.schedule()
	go func() { _ = s.runner.Run(ctx) }()
	return n
}

// kill ends a daemon as kill -9 does: what it had claimed stays until the lease ends.
func (w *world) kill(name string) {
	w.mu.Lock()
	n := w.daemons[name]
	n.dead = true
	for key, c := range w.claims {
		if c.by == name {
			keep := &fakeClaim{by: name + " (dead)", cancel: func(error) {}}
			w.claims[key] = keep
			time.AfterFunc(lease, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.claims[key] == keep {
					delete(w.claims, key)
				}
			})
		}
	}
	w.mu.Unlock()
	n.end()
	time.AfterFunc(lease, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.daemons[name] == n {
			delete(w.daemons, name)
		}
	})
}

func minutely(policy cluster.SourcePolicy) config.Schedule {
	return config.Schedule{Name: "minutely", Cron: "* * * * *", Timezone: "UTC", Source: policy, Attempts: 10, RetryDelay: 2 * time.Second,
		ReplicaWait: 30 * time.Second, Timeout: 10 * time.Minute}
}

// judge wants each of the minutes from the second on done once, or reported as missed.
func (w *world) judge(from time.Time, minutes int) (missed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	repository := catalog.New(w.store, catalog.Location{Scope: "main", System: 7}, catalog.Options{})
	reported, err := repository.MissedIDs(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	at := from.Truncate(time.Minute)
	for range minutes {
		at = at.Add(time.Minute)
		id := catalog.ScheduledID(at, "minutely")
		done, gone := w.commits[id] != "", slices.Contains(reported, id)
		if !done && !gone {
			w.Errorf("%s was neither taken nor reported as missed", id)
		}
		if !done && gone {
			missed++
		}
	}
	return missed
}

func TestEachTimeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		for _, name := range []string{"n1", "n2", "n3"} {
			defer w.start(name, minutely("prefer-replica")).end()
		}
		time.Sleep(10*time.Minute + 30*time.Second)
		if missed := w.judge(began, 10); missed > 0 || w.double > 0 || len(w.commits) != 10 {
			t.Errorf("%d missed, %d for nothing, %v", missed, w.double, w.commits)
		}
		for id, by := range w.commits {
			if by != "n2 of n2" {
				t.Errorf("%s was taken by %s: everybody is healthy, so n2 copies itself", id, by)
			}
		}
	})
}

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
		if err != nil || len(w.commits) == 0 {
			t.Fatal(err, w.commits)
		}
		for _, id := range missed {
			if _, ok := w.commits[id]; ok {
				t.Errorf("%s was taken and reported as missed", id)
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
		if got := slices.Collect(maps.Values(w.commits)); !slices.Equal(got, []string{"n3 of n3"}) || w.daemons["n1"].counts.failed != 1 {
			t.Errorf("%v, %+v", got, w.daemons["n1"].counts)
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
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(70 * time.Second)))
		w.lead("n2")
		time.Sleep(45 * time.Second)
		if got := slices.Collect(maps.Values(w.commits)); !slices.Equal(got, []string{"n1 of n1"}) || w.daemons["n2"].counts.failed != 1 {
			t.Errorf("%v, %+v: n1 follows now", got, w.daemons["n2"].counts)
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
		if got := slices.Collect(maps.Values(w.commits)); !slices.Equal(got, []string{"n3 of n3"}) {
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
		if len(w.commits) != 5 || w.double > 0 {
			t.Errorf("%d for nothing, %v", w.double, w.commits)
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
		if d := n.status(time.Now()); len(d.Running) != 0 || n.counts.failed != 1 || len(w.commits) > 0 {
			t.Errorf("the claim is lost, and %+v runs; %+v", d.Running, n.counts)
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
			n := w.start(name, minutely("prefer-replica"))
			n.config.Repositories[0].ConditionalWrites = config.Emulate
			defer n.end()
		}
		time.Sleep(3 * time.Minute)
		why := w.daemons["n2"].runner.States()[0].Waits
		if len(w.commits) > 0 || !strings.Contains(why, "2 daemons are registered") {
			t.Errorf("%v, %q", w.commits, why)
		}
		w.kill("n3")
		time.Sleep(2 * time.Minute)
		if len(w.commits) == 0 {
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
				t.Logf("%s: %d taken, %d missed, %d for nothing", policy, len(w.commits), missed, w.double)
				if missed > minutes/2 {
					t.Errorf("%d of %d were missed", missed, minutes)
				}
				for _, n := range w.daemons {
					n.end()
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
			n := w.start(name, minutely("replica"))
			defer n.end()
			n.config.Retention.Schedule = "@every 1m"
			n.expire = func(context.Context) ([]any, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				done[name]++
				return nil, nil
			}
			n.schedule()
		}
		time.Sleep(3*time.Minute + 30*time.Second)
		w.kill("n1")
		time.Sleep(3 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if done["n1"] != 3 || done["n2"] < 2 || done["n3"] > 0 {
			t.Errorf("expired by %v", done)
		}
		for _, state := range w.daemons["n3"].runner.States() {
			if state.Job == expireJob && state.Last.Result != scheduler.Succeeded {
				t.Errorf("n3 has %+v", state.Last)
			}
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
		n := w.start("n2", c)
		take, hang := n.take, make(chan struct{})
		n.take = func(ctx context.Context, t task) (catalog.Manifest, error) {
			if t.ID == catalog.ScheduledID(w.created.Truncate(time.Minute).Add(time.Minute), "minutely") {
				<-hang
				return catalog.Manifest{}, errors.New("hung")
			}
			return take(ctx, t)
		}
		time.Sleep(5*time.Minute + 30*time.Second)
		synctest.Wait()
		if missed := w.judge(w.created, 5); missed == 0 {
			t.Error("the time of the hung backup was not reported")
		}
		close(hang)
		n.end()
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
