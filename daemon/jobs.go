package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

// expireJob is the name of the job that applies retention. It cannot be a schedule's.
const expireJob = "(expire)"

// expireCeiling bounds one expiry.
const expireCeiling = 6 * time.Hour

// horizon is how far back a time without a backup is reported. Tombstones, which tell
// a missed one from one that has expired, stay for longer.
const horizon = 100 * 24 * time.Hour

// task is one attempt at a scheduled backup.
type task struct {
	ID       catalog.BackupID
	Schedule config.Schedule
	From     source
	Events   backup.Events
}

// hold is a claim between the turn that took it and the run that uses it.
type hold struct {
	claim
	from source
}

// alone is the claim of a daemon that has nobody to agree with.
type alone struct{ ctx context.Context }

func (a alone) Context() context.Context { return a.ctx }
func (a alone) Release()                 {}

// once is a timetable of one time.
type once time.Time

func (o once) Next(after time.Time) time.Time {
	if at := time.Time(o); at.After(after) {
		return at
	}
	return time.Time{}
}

// schedule gives the scheduler the jobs of what is known now.
func (s *service) schedule() { s.runner.SetJobs(s.jobs()) }

// jobs are one for each schedule, one for the first backup of a repository without a
// whole one, one for the backup behind a gap, and one for expiry.
func (s *service) jobs() (all []scheduler.Job) {
	s.mu.Lock()
	c, v := s.config, s.survey
	s.mu.Unlock()
	from := v.Info.Created
	if v.at.IsZero() || v.empty {
		from = time.Now().AddDate(100, 0, 0) // which times are the repository's own is not known yet
	}
	for _, schedule := range c.Schedules {
		timetable, _ := schedule.Timetable() // validated
		all = append(all, s.backupJob(schedule, timetable, from))
	}
	if v.wantsFirst() && len(c.Schedules) > 0 {
		first := c.Schedules[0]
		first.Name, first.LatestStart, first.Attempts = catalog.FirstSchedule, 0, math.MaxInt
		all = append(all, s.backupJob(first, once(v.Info.Created), time.Time{}))
	}
	if at := v.wantsGap(); !at.IsZero() && len(c.Schedules) > 0 {
		gap := c.Schedules[0]
		gap.Name, gap.LatestStart, gap.Attempts = catalog.GapSchedule, 0, math.MaxInt
		all = append(all, s.backupJob(gap, once(at), time.Time{}))
	}
	if timetable, _ := c.Retention.Timetable(); timetable != nil && s.expire != nil {
		all = append(all, scheduler.Job{Name: expireJob, Timetable: timetable, Attempts: 3, Delay: time.Minute, Ceiling: expireCeiling,
			From: s.started, Done: s.expireDone, Turn: s.expireTurn, Run: s.runExpire})
	}
	return all
}

func (s *service) backupJob(c config.Schedule, timetable scheduler.Timetable, from time.Time) scheduler.Job {
	return scheduler.Job{
		Name: c.Name, Timetable: timetable, From: from, LatestStart: c.LatestStart, Attempts: c.Attempts, Delay: c.RetryDelay, Ceiling: c.Timeout, Horizon: horizon,
		Done: func(ctx context.Context, at time.Time) (bool, error) {
			return s.done(ctx, catalog.ScheduledID(at, c.Name))
		},
		Turn:   func(ctx context.Context, at time.Time) (bool, string, error) { return s.turn(ctx, c, at) },
		Run:    func(ctx context.Context, at time.Time) error { return s.run(ctx, c, at) },
		Missed: func(ctx context.Context, at time.Time, why string) error { return s.missed(ctx, c, at, why) },
	}
}

// committed tells whether a backup was committed at all, expired since or not: an
// expired one is not to be taken again (R16).
func (s *service) committed(ctx context.Context, id catalog.BackupID) (bool, error) {
	repository, err := s.repository()
	if err != nil {
		return false, err
	}
	return repository.Taken(ctx, id)
}

