package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/spf13/cobra"
)

// gapDocument is a gap as wal gaps list prints it in JSON.
type gapDocument struct {
	First    postgres.Segment `json:"first"`
	Last     postgres.Segment `json:"last"`
	Segments int              `json:"segments"`
	State    catalog.GapState `json:"state"`
	Since    time.Time        `json:"since,omitzero"`
	By       string           `json:"by,omitempty"`
	Why      string           `json:"why,omitempty"`
	// After is the last commit before it, Until the end of the first whole backup behind it.
	After     time.Time          `json:"not_recoverable_after,omitzero"`
	Until     time.Time          `json:"not_recoverable_until,omitzero"`
	Abandoned bool               `json:"abandoned,omitempty"` // the newest branch does not go through it
	Accepted  *catalog.GapRecord `json:"accepted,omitempty"`
}

func newWALGapsCommand(a *app) *cobra.Command {
	cmd := a.surveying(&cobra.Command{Use: "gaps [list]", Short: "List what the archive lacks, with the times that cannot be restored to",
		Long: "Lists what the archive lacks, with the times that cannot be restored to.\n\n" +
			"A gap is late while a member may still bring its segments, lost when none will, dropped when PostgreSQL was told to\n" +
			"go on without them (archive.on_full), and accepted when a person knows of it. Exits 10 when there is one that is not.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] == "list" {
				args = args[1:]
			}
			return exactly()(cmd, args)
		}}, a.gaps)
	cmd.AddCommand(newWALGapsAcceptCommand(a))
	return cmd
}

func (a *app) gaps(ctx context.Context, s survey, _ []string) error {
	d := struct {
		about
		Gaps []gapDocument `json:"gaps"`
	}{s.about, []gapDocument{}}
	open := 0
	var live *daemon.Status // knows since when a late one is watched, and what is waited for
	for _, g := range s.Archive.Gaps() {
		doc := gapDocument{First: g.First, Last: g.Last, Segments: g.Segments, State: g.State, Accepted: g.Accepted}
		if doc.Accepted == nil {
			open++
		}
		if r := g.Record; r != nil {
			doc.Since, doc.By, doc.Why, doc.After = r.At, r.By, r.Reason, r.After
		} else {
			if live == nil {
				now, _ := a.askDaemon(ctx)
				live = &now
			}
			if i := slices.IndexFunc(live.Gaps, func(x daemon.Gap) bool { return x.First == g.First }); i >= 0 {
				doc.Since, doc.Why = live.Gaps[i].Since, live.Gaps[i].Why
			}
		}
		if doc.After.IsZero() {
			var err error
			if doc.After, _, err = s.repository.GapSpan(ctx, s.Archive, g.Range); err != nil {
				return err
			}
		}
		first, current := s.Bridge(g.Range)
		if doc.Abandoned = !current; first != nil {
			doc.Until = first.StopTime.UTC()
		}
		d.Gaps = append(d.Gaps, doc)
	}
	err := a.print(d, func() error { return a.gapsTable(s, d.Gaps) })
	if err == nil && open > 0 {
		err = fail(exitDegraded, "docs/RUNBOOK.md, PghaWalGap: what to do about one", "%s not accepted", plural(open, "gap"))
	}
	return err
}

func (a *app) gapsTable(s survey, gaps []gapDocument) error {
	t := table{title: "Gaps of " + s.Info.Scope, head: []string{">TL", "First", "Last", ">Segments", "State", "Since (UTC)", "Not recoverable (UTC)", "Why"}}
	for _, g := range gaps {
		from, to, state, by, why := clock(g.After), clock(g.Until), string(g.State), g.By, g.Why
		if from == "" {
			from = "the last commit before it"
		}
		switch {
		case g.Abandoned:
			to = "the end of this abandoned branch"
		case to == "":
			to = "now"
		}
		if g.Accepted != nil {
			state, by, why = "accepted", g.Accepted.By, g.Accepted.Reason
		}
		if by != "" {
			why = by + ": " + why
		}
		t.add(fmt.Sprint(uint32(g.First.Timeline)), g.First.Name(), g.Last.Name(), fmt.Sprint(g.Segments), state, clock(g.Since), from+" .. "+to, why)
	}
	return t.print(a.stdout)
}

