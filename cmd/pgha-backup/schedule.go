package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

// comingDocument is a schedule with its next times, as schedule prints it in JSON.
type comingDocument struct {
	Name     string               `json:"name"`
	Cron     string               `json:"cron"`
	Timezone string               `json:"timezone"`
	Type     string               `json:"type"`
	Source   cluster.SourcePolicy `json:"source"`
	Due      time.Time            `json:"due,omitzero"` // past, neither done nor given up
	Next     []time.Time          `json:"next"`
	Member   string               `json:"member,omitempty"` // who would serve now
	Reason   string               `json:"reason"`
	Refused  map[string]string    `json:"refused,omitempty"`
}

// pastDocument is a scheduled time that has been.
type pastDocument struct {
	Schedule  string           `json:"schedule"`
	At        time.Time        `json:"at"`
	Backup    catalog.BackupID `json:"backup"`
	Result    string           `json:"result"`           // done, damaged, unreadable or missed
	Member    string           `json:"member,omitempty"` // backed up, or the one that reported it
	StartTime time.Time        `json:"start_time,omitzero"`
	StopTime  time.Time        `json:"stop_time,omitzero"`
	Reason    string           `json:"reason,omitempty"`
}

func newScheduleCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "schedule", Short: "Show when the next backups are due, who would take them and why, and how the last ones went", Args: exactly(),
		Long: "Shows the next three times of each schedule, who would serve now and why, and how the last ones went. Who does serve\n" +
			"is decided when the time has come. A time that is due and not done is shown as such; where daemons run they are at\n" +
			"it, and their /status says why it waits. Backups that are expired and those of a person are not in the history.\n\n" +
			"Cron's fields are local times of the schedule's zone. A local time that a change of the clocks skips runs at the first\n" +
			"instant after the gap; one that comes twice runs once, at its first. \"@every 6h\" means the multiples of six hours since\n" +
			"1970 in UTC. Each time gives one backup in the cluster. A time that went by is caught up until its latest start or the\n" +
			"next time has come, and is then reported as missed.",
	}
	last := cmd.Flags().Int("last", 10, "how many past times to show")
	return a.reading(cmd, func(ctx context.Context, repository *catalog.Repository, _ []string) error {
		return a.schedule(ctx, repository, *last)
	})
}

func (a *app) schedule(ctx context.Context, repository *catalog.Repository, last int) error {
	d := struct {
		about
		Schedules []comingDocument `json:"schedules"`
		History   []pastDocument   `json:"history"`
	}{aboutOf(repository), []comingDocument{}, []pastDocument{}}
	info, err := repository.Info(ctx)
	if err != nil && !catalog.IsEmpty(err) {
		return err
	}
	past, err := history(ctx, repository)
	if err != nil {
		return err
	}
	var t cluster.Topology
	var unseen error
	if a.hasPatroni() {
		t, unseen = a.topology(ctx)
	}
	for _, s := range a.config.Schedules {
		c := comingDocument{Name: s.Name, Cron: s.Cron, Timezone: s.Timezone, Type: s.Type, Source: s.Source}
		timetable, _ := s.Timetable() // validated
		for at := timetable.Next(a.now()); len(c.Next) < 3 && !at.IsZero(); at = timetable.Next(at) {
			c.Next = append(c.Next, at)
		}
		if at, ok := scheduler.Due(timetable, a.now()); ok && !info.Created.IsZero() && !at.Before(info.Created) {
			id := catalog.ScheduledID(at, s.Name)
			taken, err := repository.Taken(ctx, id)
			if err != nil {
				return err
			}
			if !taken && !slices.ContainsFunc(past, func(p pastDocument) bool { return p.Backup == id }) {
				c.Due = at
			}
		}
		if c.Member, c.Reason = a.config.Cluster.Member, "no Patroni is configured"; a.hasPatroni() {
			c.Member, c.Reason, c.Refused = whoServes(s, t, unseen)
		}
		d.Schedules = append(d.Schedules, c)
	}
	for _, p := range past[max(0, len(past)-max(0, last)):] {
		if p.Result == "missed" {
			m, err := repository.Missed(ctx, p.Backup)
			if err != nil {
				return err
			}
			p.Member, p.Reason = m.By, m.Reason
		}
		d.History = append(d.History, p)
	}
	return a.print(d, func() error { return a.scheduleTables(d.Schedules, d.History) })
}

