package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

// service is one daemon at work. What reaches the outside are functions, so that
// its decisions can be tried without servers.
type service struct {
	log     *slog.Logger
	version string
	started time.Time
	me      cluster.Daemon
	view    view
	beat    atomic.Int64 // when the main loop was last seen, in Unix nanoseconds

	watch   func(ctx context.Context, each func(cluster.Topology, error))                         // nil: no Patroni
	join    func(ctx context.Context, entry func() cluster.Daemon, changed <-chan struct{}) error // nil: single
	daemons func(ctx context.Context) ([]cluster.Daemon, error)
	claim   func(ctx context.Context, key string) (claim, error)
	open    func(c config.Config) (Opener, error)
	wire    func(c config.Config) (hooks, error)
	hintOf  func(error) string
	done    func(ctx context.Context, id catalog.BackupID) (bool, error)
	take    func(ctx context.Context, t task) (catalog.Manifest, error)
	expire  func(ctx context.Context) (said []any, err error) // nil: nothing is ever removed
	close   func()
	runner  *scheduler.Runner

	unrecorded error // of the last bringDropped

	heard  map[string]time.Time // the audit's: since when each member could bring WAL
	told   map[string]bool      // conflicts that an event told of; only lookAtStore uses it
	again  chan struct{}        // a survey is wanted before its time
	rejoin chan struct{}        // what the others know of this daemon has changed

	mu      sync.Mutex
	config  config.Config
	loaded  time.Time
	failed  string // the task that last failed here
	refused string // what is wrong with the newest configuration, which is not in force
	opener  Opener
	hooks   hooks
	local   Local
	keep    *Keep // nil: nothing is kept here
	survey  surveyed
	gaps    []Gap               // of the newest survey
	running map[string]*Running // by task
	holds   map[string]hold     // by key: claims between turn and run
	counts  counts
}

// claim is something that only its holder does.
type claim interface {
	Context() context.Context
	Release()
}

// counts are since the start of the daemon.
type counts struct{ committed, failed, filled int }

// event says what happened, under a name that stays the same over releases.
func (s *service) event(level slog.Level, event, text string, args ...any) {
	s.log.Log(context.Background(), level, text, append([]any{"event", event}, args...)...)
}

func newService(o Options, c config.Config) (*service, error) {
	s := &service{log: o.Log, version: o.Version, started: time.Now(), config: c, loaded: time.Now(), open: o.Open, hintOf: o.HintOf,
		again: make(chan struct{}, 1), rejoin: make(chan struct{}, 1), running: map[string]*Running{}, holds: map[string]hold{},
		heard: map[string]time.Time{}, told: map[string]bool{}, close: func() {}}
	host, _ := os.Hostname()
	s.me = cluster.Daemon{Member: c.Cluster.Member, Host: host, DataDir: c.Cluster.DataDir != "", Version: o.Version, PID: os.Getpid(), Since: s.started}
	if s.me.Member == "" {
		s.me.Member = host
	}
	var err error
	s.wire = func(c config.Config) (hooks, error) { return newHooks(o, c) }
	if s.opener, err = s.open(c); err == nil {
		s.hooks, err = s.wire(c)
	}
	if err != nil {
		return nil, err
	}
	s.done, s.take, s.expire = s.committed, s.takeBackup, s.applyRetention
	s.runner = &scheduler.Runner{Log: o.Log, File: filepath.Join(c.Cluster.StateDir, "schedules.json")}
	po := o.Patroni
	if len(po.Endpoints) == 0 && po.API == "" {
		return s, nil
	}
	observer, err := patroni.New(po)
	if err != nil {
		return nil, &config.Error{File: c.File, Problems: []string{"patroni: " + err.Error()}}
	}
	s.watch, s.close = observer.Watch, func() { _ = observer.Close() }
	if len(po.Endpoints) == 0 {
		return s, nil
	}
	// Whatever Patroni itself speaks, ours is etcd's v3 API.
	coordination, err := patroni.NewCoordination(po)
	if err != nil {
		return nil, errors.Join(err, observer.Close())
	}
	s.join, s.daemons = coordination.Join, coordination.Daemons
	s.claim = func(ctx context.Context, key string) (claim, error) { return coordination.Claim(ctx, key, s.me.Member) }
	s.close = func() { _, _ = observer.Close(), coordination.Close() }
	return s, nil
}

