package restore

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// solution is a way to the target: this backup, this branch, this end.
type solution struct {
	chain     *chain
	backup    catalog.Manifest
	effective Target
	stop      Stop
	// read is the end of the last record that recovery must be able to read: the
	// record that it stops at, even if it stops before it.
	read  postgres.LSN
	notes []string
}

// search looks for one target on one branch.
type search struct {
	facts  Facts
	branch branch
	target Target
}

// from solves the target with one backup. The rules are those of PostgreSQL's
// recoveryStopsBefore and recoveryStopsAfter, which look at every record from the
// backup's start on, consistent or not.
func (s search) from(c *chain, m catalog.Manifest) (solution, error) {
	found := solution{chain: c, backup: m, effective: s.target}
	var err error
	switch s.target.Kind {
	case Time:
		err = s.time(&found)
	case XID:
		err = s.xid(&found)
	case Name:
		err = s.name(&found)
	case LSN:
		err = s.lsn(&found)
	case Immediate:
		found.immediate()
	default:
		err = s.latest(&found)
	}
	if err = cmp.Or(c.err, err); err != nil {
		return found, err
	}
	if found.stop.LSN < m.StopLSN {
		return found, s.early(m)
	}
	c.load(c.index(found.read - 1))
	if kept, ok := c.transaction(found.stop.LSN); ok && kept.End > m.StopLSN {
		found.stop.Time = kept.Time
	}
	found.effective.Timeline = s.branch.Timeline
	found.stop.Timeline = s.branch.TimelineAt(found.stop.LSN - 1)
	return found, c.err
}

func endOf(m catalog.Manifest) Point {
	return Point{What: "the end of backup " + string(m.ID), Time: m.StopTime, LSN: m.StopLSN, Timeline: m.Timeline}
}

func (s search) time(found *solution) error {
	c, want := found.chain, s.target.Time
	past := func(t time.Time) bool { return t.After(want) || s.target.Exclusive && t.Equal(want) }
	hit, ok := c.first(func(h postgres.SegmentFacts) bool { return past(h.MaxTime) }, false,
		func(r postgres.Record) bool { return r.Kind.EndsTransaction() && past(r.Time) })
	if ok {
		found.stopBefore(hit)
		return nil
	}
	// No transaction ended past the target: is that because none did, or because the
	// archive knows no more?
	proof := s.proof(c, want)
	if proof == "" {
		return s.beyond(c, found.backup, "it is past the archive, which knows of nothing so late")
	}
	last, ok := c.transaction(c.end())
	if !ok || last.End < found.backup.StopLSN {
		found.notes = append(found.notes, fmt.Sprintf("no transaction ended between the backup and %s (%s): the backup itself is that state", stamp(want), proof))
		found.immediate()
		return nil
	}
	found.notes = append(found.notes, fmt.Sprintf("no transaction ended after %s (%s): recovery stops after the last one, the %s", stamp(want), proof, describe(last)))
	found.stopAfterLSN(last)
	return nil
}

// proof says what shows that the server's clock had passed t within the chain.
func (s search) proof(c *chain, t time.Time) string {
	clock, ok := c.clock()
	if ok && !clock.Time.Before(t) {
		return fmt.Sprintf("the archive goes on to %s, %s", stamp(clock.Time), clock.Kind)
	}
	for _, m := range s.facts.Backups {
		if s.branch.holds(m) && m.StartLSN >= c.from && c.reaches(m.StopLSN) && !m.StopTime.Before(t) {
			return fmt.Sprintf("backup %s ended at %s", m.ID, stamp(m.StopTime))
		}
	}
	return ""
}

func (s search) xid(found *solution) error {
	xid := s.target.XID
	hit, ok := found.chain.first(func(h postgres.SegmentFacts) bool { return h.MinXID <= xid && xid <= h.MaxXID }, false,
		func(r postgres.Record) bool { return r.Kind.EndsTransaction() && r.XID == xid })
	switch {
	case !ok:
		return &NotFoundError{What: fmt.Sprintf("the end of transaction %d", xid), Gap: found.chain.gap(),
			Advice: "only the xid of a whole transaction can be a target, not that of a subtransaction; one that wrote nothing leaves no record"}
	case s.target.Exclusive:
		found.stopBefore(hit)
	default:
		found.stopAfter(hit)
	}
	return nil
}

func (s search) name(found *solution) error {
	name, c := s.target.Name, found.chain
	hit, ok := c.first(func(h postgres.SegmentFacts) bool {
		return slices.ContainsFunc(h.RestorePoints, func(p postgres.RestorePoint) bool { return p.Name == name })
	}, true, func(r postgres.Record) bool { return r.Kind == postgres.RecordRestorePoint && r.Name == name })
	if !ok {
		e := &NotFoundError{What: s.target.String(), Gap: c.gap()}
		for _, h := range slices.Backward(c.headers) {
			for _, p := range slices.Backward(h.RestorePoints) {
				if len(e.Known) < 10 {
					e.Known = append(e.Known, fmt.Sprintf("%q of %s", p.Name, stamp(p.Time)))
				}
			}
		}
		return e
	}
	if s.target.Exclusive {
		found.effective.Exclusive = false
		found.notes = append(found.notes, "PostgreSQL stops after a restore point: it has no exclusive form")
	}
	found.stopAfter(hit)
	return nil
}

