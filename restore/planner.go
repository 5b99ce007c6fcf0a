package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Request is what the user wants.
type Request struct {
	Target Target
	// Backup restores from this one; empty chooses.
	Backup catalog.BackupID
	// Mapping gives tablespace paths, old to new.
	Mapping map[string]string
}

// NewPlan decides how to reach the target, or refuses it: an UnreachableError,
// NotFoundError or PreflightError changes nothing and says what can be reached.
// Without a timeline in the target, the newest one that holds it counts.
func NewPlan(ctx context.Context, facts Facts, request Request) (Plan, error) {
	if err := request.Target.Validate(); err != nil {
		return Plan{}, err
	}
	notes, err := facts.checkBackup(request)
	if err != nil {
		return Plan{}, err
	}
	branches, said, err := facts.branches(request.Target)
	if err != nil {
		return Plan{}, err
	}
	notes = append(notes, said...)
	var refused error
	for i, b := range branches {
		s := search{facts: facts, branch: b, target: request.Target}
		found, err := s.solve(ctx, request.Backup)
		switch {
		case err == nil:
			if request.Target.Timeline != 0 {
				return found.plan(request, notes)
			}
			others, err := s.elsewhere(ctx, branches[i+1:])
			if err == nil {
				found, err = s.simplest(ctx, found)
			}
			if err != nil {
				return Plan{}, err
			}
			return found.plan(request, append(notes, others...))
		case errors.Is(err, errNoBackup):
			continue
		case !isRefusal(err):
			return Plan{}, err
		}
		if refused == nil {
			refused = err
		}
		if k := request.Target.Kind; k == Latest || k == Immediate {
			break // an older branch is no answer to "the newest"
		}
	}
	if refused == nil {
		refused = facts.noBackup(request, branches)
	}
	return Plan{}, refused
}

// isRefusal tells a decision from a failure to read.
func isRefusal(err error) bool {
	_, unreachable := errors.AsType[*UnreachableError](err)
	_, absent := errors.AsType[*NotFoundError](err)
	return unreachable || absent
}

func (f Facts) checkBackup(request Request) (notes []string, err error) {
	for _, u := range f.Unreadable {
		if u.Backup != "" && u.Backup == request.Backup {
			return nil, fmt.Errorf("backup %s cannot be read: %w", u.Backup, u.Err)
		}
		finding := u.Finding()
		notes = append(notes, fmt.Sprintf("%s is left out, it cannot be read: %s", finding.Object, finding.Problem))
	}
	for _, u := range f.Unreadable {
		if u.Backup != "" && len(f.Backups) == 0 {
			return nil, fmt.Errorf("no backup can be read, %s neither: %w", u.Backup, u.Err)
		}
	}
	if len(f.Backups) == 0 {
		return nil, &NotFoundError{What: "a backup", Advice: "take one with pgha-backup backup"}
	}
	if request.Backup == "" {
		return notes, nil
	}
	i := slices.IndexFunc(f.Backups, func(m catalog.Manifest) bool { return m.ID == request.Backup })
	if i < 0 {
		e := &NotFoundError{What: "backup " + string(request.Backup)}
		for _, m := range f.Backups[max(0, len(f.Backups)-10):] {
			e.Known = append(e.Known, string(m.ID))
		}
		return nil, e
	}
	switch m := f.Backups[i]; {
	case m.Type != catalog.Full:
		return nil, fmt.Errorf("backup %s is of type %s: this version restores full backups only", m.ID, m.Type)
	case m.Damaged():
		notes = append(notes, fmt.Sprintf("backup %s holds damaged pages in %d files and is restored because it was named", m.ID, len(m.Damage)))
	}
	return notes, nil
}

// noBackup refuses because no usable backup lies on any branch asked for.
func (f Facts) noBackup(request Request, branches []branch) error {
	e := &UnreachableError{Target: request.Target, Why: "no undamaged full backup lies on that branch of the timeline tree"}
	if request.Backup != "" {
		e.Why = fmt.Sprintf("backup %s does not lie on that branch of the timeline tree", request.Backup)
	}
	for _, m := range f.Backups {
		if m.ID == request.Backup || request.Backup == "" && m.Type == catalog.Full && !m.Damaged() {
			e.Nearest = append(e.Nearest, endOf(m))
		}
	}
	e.Nearest = e.Nearest[:min(3, len(e.Nearest))]
	if len(branches) == 1 {
		e.Advice = "choose the timeline of a backup, or one that left it after the backup's end"
	}
	return e
}

