package restore

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sync/errgroup"
)

// NewMemberPlan plans the copy that a new member of a running cluster starts from:
// the newest good backup from which archived WAL leads onto the leader's timeline.
// The member then follows the leader; so there is no target. Timeline 0 means that
// nobody leads: the newest timeline of the archive counts. It refuses with a
// *PreflightError wherever PostgreSQL, which follows the newest history it finds,
// would run along another branch than the leader.
func NewMemberPlan(ctx context.Context, facts Facts, leader postgres.TimelineID) (Plan, error) {
	if len(facts.Backups) == 0 {
		return Plan{}, refuse("take one with pgha-backup backup", "the repository holds no backup")
	}
	newest := facts.timelines()[0]
	if leader == 0 {
		leader = newest
	}
	if newest > leader {
		return Plan{}, refuse("if the leader has just changed, try again; otherwise find out who archived that timeline",
			"the archive knows timeline %d, which a new member would follow, and the leader is on %d", uint32(newest), uint32(leader))
	}
	b, err := facts.branch(leader)
	if err != nil {
		return Plan{}, err
	}
	target := Target{Kind: Latest, Timeline: leader}
	candidates := search{facts: facts, branch: b, target: target}.candidates("")
	if len(candidates) == 0 {
		return Plan{}, refuse("take one with pgha-backup backup", "no undamaged full backup lies on the history of timeline %d", uint32(leader))
	}
	m := candidates[0] // what it lacks, every older one lacks
	for tli := m.Timeline + 1; tli < leader; tli++ {
		if _, err := facts.history(tli); err != nil { // the server looks for them one by one
			return Plan{}, err
		}
	}
	c := facts.chain(ctx, b, m.StartLSN)
	if err := facts.leadsTo(c, m.StopLSN); err != nil {
		return Plan{}, err
	}
	found := solution{chain: c, backup: m, effective: target, read: c.end(),
		stop: Stop{LSN: m.StopLSN, Timeline: b.TimelineAt(m.StopLSN - 1), What: "nowhere: the member follows its leader"}}
	plan, err := found.plan(Request{Target: target}, nil)
	plan.WAL = plan.WAL[:min(len(plan.WAL), c.index(m.StopLSN-1)+1)]
	return plan, err
}

// leadsTo refuses a chain on which a server would stop, or leave the branch, before
// it can stream from the leader: with a hole, or without the way past the last fork.
func (f Facts) leadsTo(c *chain, stop postgres.LSN) error {
	const advice = "a member may still have it in its pg_wal: archive it from there; or take a new backup"
	c.load(len(c.segs))
	b := c.branch
	fork := stop
	if n := len(b.Entries); n > 0 && b.Entries[n-1].Switch > stop {
		fork = b.Entries[n-1].Switch
	}
	switch {
	case c.err != nil:
		return c.err
	case c.behind.Timeline != 0:
		return refuse(advice, "the archive has a gap behind the newest backup: %s is missing, WAL goes on with %s", c.missing, c.behind)
	case !c.reaches(stop):
		return refuse(advice, "the newest backup needs %s, which is not in the archive", c.missing)
	case fork > stop && !c.reaches(postgres.LSN(b.number(fork)*uint64(b.size))):
		return refuse(advice, "the archive ends before timeline %d begins: %s is missing", uint32(b.Timeline), c.missing)
	}
	// The last segment of the former timeline, if its server could still archive it,
	// goes on past the fork. It is what a new member would read.
	for _, e := range b.Entries {
		if former := c.missing.On(e.Parent); fork > stop && former.Number(b.size) == b.number(fork) && f.Archived[former] {
			return refuse("SELECT pg_switch_wal() on the leader archives it at once",
				"%s is not archived yet, but %s is, which leaves the leader's history", c.missing, former)
		}
	}
	return nil
}

// memberSettings leaves what ALTER SYSTEM had set, without the settings of a
// recovery: those a member gets from Patroni.
func (x *execution) memberSettings(context.Context) error {
	existing, ok := x.held[autoConfFile]
	if !ok {
		return nil
	}
	return x.ours(autoConfFile, []byte(withoutSettings(string(existing), anotherLife)))
}

// memberWAL puts the backup's own WAL, and the histories that lead to the leader,
// where the first start finds them without restore_command: were that to fail,
// Patroni would recover the copy on its own, as if it had crashed.
func (x *execution) memberWAL(ctx context.Context) error {
	files := make([]postgres.WALFile, 0, len(x.plan.WAL))
	for tli := x.plan.Backup.Timeline + 1; tli <= x.plan.Timeline; tli++ {
		files = append(files, postgres.HistoryFile(tli))
	}
	for _, s := range x.plan.WAL {
		files = append(files, postgres.WALFile{Kind: postgres.WALSegment, Segment: s})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, f := range files {
		done := "pg_wal/archive_status/" + f.String() + ".done"
		x.loose = append(x.loose, "pg_wal/"+f.String(), done)
		group.Go(func() error { return errors.Join(x.memberFile(ctx, f), x.tree.write(done, nil)) })
	}
	return group.Wait()
}

func (x *execution) memberFile(ctx context.Context, f postgres.WALFile) error {
	if f.Kind == postgres.WALHistory {
		var text bytes.Buffer
		if _, err := x.repository.GetWAL(ctx, f, &text); err != nil {
			return err
		}
		return x.tree.write("pg_wal/"+f.String(), text.Bytes())
	}
	r, w := io.Pipe()
	go func() {
		_, err := x.repository.GetWAL(ctx, f, catalog.AtMost(w, int64(x.plan.Backup.SegmentSize)))
		_ = w.CloseWithError(err)
	}()
	defer r.Close()
	return x.tree.fill("pg_wal/"+f.String(), 0o600, int64(x.plan.Backup.SegmentSize), r, io.Discard)
}
