package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/config"
)

// newRootCommand is the whole command line. It touches nothing.
func newRootCommand(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "pgha-backup",
		Short: "Backup and point-in-time recovery for PostgreSQL clusters run by Patroni",
	})
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fail(exitUsage, "see "+cmd.CommandPath()+" --help", "%w", err)
	})
	flags := root.PersistentFlags()
	path := config.DefaultPath
	if given := os.Getenv(config.EnvPath); given != "" {
		path = given
	}
	flags.StringVar(&a.path, "config", path, "configuration file; "+config.EnvPath+" names another default")
	flags.StringVar(&a.format, "format", "table", "output: table or json")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.admit(cmd) }

	for _, command := range []func(*app) *cobra.Command{
		newArchivePushCommand,
		newArchiveGetCommand,
		newDaemonCommand,
		newBackupCommand,
		newRestoreCommand,
		newPatroniCommand,
		newListCommand,
		newShowCommand,
		newStatusCommand,
		newScheduleCommand,
		newWALCommand,
		newVerifyCommand,
		newExpireCommand,
		newHoldCommand,
		newReleaseCommand,
		newCheckCommand,
		newConfigCommand,
		newVersionCommand,
	} {
		root.AddCommand(command(a))
	}
	return root
}

// free are the commands that want no configuration, so that uid 0 may run them too.
var free = []string{"help", "version", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}

// admit refuses root, under whom files would get the wrong owner, and unknown
// formats. Then it loads the configuration and says what is doubtful in it.
func (a *app) admit(cmd *cobra.Command) error {
	if a.format != "table" && a.format != "json" {
		return usage("--format %q: want table or json", a.format)
	}
	words := strings.Fields(cmd.CommandPath())
	if len(words) == 1 || slices.Contains(free, words[1]) {
		return nil
	}
	if a.uid == 0 && words[1] != "config" {
		return fail(exitPreflight, fmt.Sprintf("sudo -u postgres %s ...", cmd.CommandPath()),
			"%s does not run as root: run it as the user that owns the data directory", cmd.CommandPath())
	}
	if cmd.HasSubCommands() && cmd.Flags().Lookup("system-id") == nil {
		return nil // it prints its help
	}
	err := a.load()
	if strings.HasPrefix(words[1], "archive-") || cmd.Name() == prePromote {
		return err // PostgreSQL runs these all day long: its log is no place for warnings that wait
	}
	a.warn(a.config.Warnings)
	return err
}

// group makes a command that only holds others.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.Args, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := "see " + cmd.CommandPath() + " --help"
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return fail(exitUsage, hint, "unknown command %q for %s", args[0], cmd.CommandPath())
	}
	cmd.AddCommand(below...)
	return cmd
}

// exactly wants so many arguments, as its words name them.
func exactly(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(words) {
			return nil
		}
		want := "no arguments"
		if len(words) > 0 {
			want = strings.Join(words, " ")
		}
		return fail(exitUsage, "see "+cmd.CommandPath()+" --help", "%s: want %s, got %d", cmd.CommandPath(), want, len(args))
	}
}