// gap is the first segment missing, if there is WAL behind it, else empty.
func (c *chain) gap() string {
	if c.behind.Timeline == 0 {
		return ""
	}
	return c.missing.Name()
}

func (s search) lsn(found *solution) error {
	c, want := found.chain, s.target.LSN
	c.load(c.index(want))
	hit, ok := c.firstAt(want)
	switch {
	case ok && s.target.Exclusive:
		found.stopBefore(hit)
		return nil
	case ok:
		found.stopAfter(hit)
		return nil
	}
	last, ok := c.before(want)
	if !ok || last.End < want {
		return s.beyond(c, found.backup, "it is past the archive")
	}
	found.notes = append(found.notes, fmt.Sprintf("the archive ends exactly at %s: recovery stops after the last record", want))
	found.stopAfterLSN(last)
	return nil
}

func (s search) latest(found *solution) error {
	c := found.chain
	c.load(len(c.segs))
	if c.behind.Timeline != 0 {
		return s.beyond(c, found.backup, "the archive has a gap")
	}
	last, ok := c.before(c.end())
	if !ok {
		return s.beyond(c, found.backup, "no record can be read behind the backup's start")
	}
	// The end is pinned: what is archived from now on was not looked at, and may make
	// tablespaces that nobody has mapped (R24).
	found.stopAfterLSN(last)
	found.stop.What, found.read = "after the last archived record", c.end()
	return nil
}

// immediate stops where the backup is consistent. PostgreSQL notices that at the
// next record; where the archive has none, it is told to stop at the last one.
func (found *solution) immediate() {
	c, end := found.chain, found.backup.StopLSN
	c.load(c.index(end))
	if next, ok := c.firstAt(end); ok {
		found.effective = Target{Kind: Immediate, Action: found.effective.Action}
		found.stop, found.read = Stop{LSN: end}, next.End
	} else if last, ok := c.before(end); ok {
		found.stopAfterLSN(last)
	}
	found.stop.What = "at the end of the backup"
}

func (found *solution) stopAfter(r postgres.Record) {
	found.stop, found.read = Stop{LSN: r.End, Exact: true, What: "after " + describe(r)}, r.End
}

// stopAfterLSN makes PostgreSQL stop after a record that it would not stop at by itself.
func (found *solution) stopAfterLSN(r postgres.Record) {
	found.effective = Target{Kind: LSN, LSN: r.Start, Action: found.effective.Action}
	found.stopAfter(r)
}

func (found *solution) stopBefore(r postgres.Record) {
	last, _ := found.chain.before(r.Start) // none is before the very first: nothing is replayed
	found.stop, found.read = Stop{LSN: last.End, Exact: true, What: "before " + describe(r)}, r.End
}

func describe(r postgres.Record) string {
	at := " at " + r.Start.String()
	if !r.Time.IsZero() {
		at = " of " + stamp(r.Time) + at
	}
	switch {
	case r.Kind.EndsTransaction():
		return fmt.Sprintf("%s of transaction %d%s", r.Kind, r.XID, at)
	case r.Kind == postgres.RecordRestorePoint:
		return fmt.Sprintf("restore point %q%s", r.Name, at)
	case r.Kind == 0:
		return "the record" + at
	}
	return fmt.Sprintf("%s record%s", r.Kind, at)
}

// beyond refuses a target that lies behind what the chain proves: past the end of
// the archive or in or behind a gap. It names the last point before and, where a
// later backup lies behind the gap, the first one after.
func (s search) beyond(c *chain, m catalog.Manifest, why string) error {
	e := &UnreachableError{Target: s.target, Why: why}
	c.load(len(c.segs))
	last, ok := c.transaction(c.end())
	near := endOf(m)
	if ok && last.End > m.StopLSN {
		near = Point{What: "after " + last.Kind.String() + fmt.Sprintf(" of transaction %d", last.XID), Time: last.Time, LSN: last.End, Timeline: s.branch.TimelineAt(last.Start)}
	}
	e.Nearest = append(e.Nearest, near)
	if c.behind.Timeline == 0 {
		e.Why += fmt.Sprintf(" (it ends with %s)", c.segs[len(c.segs)-1])
		e.Advice = "if the server still runs, pg_switch_wal() archives what it has; without a target a restore goes to the end of the archive"
	} else {
		e.Why = fmt.Sprintf("the archive has a gap: %s is missing, WAL goes on with %s", c.missing, c.behind)
		if c.missing == c.segs[len(c.segs)-1] {
			e.Why = fmt.Sprintf("the archive has a gap: %s, but WAL goes on with %s", c.short, c.behind)
		}
		e.Advice = "a member may still have the missing segment in its pg_wal: archive it from there"
		for _, later := range s.facts.Backups {
			if s.branch.holds(later) && later.Type == catalog.Full && !later.Damaged() && later.StartLSN >= c.behind.Start(c.branch.size) {
				e.Nearest = append(e.Nearest, endOf(later))
				break
			}
		}
	}
	return e
}

// end is behind every byte of the chain.
func (c *chain) end() postgres.LSN { return c.segs[len(c.segs)-1].End(c.branch.size) }
