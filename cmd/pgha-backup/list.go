package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// backupDocument is a backup as list and status print it in JSON: the manifest's
// own names for the part of it that fits a list.
type backupDocument struct {
	ID        catalog.BackupID    `json:"id"`
	State     catalog.BackupState `json:"state"`
	Lacks     []postgres.Segment  `json:"missing_wal,omitempty"`
	Type      catalog.BackupType  `json:"type"`
	Member    string              `json:"member"`
	Role      string              `json:"role"`
	StartTime time.Time           `json:"start_time"`
	StopTime  time.Time           `json:"stop_time"`
	StartLSN  postgres.LSN        `json:"start_lsn"`
	StopLSN   postgres.LSN        `json:"stop_lsn"`
	Timeline  postgres.TimelineID `json:"timeline"`
	StopTLI   postgres.TimelineID `json:"stop_timeline"`
	Version   postgres.Version    `json:"server_version"`
	Bytes     int64               `json:"bytes"`
	Stored    int64               `json:"stored"`
	Comment   string              `json:"comment,omitempty"`
}

func describe(b catalog.Surveyed) backupDocument {
	m := b.Manifest
	return backupDocument{ID: m.ID, State: b.State, Lacks: b.Lacks, Type: m.Type, Member: m.Member, Role: m.Role,
		StartTime: m.StartTime.UTC(), StopTime: m.StopTime.UTC(), StartLSN: m.StartLSN, StopLSN: m.StopLSN, Timeline: m.Timeline,
		StopTLI: m.StopTLI, Version: m.Version, Bytes: m.Bytes, Stored: m.Stored, Comment: m.Comment}
}

// survey is a repository and all that there is to see of it.
type survey struct {
	catalog.Survey
	about
	repository *catalog.Repository
}

// surveying completes a command that looks at all of a repository.
func (a *app) surveying(cmd *cobra.Command, run func(context.Context, survey, []string) error) *cobra.Command {
	return a.reading(cmd, func(ctx context.Context, repository *catalog.Repository, args []string) error {
		all, err := repository.Survey(ctx)
		if catalog.IsEmpty(err) {
			err = fail(exitNotFound, "make the cluster archive here with pgha-backup patroni setup --apply, or check the system identifier",
				"repository %s holds nothing of cluster %s, system identifier %s", a.config.Repository().Name, a.config.Cluster.Scope, repository.Location().System)
		}
		if err != nil {
			return err
		}
		return run(ctx, survey{all, about{all.Info.Scope, all.Info.SystemIdentifier}, repository}, args)
	})
}

func newListCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "list", Short: "List the backups and what they can be restored to", Args: exactly()}
	cmd.Flags().BoolVar(&all, "all", false, "also hidden backups, unfinished runs and holds")
	return a.surveying(cmd, func(ctx context.Context, s survey, _ []string) error { return a.list(ctx, s, all) })
}

// hiddenDocument is a backup that has expired, or a run that never committed.
type hiddenDocument struct {
	ID     catalog.BackupID `json:"id"`
	Run    catalog.RunID    `json:"run,omitempty"`
	Stored int64            `json:"stored"`
	Newest time.Time        `json:"newest_object,omitzero"`
	At     time.Time        `json:"hidden,omitzero"`
	By     string           `json:"by,omitempty"`
	Reason string           `json:"reason,omitempty"`
}

func (a *app) list(ctx context.Context, s survey, all bool) error {
	document := struct {
		about
		Backups    []backupDocument  `json:"backups"`
		Windows    []catalog.Window  `json:"recoverable"`
		Unreadable []catalog.Finding `json:"unreadable,omitempty"`
		Hidden     []hiddenDocument  `json:"hidden,omitempty"`
		Unfinished []hiddenDocument  `json:"unfinished,omitempty"`
		Holds      []catalog.Hold    `json:"holds,omitempty"`
	}{about: s.about, Backups: []backupDocument{}, Windows: s.Windows}
	for _, b := range s.Backups {
		document.Backups = append(document.Backups, describe(b))
	}
	for _, u := range s.Unreadable {
		document.Unreadable = append(document.Unreadable, u.Finding())
	}
	if all {
		inventory, err := s.repository.Inventory(ctx)
		if err != nil {
			return err
		}
		document.Holds = inventory.Holds
		for _, b := range inventory.Backups {
			if m, e := b.Manifest, b.Expired; m != nil && e != nil {
				document.Hidden = append(document.Hidden, hiddenDocument{ID: b.ID, Run: m.Run, Stored: m.Stored, At: e.At, By: e.By, Reason: e.Reason})
			}
			for _, run := range b.Unfinished() {
				document.Unfinished = append(document.Unfinished, hiddenDocument{ID: b.ID, Run: run.Run, Stored: run.Size, Newest: run.Newest.UTC()})
			}
		}
	}
	return a.print(document, func() error {
		if err := a.listTable(s); err != nil || !all {
			return err
		}
		return a.listAll(document.Hidden, document.Unfinished, document.Holds)
	})
}

