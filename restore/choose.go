package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// candidates are the backups of a branch that could serve, newest first. A named
// one is the only one; damaged ones serve only when named.
func (s search) candidates(named catalog.BackupID) []catalog.Manifest {
	var found []catalog.Manifest
	for _, m := range s.facts.Backups {
		wanted := m.ID == named || named == "" && !m.Damaged()
		if wanted && m.Type == catalog.Full && s.branch.holds(m) {
			found = append(found, m)
		}
	}
	slices.SortStableFunc(found, func(a, b catalog.Manifest) int { return cmp.Compare(b.StopLSN, a.StopLSN) })
	return found
}

// errNoBackup says that no backup lies on the branch.
var errNoBackup = errors.New("no backup lies on this branch")

// solve chooses the newest backup from which the target can be reached.
func (s search) solve(ctx context.Context, named catalog.BackupID) (solution, error) {
	candidates := s.candidates(named)
	if len(candidates) == 0 {
		return solution{}, errNoBackup
	}
	var refused error
	for _, m := range candidates {
		if s.target.Kind == Time && m.StopTime.After(s.target.Time) || s.target.Kind == LSN && m.StartLSN > s.target.LSN {
			refused = s.early(m)
			continue
		}
		c := s.facts.chain(ctx, s.branch, m.StartLSN)
		if !c.reaches(m.StopLSN) {
			refused = &UnreachableError{Target: s.target, Why: fmt.Sprintf("backup %s needs %s, which is not in the archive", m.ID, c.missing),
				Advice: "a member may still have the missing segment in its pg_wal: archive it from there"}
			continue
		}
		if c.load(c.index(m.StopLSN - 1)); !c.reaches(m.StopLSN) && c.err == nil {
			refused = &UnreachableError{Target: s.target, Why: fmt.Sprintf("backup %s cannot become consistent: %s", m.ID, c.short),
				Advice: "find out with pg_waldump which server wrote what; an older backup does not help behind that place"}
			continue
		}
		found, err := s.from(c, m)
		if err == nil {
			return found, nil
		}
		_, absent := errors.AsType[*NotFoundError](err)
		unreachable, ok := errors.AsType[*UnreachableError](err)
		if !absent && (!ok || !unreachable.tooEarly) {
			return solution{}, err
		}
		// An older backup may have what this one is too late for. What no backup has
		// is told by the newest, which knows most.
		if refused == nil || !absent || c.behind.Timeline != 0 {
			refused = err
		}
	}
	return solution{}, refused
}

// early refuses a target before the end of a backup. The oldest is asked last, so
// it is the one that is told.
func (s search) early(m catalog.Manifest) error {
	return &UnreachableError{Target: s.target, Why: fmt.Sprintf("it lies before the end of backup %s", m.ID), Nearest: []Point{endOf(m)},
		Advice: "a backup can be restored to moments after its own end only, and there is no older one", tooEarly: true}
}
