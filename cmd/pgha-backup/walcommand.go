package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

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