// entry is what the others are told of this daemon.
func (s *service) entry() cluster.Daemon {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.me
	d.Failed = s.failed
	for _, r := range s.running {
		d.Running = append(d.Running, string(r.Backup))
	}
	return d
}

// stayJoined shows this daemon to the others.
func (s *service) stayJoined(ctx context.Context) {
	if err := s.join(ctx, s.entry, s.rejoin); err != nil {
		s.event(slog.LevelError, "etcd.refused", "etcd does not let this daemon join the others", "error", err)
	}
}

// failedAt lets another member's daemon try the task.
func (s *service) failedAt(task string) {
	s.mu.Lock()
	s.failed = task
	s.mu.Unlock()
	s.showAgain()
}

// showAgain lets the others know what has changed here.
func (s *service) showAgain() {
	select {
	case s.rejoin <- struct{}{}:
	default: // it will be read
	}
}

// single tells that there is nobody to agree with.
func (s *service) single() bool { return s.daemons == nil }

// settings are the configuration in force.
func (s *service) settings() config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// see takes in what the observer saw.
func (s *service) see(t cluster.Topology, err error) {
	if before, _, _ := s.view.now(); err != nil && len(t.Members) == 0 {
		t = before // what was last known
	}
	before, beforeErr := s.view.set(t, err)
	switch was, is := etcdUp(beforeErr), etcdUp(err); {
	case was && !is:
		s.event(slog.LevelWarn, "etcd.lost", "the cluster cannot be seen; archiving goes on without, schedules wait", "error", err)
	case is && !was:
		s.event(slog.LevelInfo, "etcd.back", "the cluster is seen again", "leader", t.Leader)
	case err != nil:
		s.event(slog.LevelWarn, "leader.unconfirmed", "nobody may be taken for the leader; schedules wait", "error", err)
	}
	if t.SystemIdentifier != before.SystemIdentifier || t.Leader != before.Leader {
		s.surveyAgain() // which repository is meant is known now, or who may begin it
	}
	if t.Leader != before.Leader {
		s.event(slog.LevelInfo, "leader.changed", "the leader changed", "from", before.Leader, "to", t.Leader)
	}
}

// system is the cluster's identity: Patroni's word, else that of the local data
// directory. 0 while neither knows.
func (s *service) system() postgres.SystemIdentifier {
	if t, _, _ := s.view.now(); t.SystemIdentifier != 0 {
		return t.SystemIdentifier
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.local.System
}

var errNoSystem = errors.New("the cluster's system identifier is not known yet: neither Patroni nor a data directory shows it")

// repository is the one of the cluster as it is now.
func (s *service) repository() (*catalog.Repository, error) {
	system := s.system()
	if system == 0 {
		return nil, errNoSystem
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opener(system), nil
}

// reload takes a new configuration into force, or keeps the old one.
func (s *service) reload(load func() (config.Config, error)) {
	c, err := load()
	if err == nil {
		err = s.adopt(c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused = ""; err != nil {
		s.refused = err.Error()
		s.event(slog.LevelError, "config.refused", "the new configuration is refused, the old one stays in force", "error", err)
		return
	}
	s.loaded = time.Now()
	s.event(slog.LevelInfo, "config.reloaded", "the new configuration is in force", "file", c.File)
}

// adopt takes what can change while the daemon runs.
func (s *service) adopt(c config.Config) error {
	old := s.settings()
	for _, section := range []struct {
		name     string
		old, now any
	}{{"cluster", old.Cluster, c.Cluster}, {"patroni", old.Patroni, c.Patroni}, {"daemon", old.Daemon, c.Daemon}, {"log", old.Log, c.Log}} {
		if !reflect.DeepEqual(section.old, section.now) {
			return fmt.Errorf("%s: it changed, which takes a restart of the daemon", section.name)
		}
	}
	opener, err := s.open(c)
	if err != nil {
		return err
	}
	hooks, err := s.wire(c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	end := s.hooks.end
	s.config, s.opener, s.hooks = c, opener, hooks
	s.mu.Unlock()
	if end != nil {
		go end() // the old store may take its time
	}
	s.schedule()
	s.surveyAgain()
	return nil
}
