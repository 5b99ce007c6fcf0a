package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

func newWALCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "wal", Short: "Look into the WAL archive"}, newWALListCommand(a))
}

func newWALListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List what the archive holds of each timeline, and what is missing", Args: exactly()}
	system := systemFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		id, err := a.systemIdentifier(cmd.Context(), *system)
		if err != nil {
			return err
		}
		repository, err := a.repository(cmd.Context(), id)
		if err != nil {
			return err
		}
		archive, err := repository.Archive(cmd.Context())
		if err != nil {
			return fmt.Errorf("list the WAL archive of %s: %w", a.loaded.Cluster.Scope, err)
		}
		if a.format == "json" {
			return a.json(struct {
				Cluster     string                    `json:"cluster"`
				System      postgres.SystemIdentifier `json:"system_identifier"`
				SegmentSize postgres.SegmentSize      `json:"wal_segment_size"`
				Timelines   []catalog.TimelineWAL     `json:"timelines"`
			}{a.loaded.Cluster.Scope, id, archive.SegmentSize, archive.Timelines})
		}
		return a.walTable(id, archive)
	}
	return cmd
}

func (a *app) walTable(id postgres.SystemIdentifier, archive catalog.Archive) error {
	t := table{title: fmt.Sprintf("WAL of %s (%s)", a.loaded.Cluster.Scope, id),
		head: []string{">TL", "Forked from", "Start", "End", ">Segments", ">Stored", "Archived (UTC)", "Status"}}
	for _, w := range archive.Timelines {
		fork := ""
		if w.Parent != 0 {
			fork = fmt.Sprintf("%d at %s", uint32(w.Parent), w.Switch)
		}
		if w.NoHistory {
			fork = "HISTORY MISSING"
		}
		type line struct {
			catalog.Range
			archived time.Time
			status   string
		}
		var lines []line
		for i, r := range w.Ranges {
			l := line{Range: r, status: "ok"}
			if i == len(w.Ranges)-1 {
				l.archived = w.Archived
			}
			lines = append(lines, l)
		}
		for _, r := range w.Missing {
			lines = append(lines, line{Range: r, status: "MISSING"})
		}
		slices.SortStableFunc(lines, func(x, y line) int {
			return int(int64(x.First.Number(archive.SegmentSize)) - int64(y.First.Number(archive.SegmentSize)))
		})
		for _, l := range lines {
			stored := ""
			if l.status == "ok" {
				stored = byteCount(l.Size)
			}
			t.add(fmt.Sprint(uint32(w.Timeline)), fork, l.First.Name(), l.Last.Name(), fmt.Sprint(l.Segments), stored, clock(l.archived), l.status)
		}
		if len(lines) == 0 {
			t.add(fmt.Sprint(uint32(w.Timeline)), fork, "", "", "0", "", "", "no WAL")
		}
	}
	return t.print(a.stdout)
}
