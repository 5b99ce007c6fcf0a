package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/restore"
)

func newSetupCommand(a *app) *cobra.Command {
	var apply, yes bool
	var program string
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Print what Patroni must be told so that it archives, restores and makes members with pgha-backup; or tell it",
		Long: "Prints the part of Patroni's dynamic configuration that concerns pgha-backup. --apply merges it through the REST API\n" +
			"of the leader and says which members wait for a restart. The configuration file, the programs and the daemon's socket\n" +
			"must lie at the same paths on every member, because every member runs the same commands. WAL goes through pgha-wal and\n" +
			"the daemon where pgha-wal is installed beside this program: install both everywhere before. patroni pre-promote becomes\n" +
			"pre_promote: it queues again what a former leader did not archive.\n\n" +
			"It does not set no_leader for the method pgha_backup: with it, members without data would come back from the\n" +
			"repository, without what was not archived, also when nobody leads.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.setup(cmd.Context(), program, apply, yes) },
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "merge it into Patroni's dynamic configuration")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --apply: replace the archive_command, restore_command or pre_promote of another tool")
	cmd.Flags().StringVar(&program, "program", "", "how every member calls this program; default: this one with this configuration")
	return cmd
}

// setup is what the command prints.
type setup struct {
	Config  map[string]any `json:"config"`            // what Patroni is to be told
	Applied bool           `json:"applied"`           // it has been told
	Changed []string       `json:"changed,omitempty"` // what differed
	Pending []string       `json:"pending_restart,omitempty"`
}

func (a *app) setup(ctx context.Context, program string, apply, yes bool) error {
	prefix, err := a.called(program)
	if err != nil {
		return err
	}
	want := wanted(prefix, prefix)
	if program == "" {
		want = wanted(prefix, a.hooksPrefix(prefix))
	}
	if !apply {
		return a.printSetup(setup{Config: want.Over(nil)}, prefix)
	}
	if !a.hasPatroni() {
		return fail(exitConfig, "set patroni.config", "the configuration does not say how to reach Patroni")
	}
	observer, err := patroni.New(patroniOptions(a.config, a.log))
	if err != nil {
		return fail(exitConfig, "", "%w", err)
	}
	defer observer.Close()
	t, err := observer.Topology(ctx)
	if err != nil {
		return err
	}
	leader, ok := t.Member(t.Leader)
	if !ok {
		return fail(exitPreflight, "wait for a leader, or look at patronictl list", "nobody leads %s", t.Scope)
	}
	now, err := observer.DynamicConfig(ctx, leader.APIURL)
	if err != nil {
		return fmt.Errorf("read Patroni's configuration: %w", err)
	}
	s := setup{Config: want.Over(now), Applied: true}
	s.Changed = patroni.Differences(s.Config, now)
	if foreign := want.Foreign(now); foreign != "" && !yes {
		return fail(exitPreflight, "if the other tool is to be replaced, pass --yes", "nothing was changed: %s", foreign)
	}
	if len(s.Changed) > 0 {
		if err := observer.PatchConfig(ctx, leader.APIURL, s.Config); err != nil {
			return fmt.Errorf("change Patroni's configuration: %w", err)
		}
	}
	if s.Pending, err = observer.PendingRestart(ctx, slices.Contains(s.Changed, "postgresql.parameters.archive_mode")); err != nil {
		return err
	}
	return a.printSetup(s, prefix)
}

// called is the beginning of every command line that Patroni and PostgreSQL run.
func (a *app) called(program string) ([]string, error) {
	if program != "" {
		return strings.Fields(program), nil
	}
	command, err := a.restoreCommand()
	if err != nil {
		return nil, err
	}
	return command[:slices.Index(command, "archive-get")], nil
}

// hooksPrefix is the beginning of the archive commands: pgha-wal's, where it is
// installed beside this program and has a daemon to ask.
func (a *app) hooksPrefix(prefix []string) []string {
	client, socket := filepath.Join(filepath.Dir(prefix[0]), "pgha-wal"), a.config.Daemon.Socket
	if _, err := os.Stat(client); err != nil || socket == "" {
		return prefix
	}
	return slices.Concat([]string{client, "--socket", socket}, prefix[1:])
}

// wanted is what Patroni's dynamic configuration must hold.
func wanted(prefix, hooks []string) patroni.Setup {
	line := func(prefix []string, args ...string) string { return restore.ShellCommand(slices.Concat(prefix, args)) }
	return patroni.Setup{Program: filepath.Base(prefix[0]), Archive: line(hooks, "archive-push", "%p"), Restore: line(hooks, "archive-get", "%f", "%p"),
		Replica: line(prefix, "patroni", "create-replica"),
		// Patroni does not promote where this fails, or where there is no such program.
		Promote: restore.ShellCommand([]string{"/bin/sh", "-c", line(prefix, "patroni", "pre-promote") + "; exit 0"})}
}

func (a *app) printSetup(s setup, prefix []string) error {
	return a.print(s, func() error {
		out, _ := json.MarshalIndent(s.Config, "  ", "  ") // of texts; JSON is YAML
		if !s.Applied {
			_, err := fmt.Fprintf(a.stdout, "# For patronictl edit-config, or: pgha-backup patroni setup --apply\n  %s\n\n"+
				"# For patroni.yml of a new cluster that is made from another cluster's repository:\n"+
				"bootstrap:\n  method: %s\n  %s:\n    command: %s\n", out, patroni.OurMethod, patroni.OurMethod,
				restore.ShellCommand(slices.Concat(prefix, []string{"patroni", "bootstrap", "--from-config", filepath.Join(filepath.Dir(a.config.File), "source.yaml")})))
			return err
		}
		var lines lines
		lines.add("Changed", "%s", cmp.Or(strings.Join(s.Changed, ", "), "nothing: all was so already"))
		lines.add("Pending restart", "%s", cmp.Or(strings.Join(s.Pending, ", "), "none"))
		if len(s.Pending) > 0 {
			scope := a.config.Cluster.Scope
			lines.add("Then", "patronictl restart %s --role replica --pending, and then the leader: patronictl restart %s --pending", scope, scope)
		}
		lines.add("Try it", "pgha-backup check, on every member")
		return lines.print(a.stdout)
	})
}
