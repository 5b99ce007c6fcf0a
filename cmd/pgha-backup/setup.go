package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

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
			"of the leader and says which members wait for a restart. The configuration file and the program must lie at the\n" +
			"same path on every member, because every member runs the same commands.\n\n" +
			"It does not set no_leader for the method pgha_backup: with it, members without data would come back from the\n" +
			"repository, without what was not archived, also when nobody leads.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.setup(cmd.Context(), program, apply, yes) },
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "merge it into Patroni's dynamic configuration")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --apply: replace the archive_command or restore_command of another tool")
	cmd.Flags().StringVar(&program, "program", "", "how every member calls this program; default: this one with this configuration")
	return cmd
}

type object = map[string]any

// setup is what the command prints.
type setup struct {
	Config  object   `json:"config"`            // what Patroni is to be told
	Applied bool     `json:"applied"`           // it has been told
	Changed []string `json:"changed,omitempty"` // what differed
	Pending []string `json:"pending_restart,omitempty"`
}

func (a *app) setup(ctx context.Context, program string, apply, yes bool) error {
	prefix, err := a.called(program)
	if err != nil {
		return err
	}
	if !apply {
		return a.printSetup(setup{Config: wanted(prefix, nil)}, prefix)
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
	s := setup{Config: wanted(prefix, now), Applied: true}
	s.Changed = differences("", s.Config, now)
	if foreign := replaced(now); foreign != "" && !yes {
		return fail(exitPreflight, "if the other tool is to be replaced, pass --yes", "nothing was changed: %s", foreign)
	}
	if len(s.Changed) > 0 {
		if err := observer.PatchConfig(ctx, leader.APIURL, s.Config); err != nil {
			return fmt.Errorf("change Patroni's configuration: %w", err)
		}
	}
	if s.Pending, err = pending(ctx, observer, slices.Contains(s.Changed, "postgresql.parameters.archive_mode")); err != nil {
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

// wanted is what Patroni's dynamic configuration must hold. Of what is there now it
// keeps archive_timeout and the other methods that make members.
func wanted(prefix []string, now object) object {
	line := func(args ...string) string { return restore.ShellCommand(slices.Concat(prefix, args)) }
	parameters := object{"archive_mode": "on", "archive_command": line("archive-push", "%p")}
	if mode := at(now, "postgresql", "parameters", "archive_mode"); mode == "always" {
		parameters["archive_mode"] = "always"
	}
	if timeout := at(now, "postgresql", "parameters", "archive_timeout"); timeout == "" || timeout == "0" || timeout == "0s" {
		parameters["archive_timeout"] = "60s"
	}
	methods := []any{ourMethod}
	section, _ := now["postgresql"].(object)
	others, _ := section["create_replica_methods"].([]any)
	for _, other := range others {
		if other != ourMethod {
			methods = append(methods, other)
		}
	}
	if !slices.Contains(methods, any("basebackup")) {
		methods = append(methods, "basebackup")
	}
	return object{"postgresql": object{
		"parameters":             parameters,
		"recovery_conf":          object{"restore_command": line("archive-get", "%f", "%p")},
		"create_replica_methods": methods,
		ourMethod:                object{"command": line("patroni", "create-replica")},
	}}
}

// ourMethod is the name of our section in Patroni's configuration.
const ourMethod = "pgha_backup"

// at is a scalar of a configuration as text: Patroni compares values so.
func at(in object, keys ...string) string {
	for _, key := range keys[:len(keys)-1] {
		in, _ = in[key].(object)
	}
	if v := in[keys[len(keys)-1]]; v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

// differences are the paths of what is wanted and is not so now.
func differences(path string, want, now object) (found []string) {
	for key, v := range want {
		switch v := v.(type) {
		case object:
			below, _ := now[key].(object)
			found = append(found, differences(path+key+".", v, below)...)
		default:
			if !reflect.DeepEqual(v, now[key]) && (reflect.TypeOf(v).Kind() == reflect.Slice || fmt.Sprint(v) != at(now, key)) {
				found = append(found, path+key)
			}
		}
	}
	slices.Sort(found)
	return found
}

// replaced tells which command of another tool stands where ours is to stand.
func replaced(now object) string {
	for _, c := range [][]string{{"postgresql", "parameters", "archive_command", "archive-push"}, {"postgresql", "recovery_conf", "restore_command", "archive-get"}} {
		command := at(now, c[:3]...)
		if !slices.Contains([]string{"", "true", "/bin/true", "/bin/false", "false"}, command) && !strings.Contains(command, c[3]) {
			return fmt.Sprintf("%s is another's: %s", c[2], command)
		}
	}
	return ""
}

// pending are the members that wait for a restart. Patroni finds that out in its
// next round: a change that takes a restart is waited for.
func pending(ctx context.Context, observer *patroni.Observer, expected bool) (names []string, err error) {
	for began := time.Now(); ; {
		t, err := observer.Topology(ctx)
		if err != nil {
			return nil, err
		}
		names = names[:0]
		for _, m := range t.Members {
			if m.PendingRestart {
				names = append(names, m.Name)
			}
		}
		if !expected || len(names) == len(t.Members) || time.Since(began) > 2*cmp.Or(t.LoopWait, 10*time.Second) {
			return names, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (a *app) printSetup(s setup, prefix []string) error {
	return a.print(s, func() error {
		out, _ := json.MarshalIndent(s.Config, "  ", "  ") // of texts; JSON is YAML
		if !s.Applied {
			_, err := fmt.Fprintf(a.stdout, "# For patronictl edit-config, or: pgha-backup patroni setup --apply\n  %s\n\n"+
				"# For patroni.yml of a new cluster that is made from another cluster's repository:\n"+
				"bootstrap:\n  method: %s\n  %s:\n    command: %s\n", out, ourMethod, ourMethod,
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
