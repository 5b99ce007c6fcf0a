// Package daemon is the service on each database node, or alone on a backup host:
// it watches the cluster, runs what is scheduled where it is its turn, looks at the
// repository and the local server, and shows all that to the outside.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Options are what the daemon is made of.
type Options struct {
	Config config.Config
	// Load reads the configuration again, at each value of Reload.
	Load   func() (config.Config, error)
	Reload <-chan os.Signal
	// Open makes the store that a configuration names.
	Open func(config.Config) (Opener, error)
	// Clients makes the archive clients that a configuration names. If nil, no hook is served, and no hole filled.
	Clients func(config.Config) (Clients, error)
	HintOf  func(error) string // what a person can do about an error
	Patroni patroni.Options
	Version string
	Log     *slog.Logger // may be nil
	// Getenv gives systemd's variables; os.Getenv if nil.
	Getenv func(string) string
}

// Opener gives the cluster's repository of a system identifier.
type Opener func(postgres.SystemIdentifier) *catalog.Repository

// endLimit bounds the end: what has not given up by then is left to the kernel.
const endLimit = 20 * time.Second

// Run serves until ctx ends, and then ends what runs: nothing of it is committed.
// It is a *RunningError if another daemon has the state directory.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Config.Cluster.StateDir == "" {
		return &config.Error{File: o.Config.File, Problems: []string{"cluster.state_dir: not given, and no cluster.scope to make it from"}}
	}
	lock, err := lockState(o.Config.Cluster.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	notify, err := newNotifier(o.Getenv)
	if err != nil {
		return err
	}
	defer notify.close()
	s, err := newService(o, o.Config)
	if err != nil {
		return err
	}
	defer s.close()
	s.beat.Store(time.Now().UnixNano())
	d := o.Config.Daemon
	shutdown, addr, err := serve(d.Listen, d.CertFile, d.KeyFile, s.handler())
	if err != nil {
		return err
	}
	defer shutdown()
	s.event(slog.LevelInfo, "daemon.started", "the daemon runs", "version", s.version, "cluster", s.scope(), "member", s.me.Member,
		"data_dir", s.me.DataDir, "listen", fmt.Sprint(addr), "schedules", len(o.Config.Schedules))
	if s.single() {
		s.event(slog.LevelWarn, "daemon.single", "no etcd is configured: this daemon agrees with nobody; run no second one for this cluster")
	}
	if o.Config.Repository().ConditionalWrites == config.Emulate {
		s.event(slog.LevelWarn, "store.emulated", "create-once writes are emulated: schedules run only while one daemon is registered")
	}

	work, end := context.WithCancel(ctx)
	ended := s.start(work)
	notify.ready("serving " + s.scope())
	s.loop(ctx, o, notify)

	notify.say("STOPPING=1")
	s.event(slog.LevelInfo, "daemon.stopping", "the daemon ends; what runs is given up and commits nothing")
	end()
	select {
	case <-ended:
		s.event(slog.LevelInfo, "daemon.stopped", "the daemon has ended")
		return nil
	case <-time.After(endLimit):
		return fmt.Errorf("some task did not end within %s of the request", endLimit)
	}
}

// start begins everything that goes on by itself; ended closes when all is over.
func (s *service) start(ctx context.Context) (ended <-chan struct{}) {
	var all sync.WaitGroup
	c := s.settings()
	k := &looker{dsn: c.Cluster.DSN.Reveal(), pgdata: c.Cluster.DataDir, state: c.Cluster.StateDir}
	if c.Cluster.DataDir != "" || s.watch == nil {
		all.Go(func() {
			defer k.close()
			every(ctx, localEvery, localTimeout, nil, func(ctx context.Context) { s.lookAtHost(ctx, k) })
		})
	}
	all.Go(func() { every(ctx, localEvery, surveyTimeout, nil, s.bringDropped) })
	if s.hooks.push != nil && c.Daemon.Socket != "" {
		l := s.listenHooks()
		all.Go(func() {
			s.keepServing(ctx, l, socketRetry)
			s.wired().end()
		})
	}
	if s.hooks.fill != nil {
		keep := &keeper{dsn: k.dsn, pgdata: k.pgdata, state: c.Cluster.StateDir, work: make(chan []postgres.WALFile)}
		all.Go(func() {
			defer keep.close()
			s.keepRounds(ctx, keep)
		})
		all.Go(func() { s.fillWhat(ctx, keep) })
	}
	all.Go(func() { every(ctx, surveyEvery, surveyTimeout, s.again, s.lookAtStore) })
	if s.watch != nil {
		all.Go(func() { s.watch(ctx, s.see) })
	}
	if s.join != nil {
		all.Go(func() { s.stayJoined(ctx) })
	}
	s.schedule()
	all.Go(func() {
		if err := s.runner.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			s.event(slog.LevelError, "scheduler.ended", "the scheduler ended", "error", err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	return done
}

// loop is the main loop: the watchdog and /health/live look at it.
func (s *service) loop(ctx context.Context, o Options, notify notifier) {
	period := time.Second
	if notify.every > 0 {
		period = min(period, notify.every)
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for told := time.Now(); ; {
		now := time.Now()
		s.beat.Store(now.UnixNano())
		if notify.every > 0 && now.Sub(told) >= notify.every-period/2 {
			notify.say("WATCHDOG=1")
			told = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-o.Reload:
			notify.reloading()
			s.reload(o.Load)
			notify.ready("serving " + s.scope())
		}
	}
}
