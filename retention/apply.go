package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// Options say how a plan is carried out.
type Options struct {
	By  string // who does it: stands in the tombstones
	Log *slog.Logger
}

// Outcome is what Apply did.
type Outcome struct {
	Hidden  []catalog.BackupID `json:"hidden"`
	Shown   []catalog.BackupID `json:"shown"`   // hidden before, and wanted again
	Removed []catalog.BackupID `json:"removed"` // their data is gone
	Runs    []catalog.RunID    `json:"runs"`    // unfinished ones, gone
	WAL     int                `json:"wal_objects"`
	// Withdrawn were to be hidden or removed, and somebody took hold of them at the
	// last moment. WAL stays then until the next time.
	Withdrawn []catalog.BackupID `json:"withdrawn"`
}

// sweep is a plan being carried out.
type sweep struct {
	Options
	repo *catalog.Repository
	plan Plan
	done Outcome
	// keepWAL: something begins in WAL that the plan removes.
	keepWAL bool
}

// Apply carries out a plan. It writes first what it means to do, then looks again
// whether anybody took hold of a backup, then removes. Interrupted at any point, the
// next plan completes it.
func Apply(ctx context.Context, repo *catalog.Repository, plan Plan, options Options) (Outcome, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	s := &sweep{Options: options, repo: repo, plan: plan}
	if plan.facts.Clock.IsZero() && plan.Changes() {
		return s.done, refuse("run it with credentials that may write and delete", "the store's clock was not asked")
	}
	for _, step := range []func(context.Context) error{s.announce, s.lookAgain, s.remove} {
		if err := step(ctx); err != nil {
			return s.done, fmt.Errorf("expire backups of %s: %w", repo.Root(), err)
		}
	}
	return s.done, nil
}

// stored is what the plan was made from.
func (s *sweep) stored(id catalog.BackupID) Backup {
	i := slices.IndexFunc(s.plan.facts.Backups, func(b Backup) bool { return b.ID == id })
	return s.plan.facts.Backups[i]
}

// announce writes tombstones, and the records that removals have begun.
func (s *sweep) announce(ctx context.Context) error {
	for _, v := range s.plan.Backups {
		b := s.stored(v.Backup)
		var err error
		switch {
		case v.Action == Hide:
			err = s.repo.Expire(ctx, v.Backup, catalog.Expired{At: s.plan.At, Reason: strings.Join(v.Reasons, "; "), By: s.By})
		case v.Action == Remove && b.Manifest != nil:
			err = s.repo.BeginRemoval(ctx, v.Backup, catalog.Removal{At: s.plan.At, By: s.By, Run: b.Manifest.Run})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookAgain withdraws what somebody took hold of since the plan was made: a hold, a
// child that was committed or is being made, or a hand that showed it (R16).
func (s *sweep) lookAgain(ctx context.Context) error {
	again, err := s.repo.Inventory(ctx)
	if err != nil {
		return err
	}
	wanted := s.wanted(again)
	for _, v := range s.plan.Backups {
		i := slices.IndexFunc(again.Backups, func(b catalog.StoredBackup) bool { return b.ID == v.Backup })
		going := v.Action == Hide || v.Action == Remove
		switch {
		case i >= 0 && again.Backups[i].Manifest != nil && (v.Action == Show || going && (wanted[v.Backup] || again.Backups[i].Expired == nil)):
			if err := s.repo.Unexpire(ctx, v.Backup); err != nil {
				return err
			}
			s.Log.Info("backup is shown again", "backup", v.Backup, "why", strings.Join(v.Reasons, "; "))
			if going {
				s.done.Withdrawn = append(s.done.Withdrawn, v.Backup)
			} else {
				s.done.Shown = append(s.done.Shown, v.Backup)
			}
		case v.Action == Hide:
			s.done.Hidden = append(s.done.Hidden, v.Backup)
			s.Log.Info("backup hidden", "backup", v.Backup, "why", strings.Join(v.Reasons, "; "))
		}
	}
	return nil
}

// wanted are the backups that must be there now, with all that they stand on.
func (s *sweep) wanted(again catalog.Inventory) map[catalog.BackupID]bool {
	going := map[catalog.BackupID]bool{}
	for _, v := range s.plan.Backups {
		going[v.Backup] = v.Action == Hide || v.Action == Wait || v.Action == Remove
	}
	wanted := map[catalog.BackupID]bool{}
	for _, h := range again.Holds {
		wanted[h.Backup] = wanted[h.Backup] || h.Active(s.plan.now)
	}
	parent := map[catalog.BackupID]catalog.BackupID{}
	for _, b := range again.Backups {
		if b.Manifest != nil {
			parent[b.ID] = b.Manifest.Parent
			wanted[b.ID] = wanted[b.ID] || !going[b.ID]
			s.keepWAL = s.keepWAL || wanted[b.ID] && s.plan.goneAt(b.Manifest.Timeline, b.Manifest.StartLSN)
		}
		for _, run := range b.Unfinished() {
			if !slices.ContainsFunc(s.plan.Runs, func(v Verdict) bool { return v.Run == run.Run && v.Action == Remove }) {
				wanted[parentOf(run)] = true
				s.keepWAL = s.keepWAL || run.Started != nil && s.plan.goneAt(run.Started.Timeline, run.Started.StartLSN)
			}
		}
	}
	for id := range parent {
		for at := id; wanted[id] && parent[at] != ""; at = parent[at] {
			wanted[parent[at]] = true
		}
	}
	return wanted
}

// remove deletes: children before parents, backups before WAL.
func (s *sweep) remove(ctx context.Context) (err error) {
	for _, v := range slices.Backward(s.plan.Backups) {
		b := s.stored(v.Backup)
		switch {
		case v.Action == Forget:
			err = s.repo.Forget(ctx, v.Backup)
		case v.Action != Remove || slices.Contains(s.done.Withdrawn, v.Backup):
			continue
		case b.Manifest != nil:
			err = s.repo.Remove(ctx, v.Backup, b.Manifest.Run)
		default:
			err = s.repo.Remove(ctx, v.Backup, b.Removal.Run)
		}
		if errors.Is(err, catalog.ErrShown) {
			s.done.Withdrawn = append(s.done.Withdrawn, v.Backup)
			continue
		}
		if err != nil {
			return err
		}
		if v.Action == Remove {
			s.done.Removed = append(s.done.Removed, v.Backup)
			s.Log.Info("backup removed", "backup", v.Backup, "stored", v.Stored)
		}
	}
	for _, v := range s.plan.Runs {
		if v.Action != Remove {
			continue
		}
		if err := s.repo.RemoveRun(ctx, v.Backup, v.Run); err != nil {
			return err
		}
		s.done.Runs = append(s.done.Runs, v.Run)
		s.Log.Info("unfinished run removed", "backup", v.Backup, "run", v.Run)
	}
	if len(s.done.Withdrawn) > 0 || s.keepWAL {
		return nil // what stays is more than the plan knew, and needs its WAL
	}
	if err := s.repo.RecordExpired(ctx, s.plan.facts.Archive, s.plan.gone, s.plan.At); err != nil {
		return err
	}
	s.done.WAL, err = s.repo.RemoveWAL(ctx, slices.Sorted(maps.Keys(s.plan.kept)), s.plan.gone)
	if s.done.WAL > 0 {
		s.Log.Info("WAL removed", "objects", s.done.WAL)
	}
	return err
}
