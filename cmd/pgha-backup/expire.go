package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/retention"
	"github.com/pgha-backup/pgha-backup/storage"
)

func newExpireCommand(a *app) *cobra.Command {
	var planOnly, yes bool
	cmd := &cobra.Command{
		Use:   "expire",
		Short: "Remove the backups and the WAL that no retention rule keeps",
		Long: "Prints what becomes of each backup and each span of WAL, and why; then does that. A backup goes in two steps:\n" +
			"first it is hidden, and only when retention.grace is over its data is removed. Until then a longer retention or\n" +
			"'hold' brings it back. --plan prints the same and changes nothing.\n\n" +
			"What is kept says retention in the configuration: keep, window, daily, weekly, monthly, yearly and minimum; a\n" +
			"backup stays if any of them keeps it. Parents, running backups and restores, held backups and the last good one\n" +
			"are never removed; damaged backups are never counted.",
		Args: exactly(),
	}
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would be done and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if a.format == "json" && !planOnly && !yes {
			return usage("--format json asks no questions: want --plan or --yes")
		}
		return nil
	}
	return a.reading(cmd, func(ctx context.Context, repository *catalog.Repository, _ []string) error {
		return a.expire(ctx, repository, planOnly, yes)
	})
}

func (a *app) expire(ctx context.Context, repository *catalog.Repository, planOnly, yes bool) error {
	facts, err := retention.Gather(ctx, repository)
	if err != nil {
		return err
	}
	plan, err := retention.NewPlan(facts, a.config.Retention.Policy(), a.now())
	if err != nil {
		return err
	}
	var outcome *retention.Outcome
	document := struct {
		about
		retention.Plan
		Outcome **retention.Outcome `json:"outcome,omitempty"`
	}{aboutOf(repository), plan, &outcome}
	if a.format != "json" {
		if err := a.planTable(document.about, plan); err != nil {
			return err
		}
	}
	if !planOnly {
		if plan.Changes() && !yes {
			if err := a.confirm("backups and WAL of " + a.config.Cluster.Scope + " will be HIDDEN and REMOVED as the plan says"); err != nil {
				return err
			}
		}
		done, err := retention.Apply(ctx, repository, plan, retention.Options{By: a.whoami(), Log: a.log})
		if err != nil {
			return err
		}
		outcome = &done
	}
	if outcome == nil {
		return a.print(document, func() error { return nil })
	}
	return a.say(document, "hidden %d, shown again %d, removed %s, %s and %s of WAL", len(outcome.Hidden), len(outcome.Shown)+len(outcome.Withdrawn),
		plural(len(outcome.Removed), "backup"), plural(len(outcome.Runs), "unfinished run"), plural(outcome.WAL, "file"))
}

// whoami stands in records that a person may ask about later.
func (a *app) whoami() string {
	if a.config.Cluster.Member != "" {
		return a.config.Cluster.Member
	}
	host, _ := os.Hostname()
	return host
}

func (a *app) planTable(of about, plan retention.Plan) error {
	t := table{title: of.title("Expiry of"),
		head: []string{"Backup", "Finished (UTC)", ">Stored", "Action", "Why"}}
	for _, v := range append(append([]retention.Verdict{}, plan.Backups...), plan.Runs...) {
		why := strings.Join(v.Reasons, "; ")
		if v.Fault != "" {
			why += "; not a good one: " + v.Fault
		}
		if !v.After.IsZero() {
			why += "; removed after " + clock(v.After)
		}
		name := string(v.Backup)
		if v.Run != "" {
			name += "/" + string(v.Run)
		}
		t.add(name, clock(v.Time), byteCount(v.Stored), string(v.Action), why)
	}
	if err := t.print(a.stdout); err != nil {
		return err
	}
	w := table{title: "WAL", head: []string{">TL", "First", "Last", ">Segments", ">Stored", "Action", "Why"}}
	for _, v := range plan.WAL {
		w.add(fmt.Sprint(uint32(v.Timeline)), v.First.Name(), v.Last.Name(), fmt.Sprint(v.Segments), byteCount(v.Size), string(v.Action), v.Reason)
	}
	return w.print(a.stdout)
}

