package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
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
func (w *world) start(name string, c config.Schedule, prepare ...func(*service)) *node {
	n := &node{}
	s := &service{log: slog.New(slog.DiscardHandler), started: time.Now(), me: cluster.Daemon{Member: name, DataDir: !strings.HasPrefix(name, "backup")},
		again: make(chan struct{}, 1), running: map[string]*Running{}, holds: map[string]hold{}, runner: &scheduler.Runner{},
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
	for _, change := range prepare {
		change(s)
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

// taken are the backups and who took them, in the order of their times.
func (w *world) taken() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.commits)) {
		all = append(all, w.commits[id])
	}
	return all
}

// by is who took a backup, or nothing.
func (w *world) by(id catalog.BackupID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commits[id]
}

func (w *world) node(name string) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.daemons[name]
}

// waste is how many backups were taken for nothing.
func (w *world) waste() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.double
}

// failures are the attempts of one daemon that failed.
func (w *world) failures(name string) int {
	n := w.node(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts.failed
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