func newWALGapsAcceptCommand(a *app) *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{Use: "accept <first segment>", Short: "Say that a gap is known: status is no longer degraded by it", Args: exactly("<first segment>"),
		Long: "Says that a gap is known, by a record beside that of the gap: status and the alert are quiet about it, and wal gaps\n" +
			"shows who said so, and why. A restore into the gap or across it is refused as before."}
	cmd.Flags().StringVar(&reason, "reason", "", "why (required); wal gaps list shows it")
	cmd.Flags().BoolVar(&yes, "yes", false, "also a gap that a member may still fill")
	return a.surveying(cmd, func(ctx context.Context, s survey, args []string) error {
		file, err := postgres.ParseWALFile(args[0])
		if err != nil || file.Kind != postgres.WALSegment {
			return usage("%q: want the name of a WAL segment", args[0])
		}
		if reason == "" {
			return usage("--reason is missing: whoever wonders about this gap will want to know")
		}
		gaps := s.Archive.Gaps()
		i := slices.IndexFunc(gaps, func(g catalog.Gap) bool { return g.First == file.Segment })
		if i < 0 {
			return fail(exitNotFound, "pgha-backup wal gaps lists them", "no gap begins with %s", file)
		}
		g := gaps[i]
		record := catalog.GapRecord{Format: catalog.Format, First: g.First, Last: g.Last, At: a.now().UTC().Truncate(time.Second), By: a.whoami(), Reason: reason}
		if g.Accepted != nil {
			record = *g.Accepted
		} else if g.State == catalog.GapLate && !yes {
			return fail(exitPreflight, "wait until it is filled or lost, or pass --yes", "the gap that begins with %s is late: a member may still bring it; nothing was changed", file)
		} else if _, err := s.repository.RecordGap(ctx, record, catalog.GapAccepted); err != nil {
			return err
		}
		return a.say(record, "the gap from %s to %s is accepted", g.First, g.Last)
	})
}

func newWALCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "wal", Short: "Look into the WAL archive"}, newWALListCommand(a), newWALGapsCommand(a), newWALConflictsCommand(a))
}

func newWALListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List what the archive holds of each timeline, and what is missing", Args: exactly()}
	return a.reading(cmd, func(ctx context.Context, repository *catalog.Repository, _ []string) error {
		archive, err := repository.Archive(ctx)
		if err != nil {
			return fmt.Errorf("list the WAL archive of %s: %w", a.config.Cluster.Scope, err)
		}
		of := aboutOf(repository)
		return a.print(struct {
			about
			SegmentSize postgres.SegmentSize  `json:"wal_segment_size"`
			Timelines   []catalog.TimelineWAL `json:"timelines"`
		}{of, archive.SegmentSize, archive.Timelines}, func() error { return a.walTable(of, archive) })
	})
}

func (a *app) walTable(of about, archive catalog.Archive) error {
	t := table{title: of.title("WAL of"),
		head: []string{">TL", "Forked from", "Start", "End", ">Segments", ">Stored", "Archived (UTC)", "Status"}}
	for _, w := range archive.Timelines {
		fork := ""
		if w.Parent != 0 {
			fork = fmt.Sprintf("%d at %s", uint32(w.Parent), w.Switch)
		}
		if w.NoHistory {
			fork = "HISTORY MISSING"
		}
		first := len(t.rows)
		add := func(r catalog.Range, stored, archived, status string) {
			t.add(fmt.Sprint(uint32(w.Timeline)), fork, r.First.Name(), r.Last.Name(), fmt.Sprint(r.Segments), stored, archived, status)
		}
		for i, r := range w.Ranges {
			archived := ""
			if i == len(w.Ranges)-1 {
				archived = clock(w.Archived)
			}
			add(r, byteCount(r.Size), archived, "ok")
		}
		for _, r := range w.Missing {
			add(r, "", "", "MISSING")
		}
		slices.SortStableFunc(t.rows[first:], func(x, y []string) int { return strings.Compare(x[2], y[2]) }) // by the first segment's name
		if len(t.rows) == first {
			t.add(fmt.Sprint(uint32(w.Timeline)), fork, "", "", "0", "", "", "no WAL")
		}
	}
	return t.print(a.stdout)
}