func newHoldCommand(a *app) *cobra.Command {
	var name, reason, until string
	cmd := &cobra.Command{Use: "hold <backup>", Short: "Keep a backup whatever the retention rules say", Args: exactly("<backup>"),
		Long: "Writes a hold: until its end, or until it is released, expiry leaves the backup alone. A hidden backup whose data is\nstill there is shown again."}
	cmd.Flags().StringVar(&name, "name", "hold", "name of this hold; a backup may have several")
	cmd.Flags().StringVar(&reason, "reason", "", "why (required); list --all and expire show it")
	cmd.Flags().StringVar(&until, "until", "", "when it ends, RFC 3339; default: when it is released")
	return a.holding(cmd, func(ctx context.Context, repository *catalog.Repository, id catalog.BackupID) error {
		h := catalog.Hold{Backup: id, Name: name, Reason: reason, By: a.whoami(), At: a.now().UTC().Truncate(time.Second)}
		if reason == "" {
			return usage("--reason is missing: whoever wonders about this backup will want to know")
		}
		if until != "" {
			var err error
			if h.Until, err = time.Parse(time.RFC3339, until); err != nil || !h.Active(a.now()) {
				return usage("--until %q: want a time to come like 2026-12-31T00:00:00Z", until)
			}
		}
		err := repository.Hold(ctx, h)
		if errors.Is(err, storage.ErrExist) {
			return fail(exitConflict, "release it first, or give this one another --name", "backup %s has another hold named %s", id, name)
		}
		if err != nil {
			return err
		}
		return a.say(h, "%s is held", id)
	})
}

func newReleaseCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "release <backup>", Short: "Take back a hold", Args: exactly("<backup>")}
	cmd.Flags().StringVar(&name, "name", "", "only the hold of this name; default: all but those of running restores")
	return a.holding(cmd, func(ctx context.Context, repository *catalog.Repository, id catalog.BackupID) error {
		holds, err := repository.Holds(ctx)
		if err != nil {
			return err
		}
		released := []catalog.Hold{}
		for _, h := range holds {
			if h.Backup != id || name != h.Name && (name != "" || h.Restore) {
				continue
			}
			if err := repository.Release(ctx, id, h.Name); err != nil {
				return err
			}
			released = append(released, h)
		}
		if len(released) == 0 {
			return fail(exitNotFound, "pgha-backup list --all shows the holds", "backup %s has no such hold", id)
		}
		return a.say(released, "%s of %s released", plural(len(released), "hold"), id)
	})
}

// holding completes a command about the holds of one backup, named in full: a hidden
// one is not in the list that a beginning could be looked up in.
func (a *app) holding(cmd *cobra.Command, run func(context.Context, *catalog.Repository, catalog.BackupID) error) *cobra.Command {
	cmd.PreRunE = func(_ *cobra.Command, args []string) error {
		if _, err := catalog.ParseBackupID(args[0]); err != nil {
			return usage("%w", err)
		}
		return nil
	}
	return a.reading(cmd, func(ctx context.Context, repository *catalog.Repository, args []string) error {
		return run(ctx, repository, catalog.BackupID(args[0]))
	})
}

// listAll shows what list hides.
func (a *app) listAll(hidden, unfinished []hiddenDocument, held []catalog.Hold) error {
	t := table{title: "Hidden or unfinished", head: []string{"Backup", "Run", ">Stored", "State"}}
	for _, b := range hidden {
		t.add(string(b.ID), string(b.Run), byteCount(b.Stored), "hidden "+clock(b.At)+" by "+b.By+": "+b.Reason)
	}
	for _, b := range unfinished {
		t.add(string(b.ID), string(b.Run), byteCount(b.Stored), "unfinished, last written "+clock(b.Newest))
	}
	if err := t.print(a.stdout); err != nil {
		return err
	}
	holds := table{title: "Holds", head: []string{"Backup", "Hold", "Until (UTC)", "By", "Reason"}}
	for _, h := range held {
		until := clock(h.Until)
		if until == "" {
			until = "released"
		} else if !h.Active(a.now()) {
			until += " (over)"
		}
		holds.add(string(h.Backup), h.Name, until, h.By, h.Reason)
	}
	return holds.print(a.stdout)
}
