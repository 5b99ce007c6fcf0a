package restore

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// branch is one way through the timelines: a timeline with all that led to it.
type branch struct {
	postgres.TimelineHistory
	size postgres.SegmentSize
}

// file is the segment that PostgreSQL reads for position n of the branch: that of
// the newest timeline that had begun by the segment's end. The first segment of a
// timeline repeats its parent's bytes up to the fork.
func (b branch) file(n uint64) postgres.Segment {
	tli := b.Timeline
	for _, e := range slices.Backward(b.Entries) {
		if b.number(e.Switch) <= n {
			break
		}
		tli = e.Parent
	}
	return postgres.SegmentAt(tli, postgres.LSN(n*uint64(b.size)), b.size)
}

func (b branch) number(lsn postgres.LSN) uint64 { return uint64(lsn) / uint64(b.size) }

// holds tells whether the backup lies on the branch: begun on a timeline of it and
// stopped no later than the branch left that timeline. The segment with its stop
// may lie under the next timeline (R15).
func (b branch) holds(m catalog.Manifest) bool {
	if !b.Contains(m.Timeline, m.StartLSN) || m.Checkpoint != 0 && !b.Contains(m.Timeline, m.Checkpoint) {
		return false
	}
	last := m.StopLSN - 1
	return b.Contains(m.Timeline, last) || m.StopTLI != 0 && b.Contains(m.StopTLI, last)
}

// written are the timelines with WAL of their own in the archive.
func (f Facts) written() map[postgres.TimelineID]bool {
	found := map[postgres.TimelineID]bool{}
	for s := range f.Archived {
		found[s.Timeline] = true
	}
	for _, m := range f.Backups {
		found[m.Timeline] = true
	}
	return found
}

// timelines are all that segments, histories or backups tell of, newest first.
func (f Facts) timelines() []postgres.TimelineID {
	found := f.written()
	for tli := range f.Histories {
		found[tli] = true
	}
	all := slices.Sorted(maps.Keys(found))
	slices.Reverse(all)
	return all
}

// branch is the way to timeline tli. A history that is missing or contradicts
// its parent's is refused by name: PostgreSQL would take another way in silence.
func (f Facts) branch(tli postgres.TimelineID) (branch, error) {
	h, err := f.history(tli)
	if err != nil {
		return branch{}, err
	}
	for i, e := range h.Entries {
		if e.Parent <= f.oldestTimeline() {
			continue // the archive may have begun later: nothing of it is needed
		}
		parent, err := f.history(e.Parent)
		if err != nil {
			return branch{}, err
		}
		same := func(a, b postgres.HistoryEntry) bool { return a.Parent == b.Parent && a.Switch == b.Switch }
		if !slices.EqualFunc(parent.Entries, h.Entries[:i], same) {
			return branch{}, refuse("two servers used one timeline number: find out which history is rightful; a timeline below it can be restored with --target-timeline",
				"timeline history %s tells another descent than %s", postgres.HistoryFile(tli), postgres.HistoryFile(e.Parent))
		}
	}
	return branch{h, f.SegmentSize}, nil
}

// oldestTimeline is the lowest timeline that a backup began on.
func (f Facts) oldestTimeline() postgres.TimelineID {
	return slices.MinFunc(f.Backups, func(a, b catalog.Manifest) int { return cmp.Compare(a.Timeline, b.Timeline) }).Timeline
}

func (f Facts) history(tli postgres.TimelineID) (postgres.TimelineHistory, error) {
	h, ok := f.Histories[tli]
	if ok {
		return h, nil
	}
	if tli == 1 {
		return postgres.RootHistory(1), nil
	}
	for _, u := range f.Unreadable {
		if strings.HasSuffix(u.Object, "/"+postgres.HistoryFile(tli).String()) {
			return h, refuse("look for the same file in the pg_wal of any member, or choose another timeline with --target-timeline",
				"timeline history %s cannot be read: %s", postgres.HistoryFile(tli), u.Finding().Problem)
		}
	}
	return h, refuse("archive it from the pg_wal of any member, or choose another timeline with --target-timeline",
		"timeline history %s is not in the archive", postgres.HistoryFile(tli))
}

// begun tells whether the archive holds WAL that the branch's own timeline wrote.
// Without it PostgreSQL would read its parent's past the fork.
func (f Facts) begun(b branch) bool {
	return len(b.Entries) == 0 || f.written()[b.Timeline]
}

// branches are those to look for the target on, newest first: the one asked for,
// or every one with WAL of its own.
func (f Facts) branches(target Target) (found []branch, notes []string, err error) {
	all, asked := f.timelines(), target.Timeline
	if asked != 0 {
		if !slices.Contains(all, asked) {
			var known []string
			for _, tli := range all {
				known = append(known, fmt.Sprint(uint32(tli)))
			}
			return nil, nil, &NotFoundError{What: fmt.Sprintf("timeline %d", uint32(asked)), Known: known}
		}
		b, err := f.branch(asked)
		if err == nil && !f.begun(b) {
			e := b.Entries[len(b.Entries)-1]
			err = &UnreachableError{Target: target, Why: "the archive holds no WAL of that timeline yet",
				Advice: fmt.Sprintf("it left timeline %d at %s: restore that one with --target-timeline %d", uint32(e.Parent), e.Switch, uint32(e.Parent))}
		}
		return []branch{b}, nil, err
	}
	for _, tli := range all {
		if tli < f.oldestTimeline() {
			break
		}
		b, err := f.branch(tli)
		if err != nil {
			return nil, nil, err
		}
		if !f.begun(b) {
			notes = append(notes, fmt.Sprintf("timeline %d has a history but no WAL in the archive yet: nothing of it can be restored", uint32(tli)))
			continue
		}
		found = append(found, b)
	}
	return found, notes, nil
}