// turn takes the claim on a scheduled time if this daemon is the one to act for it.
func (s *service) turn(ctx context.Context, c config.Schedule, at time.Time) (bool, string, error) {
	t, _, err := s.view.now()
	if err != nil {
		return false, fmt.Sprintf("the cluster cannot be seen: %v", err), nil
	}
	all, why := s.others(ctx)
	if why != "" {
		return false, why, nil
	}
	want := c.Want()
	want.Waited = time.Since(at) > c.ReplicaWait
	from, mine, why := assign(situation{Task: string(catalog.ScheduledID(at, c.Name)), Topology: t, Want: want, Daemons: all, Me: s.me, Single: s.single(),
		Emulated: s.settings().Repository().ConditionalWrites == config.Emulate})
	if !mine {
		return false, why, nil
	}
	id := catalog.ScheduledID(at, c.Name)
	if why := s.grasp(ctx, "runs/"+string(id), from); why != "" {
		return false, why, nil
	}
	// Another may have had the claim, committed and let go between the two questions.
	if done, err := s.done(ctx, id); done || err != nil {
		s.letGo("runs/" + string(id)).Release()
		return false, "another daemon has just done it", err
	}
	return true, why, nil
}

// others are the daemons of the cluster, this one among them.
func (s *service) others(ctx context.Context) (all []cluster.Daemon, why string) {
	if s.single() {
		return []cluster.Daemon{s.me}, ""
	}
	all, err := s.daemons(ctx)
	if err != nil {
		return nil, fmt.Sprintf("etcd does not answer: %v", err)
	}
	if !slices.ContainsFunc(all, func(d cluster.Daemon) bool { return d.Member == s.me.Member }) {
		return nil, "this daemon has not joined the others in etcd yet"
	}
	return all, ""
}

// grasp takes a claim and keeps it for the run that follows; why not, otherwise. The
// claim outlives the question's context: it ends with the service.
func (s *service) grasp(ctx context.Context, key string, from source) (why string) {
	h := hold{alone{context.Background()}, from}
	if s.claim != nil {
		c, err := s.claim(context.WithoutCancel(ctx), key)
		if err != nil {
			return err.Error()
		}
		h.claim = c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.holds[key]; ok {
		old.Release()
	}
	s.holds[key] = h
	return ""
}

// letGo hands over what grasp keeps.
func (s *service) letGo(key string) hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.holds[key]
	delete(s.holds, key)
	if !ok {
		h = hold{claim: alone{context.Background()}}
	}
	return h
}

// within is ctx for as long as the claim is held. Once it has ended the claim is given
// back, also by what hangs: nothing can be committed or removed under it any more.
func (h hold) within(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	context.AfterFunc(h.Context(), func() { cancel(context.Cause(h.Context())) })
	context.AfterFunc(ctx, h.Release)
	return ctx, cancel
}

// run takes one backup for as long as the claim is held and the source is right.
func (s *service) run(ctx context.Context, c config.Schedule, at time.Time) error {
	id := catalog.ScheduledID(at, c.Name)
	h := s.letGo("runs/" + string(id))
	defer h.Release()
	ctx, cancel := h.within(ctx)
	defer cancel(nil)
	go func() {
		if err := s.view.guard(ctx, h.from.stillRight); err != nil {
			cancel(err)
		}
	}()
	began := time.Now()
	r := &Running{Task: c.Name, Backup: id, Source: h.from.Member, Since: began}
	s.mu.Lock()
	s.running[c.Name] = r
	s.mu.Unlock()
	s.showAgain()
	s.event(slog.LevelInfo, "backup.started", "a backup begins", "backup", id, "source", h.from.Member, "why", h.from.Reason, "remote", h.from.Remote)
	m, err := s.take(ctx, task{ID: id, Schedule: c, From: h.from, Events: s.events(id, r)})
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, catalog.ErrCommitted) {
		err = cause
	}
	s.mu.Lock()
	delete(s.running, c.Name)
	switch {
	case errors.Is(err, catalog.ErrCommitted):
	case err != nil:
		s.counts.failed++
	default:
		s.counts.committed++
	}
	s.mu.Unlock()
	s.showAgain()
	switch {
	case errors.Is(err, catalog.ErrCommitted):
		s.event(slog.LevelInfo, "backup.overtaken", "another daemon committed this backup first; what this one stored is garbage", "backup", id)
	case err != nil:
		s.failedAt(string(id))
		s.event(slog.LevelError, "backup.failed", "the backup failed, nothing was committed", "backup", id, "source", h.from.Member, "error", err)
		return err
	default:
		s.event(slog.LevelInfo, "backup.committed", "the backup is committed", "backup", id, "source", m.Member, "bytes", m.Bytes, "stored", m.Stored,
			"seconds", math.Round(time.Since(began).Seconds()), "damaged", m.Damaged())
	}
	s.surveyAgain()
	return nil
}