// simplest prefers the timeline that owns the stop to a newer one that also leads
// there: PostgreSQL then writes a history without a detour. Only where the
// archive leads to exactly the same end.
func (s search) simplest(ctx context.Context, found solution) (solution, error) {
	owner := found.stop.Timeline
	if owner == s.branch.Timeline || s.target.Kind == Latest {
		return found, nil
	}
	b, err := s.facts.branch(owner)
	if err != nil {
		return found, nil // the newer branch stands without it
	}
	same, err := search{facts: s.facts, branch: b, target: s.target}.solve(ctx, found.backup.ID)
	switch {
	case err != nil && !isRefusal(err):
		return found, err
	case err != nil || same.stop != found.stop:
		return found, nil
	}
	return same, nil
}

// elsewhere tells which other branches hold the target at another place.
func (s search) elsewhere(ctx context.Context, others []branch) (notes []string, err error) {
	if k := s.target.Kind; k == Latest || k == Immediate {
		return nil, nil
	}
	seen := map[Stop]bool{}
	for _, b := range others {
		other, err := search{facts: s.facts, branch: b, target: s.target}.solve(ctx, "")
		if err != nil {
			if errors.Is(err, errNoBackup) || isRefusal(err) {
				continue
			}
			return nil, err
		}
		// What lies on our own branch is no other truth, and one is told once.
		if !s.branch.Contains(other.stop.Timeline, other.stop.LSN-1) && !seen[other.stop] {
			seen[other.stop] = true
			notes = append(notes, fmt.Sprintf("timeline %d also holds this target: it would stop %s; choose it with --target-timeline %d", uint32(b.Timeline), other.stop.What, uint32(b.Timeline)))
		}
	}
	return notes, nil
}

func (found solution) plan(request Request, notes []string) (Plan, error) {
	c := found.chain
	last := c.index(found.read - 1)
	p := Plan{Backup: found.backup, Target: request.Target, Effective: found.effective, Timeline: c.branch.Timeline,
		History: c.branch.TimelineHistory, Stop: found.stop, WAL: slices.Clone(c.segs[:last+1]),
		Notes: append(notes, found.notes...)}
	p.GapBehind = c.behind.Timeline != 0
	if c.short != "" && request.Target.Kind == Latest {
		p.Notes = append(p.Notes, c.short)
	}
	tablespaces, err := c.tablespaces(found.backup, last, found.stop)
	if err != nil {
		return Plan{}, err
	}
	p.Tablespaces, err = mapped(tablespaces, request.Mapping)
	return p, err
}

// tablespaces are those of the backup and those that replay creates again at
// their old path, up to segment last (R24).
func (c *chain) tablespaces(m catalog.Manifest, last int, stop Stop) ([]TablespacePlan, error) {
	var all []TablespacePlan
	// One that is in the backup may be created again in replay, which then leads its
	// link back to the old path: both are told.
	add := func(t postgres.Tablespace, later bool) {
		if p := (TablespacePlan{OID: t.OID, From: t.Path, To: t.Path, Later: later}); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	for _, t := range m.Tablespaces {
		add(t, false)
	}
	for i := 0; i <= last; i++ {
		h := c.header(i)
		end := c.segs[i].End(c.branch.size)
		stopsHere := stop.Exact && stop.LSN < end // what follows the stop is not replayed
		if stopsHere {
			end = stop.LSN
		}
		if !stopsHere || len(h.Tablespaces) == 0 {
			for _, t := range h.Tablespaces {
				add(t, true)
			}
			if h.Walked && !openMay(h.Open, true, c.segs[i].End(c.branch.size)) {
				continue
			}
		}
		c.scan(i, func(r postgres.Record) bool {
			if r.Start < end && r.Kind == postgres.RecordTablespaceCreate {
				add(r.Tablespace, true)
			}
			return r.Start < end
		})
	}
	return all, c.err
}

func mapped(all []TablespacePlan, mapping map[string]string) ([]TablespacePlan, error) {
	used := map[string]bool{}
	var known []string
	for i, t := range all {
		known = append(known, t.From)
		if to, ok := mapping[t.From]; ok {
			all[i].To, used[t.From] = to, true
		}
	}
	for _, from := range slices.Sorted(maps.Keys(mapping)) {
		if !used[from] {
			return nil, &NotFoundError{What: "a tablespace at " + from, Known: known,
				Advice: "--tablespace-mapping takes OLD=NEW, OLD being a path of the original server"}
		}
	}
	return all, nil
}