// whoServes is the member that a schedule would back up now, and why it.
func whoServes(s config.Schedule, t cluster.Topology, unseen error) (member, why string, refused map[string]string) {
	if unseen != nil {
		return "", unseen.Error(), nil
	}
	want := s.Want()
	choice, err := cluster.ChooseSource(t, want)
	if err == nil {
		return choice.Member, choice.Reason, choice.Refused
	}
	if want.Waited = true; want.Policy == cluster.PreferReplica {
		if choice, waited := cluster.ChooseSource(t, want); waited == nil {
			return choice.Member, "after " + s.ReplicaWait.String() + ": " + choice.Reason, choice.Refused
		}
	}
	return "", err.Error(), nil
}

// history is every scheduled time of which the repository knows, oldest first. What
// the reports of missed ones say is not read yet.
func history(ctx context.Context, r *catalog.Repository) (past []pastDocument, err error) {
	backups, broken, err := r.ReadableBackups(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range broken {
		if u.Backup.Schedule() != "" {
			past = append(past, pastDocument{Schedule: u.Backup.Schedule(), At: u.Backup.Time(), Backup: u.Backup, Result: "unreadable", Reason: u.Finding().Problem})
		}
	}
	for _, m := range backups {
		if m.ID.Schedule() == "" {
			continue
		}
		p := pastDocument{Schedule: m.ID.Schedule(), At: m.ID.Time(), Backup: m.ID, Result: "done", Member: m.Member,
			StartTime: m.StartTime.UTC(), StopTime: m.StopTime.UTC(), Reason: m.Reason}
		if m.Damaged() {
			p.Result = "damaged"
		}
		past = append(past, p)
	}
	missed, err := r.MissedIDs(ctx)
	for _, id := range missed {
		if !slices.ContainsFunc(past, func(p pastDocument) bool { return p.Backup == id }) { // or it came after all
			past = append(past, pastDocument{Schedule: id.Schedule(), At: id.Time(), Backup: id, Result: "missed"})
		}
	}
	slices.SortStableFunc(past, func(a, b pastDocument) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Backup, b.Backup)) })
	return past, err
}

func (a *app) scheduleTables(coming []comingDocument, past []pastDocument) error {
	next := table{title: "Next", head: []string{"Schedule", "Cron", "Time (UTC)", ">In", "By", "Why"}}
	for _, c := range coming {
		cells := []string{c.Name, c.Cron, "", "", c.Member, c.Reason}
		if !c.Due.IsZero() {
			cells[2], cells[3] = clock(c.Due), "due"
			next.add(cells...)
			cells = make([]string, len(cells))
		}
		for _, at := range c.Next {
			row := slices.Clone(cells)
			row[2], row[3] = clock(at), age(at.Sub(a.now()))
			next.add(row...)
			cells = make([]string, len(cells))
		}
	}
	if len(coming) == 0 {
		next.add("none", "", "", "", "", "no schedules are configured")
	}
	if err := next.print(a.stdout); err != nil {
		return err
	}
	if len(past) == 0 {
		return nil
	}
	t := table{title: "History", head: []string{"Schedule", "Time (UTC)", "Result", "Member", "Finished (UTC)", "Why"}}
	for _, p := range past {
		t.add(p.Schedule, clock(p.At), p.Result, p.Member, clock(p.StopTime), p.Reason)
	}
	return t.print(a.stdout)
}