// events keep what status shows of a running backup.
func (s *service) events(id catalog.BackupID, r *Running) backup.Events {
	update := func(change func()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		change()
	}
	return backup.Events{
		Phase: func(p backup.Phase) { update(func() { r.Phase, r.Text = string(p), "" }) },
		Progress: func(p backup.Progress) {
			update(func() { r.Files, r.FilesTotal, r.Bytes, r.BytesTotal = p.Files, p.FilesTotal, p.Bytes, p.BytesTotal })
		},
		Waiting: func(text string) { update(func() { r.Text = text }) },
		Warning: func(text string) { s.event(slog.LevelWarn, "backup.warning", text, "backup", id) },
	}
}

// surveyAgain wants the repository looked at before its time.
func (s *service) surveyAgain() {
	select {
	case s.again <- struct{}{}:
	default: // is wanted already
	}
}

// missed records a time that nobody does or will do any more.
func (s *service) missed(ctx context.Context, c config.Schedule, at time.Time, why string) error {
	repository, err := s.repository()
	if err != nil {
		return err
	}
	id := catalog.ScheduledID(at, c.Name)
	// A run that began in time may outlast its period: it holds the claim, and is no miss.
	if why := s.grasp(ctx, "runs/"+string(id), source{}); why != "" {
		return errors.New(why)
	}
	defer s.letGo("runs/" + string(id)).Release()
	if taken, err := s.done(ctx, id); taken || err != nil {
		return err
	}
	if err := repository.ReportMissed(ctx, catalog.Missed{Backup: id, Reason: why, By: s.me.Member, At: time.Now().UTC()}); err != nil {
		return err
	}
	s.event(slog.LevelError, "backup.missed", "a scheduled backup was missed", "backup", id, "why", why)
	s.surveyAgain()
	return nil
}

// expireDone tells that expiry is done by another: by the first daemon by name of those
// who did not fail at it last, for want of a right to delete for example.
func (s *service) expireDone(ctx context.Context, _ time.Time) (bool, error) {
	all, why := s.others(ctx)
	if why != "" {
		return false, errors.New(why)
	}
	return slices.ContainsFunc(all, func(d cluster.Daemon) bool { return d.Member < s.me.Member && d.Failed != expireJob }), nil
}

// expireTurn lets one daemon expire at a time.
func (s *service) expireTurn(ctx context.Context, _ time.Time) (bool, string, error) {
	why := s.grasp(ctx, "ops/expire", source{})
	return why == "", why, nil
}

// runExpire applies retention for as long as the claim is held.
func (s *service) runExpire(ctx context.Context, _ time.Time) error {
	h := s.letGo("ops/expire")
	defer h.Release()
	ctx, cancel := h.within(ctx)
	defer cancel(nil)
	said, err := s.expire(ctx)
	if err != nil {
		s.failedAt(expireJob)
		s.event(slog.LevelError, "expire.failed", "retention could not be applied", "error", err)
		return err
	}
	if s.entry().Failed == expireJob {
		s.failedAt("")
	}
	s.event(slog.LevelInfo, "expire.done", "retention was applied", said...)
	s.surveyAgain()
	return nil
}
