package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/wal"
)

// How often we look, and how long one look may take: a store or a server that
// hangs costs its own look and nothing else.
const (
	surveyEvery   = 45 * time.Second // a gap is told within a minute, the look itself included
	surveyTimeout = 5 * time.Minute
	localEvery    = 15 * time.Second
	localTimeout  = 10 * time.Second
)

// surveyed is the newest good survey, and what is wrong with the ones since.
type surveyed struct {
	catalog.Survey
	at     time.Time // zero: never
	missed int       // records of missed times
	empty  bool      // the store answers, nothing was ever archived
	err    error
}

// every calls look at once and then so often, or when it is woken, each time with
// a time limit, until ctx ends. A look that costs much is rarer, so that it takes a
// tenth of the time.
func every(ctx context.Context, period, limit time.Duration, wake <-chan struct{}, look func(context.Context)) {
	for {
		began := time.Now()
		bounded, cancel := context.WithTimeout(ctx, limit)
		look(bounded)
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(period, 10*time.Since(began)), 4*period)):
		case <-wake:
		}
	}
}

// lookAtStore reads the repository anew.
func (s *service) lookAtStore(ctx context.Context) {
	began := time.Now()
	found, err := s.readStore(ctx)
	s.takeIn(found, err, ctx.Err() == context.Canceled)
	if err == nil && !found.empty {
		s.audit(ctx, found.Survey, found.at)
		if soon := found.Archive.Arriving(); soon > 0 {
			time.AfterFunc(max(soon, 10*time.Since(began)), s.surveyAgain) // a hole is told within a minute
		}
	}
	s.lookAtConflicts(ctx, found.Conflicts)
}

// takeIn keeps what a look at the repository has found.
func (s *service) takeIn(found surveyed, err error, ending bool) {
	s.mu.Lock()
	before := s.survey
	if err != nil {
		s.survey.err = err
	} else {
		s.survey = found
	}
	s.mu.Unlock()
	switch {
	case err != nil && before.err == nil && !errors.Is(err, errNoSystem) && !ending:
		s.event(slog.LevelWarn, "store.lost", "the repository cannot be read", "error", err)
	case err == nil && before.err != nil:
		s.event(slog.LevelInfo, "store.back", "the repository can be read again")
	}
	if err == nil && (before.at.IsZero() || !before.Info.Created.Equal(found.Info.Created) || before.wantsFirst() != found.wantsFirst() || !before.wantsGap().Equal(found.wantsGap())) {
		s.schedule()
	}
}

func (s *service) readStore(ctx context.Context) (surveyed, error) {
	repository, err := s.repository()
	if err != nil {
		return surveyed{}, err
	}
	found, err := repository.Survey(ctx)
	if catalog.IsEmpty(err) {
		if err := s.begin(ctx, repository); err != nil {
			return surveyed{}, err
		}
		if found, err = repository.Survey(ctx); catalog.IsEmpty(err) {
			return surveyed{at: time.Now(), empty: true}, nil
		}
	}
	if err != nil {
		return surveyed{}, err
	}
	missed, err := repository.MissedIDs(ctx)
	return surveyed{Survey: found, at: time.Now(), missed: len(missed)}, err
}

// begin makes the repository if this daemon stands beside the leader, so that the
// first backup of an idle cluster is due too.
func (s *service) begin(ctx context.Context, repository *catalog.Repository) error {
	c := s.settings()
	t, _, err := s.view.now()
	control, unread := wal.ReadControl(c.Cluster.DataDir)
	if err != nil || unread != nil || t.Leader != s.me.Member || control.System != repository.Location().System {
		return nil // it is not ours to do
	}
	_, err = repository.Create(ctx, control.SegmentSize, c.Repository().ConditionalWrites, time.Now())
	return err
}

// wantsFirst tells whether the repository waits for its first whole backup.
func (v surveyed) wantsFirst() bool {
	_, err := v.Find("latest")
	return !v.at.IsZero() && !v.empty && err != nil
}

// lookAtHost looks at the local server. Without Patroni it is the whole topology.
func (s *service) lookAtHost(ctx context.Context, k *looker) {
	l := k.look(ctx, time.Now())
	s.mu.Lock()
	before := s.local
	s.local = l
	s.mu.Unlock()
	if before.System == 0 && l.System != 0 {
		s.surveyAgain() // which repository is meant is known now, also without etcd
	}
	if was, is := !before.FailingSince.IsZero(), !l.FailingSince.IsZero(); is && !was {
		s.event(slog.LevelError, "archiver.failing", "archive_command fails", "file", l.FailedFile, "since", l.FailingSince, "backlog", l.Backlog)
	} else if was && !is {
		s.event(slog.LevelInfo, "archiver.back", "archive_command works again", "backlog", l.Backlog)
	}
	if l.Dropped > before.Dropped {
		s.event(slog.LevelError, "archive.dropped", "pg_wal was nearly full and the store does not answer: WAL is given up", "files", l.Dropped, "free", l.FreeBytes, "backlog", l.Backlog)
	}
	if s.watch == nil {
		s.see(l.topology(s.me.Member, s.scope()), nil)
	}
}

// topology is a server without Patroni as a cluster of one.
func (l Local) topology(member, scope string) cluster.Topology {
	t := cluster.Topology{Scope: scope, SystemIdentifier: l.System, Members: []cluster.Member{{Name: member, Role: cluster.Unknown, State: l.Server}}}
	switch m := &t.Members[0]; l.Server {
	case "primary":
		t.Leader, m.Role, m.State = member, cluster.Primary, "running"
	case "standby":
		m.Role, m.State = cluster.Replica, "running"
	}
	return t
}

func (s *service) scope() string { return s.settings().Cluster.Scope }
