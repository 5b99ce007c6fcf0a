package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// statusDocument is what status prints in JSON.
type statusDocument struct {
	Cluster           string                    `json:"cluster"`
	System            postgres.SystemIdentifier `json:"system_identifier"`
	Repository        string                    `json:"repository"`
	RepositoryType    string                    `json:"repository_type"`
	ConditionalWrites string                    `json:"conditional_writes"`
	Leader            string                    `json:"leader,omitempty"`
	Members           int                       `json:"members,omitempty"`
	Paused            bool                      `json:"paused,omitempty"`
	Backups           int                       `json:"backups"`
	Last              *backupDocument           `json:"last_backup,omitempty"`
	Windows           []catalog.Window          `json:"recoverable"`
	// RPO is the age of the newest archived segment: what is younger may be only on
	// the servers.
	RPO       *float64              `json:"rpo_seconds,omitempty"`
	Timelines []catalog.TimelineWAL `json:"timelines"`
	Conflicts []string              `json:"conflicts,omitempty"`
	Problems  []string              `json:"problems"`
}

func newStatusCommand(a *app) *cobra.Command {
	return a.surveying(&cobra.Command{
		Use: "status", Short: "Say whether the cluster can be restored, to when, and what is wrong", Args: exactly(),
		Long: "Exits 10 when anything is wrong that needs a person: a gap in the WAL archive, no whole backup, a conflict,\n" +
			"emulated create-once writes, or no leader.",
	}, a.status)
}

func (a *app) status(ctx context.Context, s survey, _ []string) error {
	d := a.describeStatus(ctx, s)
	err := a.print(d, func() error { return a.statusTable(s, d) })
	if err == nil && len(d.Problems) > 0 {
		err = fail(exitDegraded, "", "degraded: %s", plural(len(d.Problems), "problem"))
	}
	return err
}

func (a *app) describeStatus(ctx context.Context, s survey) statusDocument {
	r := a.config.Repository()
	d := statusDocument{Cluster: s.Info.Scope, System: s.Info.SystemIdentifier, Repository: r.Name, RepositoryType: r.Type,
		ConditionalWrites: r.ConditionalWrites, Backups: len(s.Backups), Windows: s.Windows, Timelines: s.Archive.Timelines, Conflicts: s.Conflicts}
	d.Problems = append([]string{}, problems(s.Survey, r)...)
	if n := len(s.Windows); n > 0 && !s.Windows[n-1].Archived.IsZero() {
		rpo := max(0, a.now().Sub(s.Windows[n-1].Archived).Seconds())
		d.RPO = &rpo
	}
	if b, err := s.Find("latest"); err == nil {
		last := describe(b)
		d.Last = &last
	}
	if !a.hasPatroni() {
		return d
	}
	t, err := a.topology(ctx)
	d.Leader, d.Members, d.Paused = t.Leader, len(t.Members), t.Paused
	switch {
	case err != nil:
		d.Problems = append(d.Problems, "leader: "+err.Error())
	case t.Leader == "":
		d.Problems = append(d.Problems, "leader: nobody leads the cluster")
	case t.SystemIdentifier != 0 && t.SystemIdentifier != s.Info.SystemIdentifier:
		d.Problems = append(d.Problems, fmt.Sprintf("cluster: Patroni runs system %s now, this repository is of %s", t.SystemIdentifier, s.Info.SystemIdentifier))
	}
	return d
}

// problems is everything in a survey that needs a person.
func problems(s catalog.Survey, r config.Repository) (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if r.ConditionalWrites == config.Emulate || s.Info.ConditionalWrites == config.Emulate {
		add("repository: create-once writes are emulated; two writers at the same moment may both believe they won")
	}
	if len(s.Backups) == 0 {
		add("backups: there is none")
	} else if _, err := s.Find("latest"); err != nil {
		add("backups: none of %d is whole", len(s.Backups))
	}
	for _, b := range s.Backups {
		switch b.State {
		case catalog.BackupDamaged:
			add("backup %s: %s of the server had bad pages", b.Manifest.ID, plural(len(b.Manifest.Damage), "file"))
		case catalog.BackupWALMissing:
			add("backup %s: its WAL is not complete", b.Manifest.ID)
		}
	}
	for _, t := range s.Archive.Timelines {
		if t.NoHistory {
			add("archive: %s is missing, timeline %d cannot be followed", postgres.HistoryFile(t.Timeline), uint32(t.Timeline))
		}
	}
	for _, gap := range s.Archive.Missing() {
		if gap.Segments == 1 {
			add("archive: %s is missing", gap.First)
		} else {
			add("archive: %d segments are missing, %s to %s", gap.Segments, gap.First, gap.Last)
		}
	}
	for _, name := range s.Conflicts {
		add("conflict: two contents of %s are kept, and nobody has said which one counts", name)
	}
	return all
}

func (a *app) statusTable(s survey, d statusDocument) error {
	var lines lines
	lines.add("Cluster", "%s (%s)", d.Cluster, d.System)
	lines.add("Repository", "%s (%s, conditional writes: %s)", d.Repository, d.RepositoryType, d.ConditionalWrites)
	if a.hasPatroni() {
		leader := "nobody"
		if d.Leader != "" {
			leader = fmt.Sprintf("%s of %s", d.Leader, plural(d.Members, "member"))
		}
		if d.Paused {
			leader += ", paused"
		}
		lines.add("Leader", "%s", leader)
	}
	if b := d.Last; b != nil {
		lines.add("Last backup", "%s, finished %sZ (%s ago), %s, %s", b.ID, clock(b.StopTime), age(a.now().Sub(b.StopTime)), b.Type, byteCount(b.Bytes))
	} else {
		lines.add("Last backup", "none")
	}
	for _, window := range a.windows(s) {
		lines.add("Recoverable", "%s", window)
	}
	for _, t := range d.Timelines {
		lines.add(fmt.Sprintf("Timeline %d", uint32(t.Timeline)), "%s", a.frontier(t))
	}
	if len(d.Problems) == 0 {
		lines.add("Problems", "none")
	}
	for _, p := range d.Problems {
		lines.add("Problem", "%s", p)
	}
	return lines.print(a.stdout)
}

func (a *app) frontier(t catalog.TimelineWAL) string {
	if len(t.Ranges) == 0 {
		return "no WAL"
	}
	text := "archived to " + t.Ranges[len(t.Ranges)-1].Last.Name()
	if !t.Archived.IsZero() {
		text += fmt.Sprintf(", %s ago", age(max(0, a.now().Sub(t.Archived))))
	}
	return text
}