func (a *app) listTable(s survey) error {
	t := table{title: s.title("Cluster:"), head: []string{"Backup", "Type", "Member", "Finished (UTC)", ">Took", ">Size", ">Stored", ">TL", "State"}}
	for _, b := range s.Backups {
		m := b.Manifest
		t.add(string(m.ID), string(m.Type), m.Member, clock(m.StopTime), m.StopTime.Sub(m.StartTime).Round(time.Second).String(),
			byteCount(m.Bytes), byteCount(m.Stored), fmt.Sprint(uint32(m.StopTLI)), string(b.State))
	}
	for _, u := range s.Unreadable {
		if u.Backup != "" {
			t.add(string(u.Backup), "", "", "", "", "", "", "", "unreadable")
		}
	}
	if err := t.print(a.stdout); err != nil {
		return err
	}
	for _, u := range s.Unreadable {
		f := u.Finding()
		fmt.Fprintf(a.stdout, " Unreadable: %s: %s\n", f.Object, f.Problem)
	}
	for _, line := range a.windows(s) {
		fmt.Fprintf(a.stdout, " Recoverable: %s\n", line)
	}
	return nil
}

// windows are the spans in words.
func (a *app) windows(s survey) (lines []string) {
	for _, w := range s.Windows {
		from := upward(w.From)
		to := "the end of " + w.Last.Name() + ", no commit since"
		if !w.To.Before(from) {
			to = clock(w.To) + "Z, timeline " + fmt.Sprint(uint32(w.Last.Timeline))
		}
		lines = append(lines, fmt.Sprintf("%sZ .. %s", clock(from), to))
	}
	if len(lines) == 0 {
		lines = []string{"nothing: there is no whole backup"}
	}
	return lines
}

func newShowCommand(a *app) *cobra.Command {
	return a.surveying(&cobra.Command{Use: "show <backup>", Short: "Show one backup; \"latest\" is the newest whole one", Args: exactly("<backup>")}, a.show)
}

func (a *app) show(_ context.Context, s survey, args []string) error {
	b, err := s.Find(args[0])
	if err != nil {
		return err
	}
	return a.print(struct {
		catalog.Manifest
		State catalog.BackupState `json:"state"`
		Lacks []postgres.Segment  `json:"missing_wal,omitempty"`
	}{b.Manifest, b.State, b.Lacks}, func() error { return a.showTable(b) })
}

func (a *app) showTable(b catalog.Surveyed) error {
	m := b.Manifest
	state := string(b.State)
	for _, s := range b.Lacks {
		state += " " + s.Name()
	}
	var lines lines
	lines.add("Backup", "%s", m.ID)
	lines.add("Type", "%s", m.Type)
	lines.add("State", "%s", state)
	lines.add("Cluster", "%s (%s)", m.Scope, m.System)
	lines.add("Member", "%s (%s)", m.Member, m.Role)
	lines.add("PostgreSQL", "%s, WAL segments of %s", m.Version, byteCount(int64(m.SegmentSize)))
	lines.add("Started", "%sZ", clock(m.StartTime))
	lines.add("Finished", "%sZ", clock(m.StopTime))
	lines.add("WAL", "%s on timeline %d to %s on timeline %d", m.StartLSN, uint32(m.Timeline), m.StopLSN, uint32(m.StopTLI))
	lines.add("Size", "%s in %s, stored in %s (%s, %s)", byteCount(m.Bytes), plural(m.Files, "file"), byteCount(m.Stored), plural(len(m.Packs), "pack"), m.Codec)
	lines.add("Data checksums", "%s", map[bool]string{true: "on", false: "off"}[m.Settings.DataChecksumVersion > 0])
	lines.add("Made by", "pgha-backup %s", m.Tool)
	for _, ts := range m.Tablespaces {
		lines.add("Tablespace", "%d at %s", ts.OID, ts.Path)
	}
	for _, d := range m.Damage {
		lines.add("Bad pages", "%s, %s from block %d", d.Path, plural(len(d.Blocks), "block"), d.Blocks[0])
	}
	if m.Comment != "" {
		lines.add("Comment", "%s", m.Comment)
	}
	return lines.print(a.stdout)
}
