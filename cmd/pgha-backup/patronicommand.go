package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newPatroniCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "patroni", Short: "What Patroni calls, and what it needs to be told for that"},
		newCreateReplicaCommand(a), newBootstrapCommand(a), newPrePromoteCommand(a), newSetupCommand(a))
}

// calledFlags are what Patroni gives every method. A method's section may hold any
// other key, which comes as one more flag, and is none of our business.
type calledFlags struct{ scope, dataDir string }

func (f *calledFlags) add(cmd *cobra.Command) {
	cmd.FParseErrWhitelist.UnknownFlags = true
	cmd.Flags().StringVar(&f.scope, "scope", "", "the cluster, as Patroni names it; default: the configuration's")
	cmd.Flags().StringVar(&f.dataDir, "datadir", "", "the data directory to fill; default: the configuration's")
}

// settle fills in from the configuration what Patroni was told not to pass (no_params).
func (f *calledFlags) settle(a *app) error {
	c := a.config.Cluster
	if f.scope != "" && f.scope != c.Scope {
		return fail(exitConfig, "name the configuration of "+f.scope+" in the method's command, with --config",
			"Patroni means cluster %s, and %s is the configuration of %s", f.scope, a.config.File, c.Scope)
	}
	if f.dataDir == "" {
		f.dataDir = c.DataDir
	}
	if f.dataDir == "" {
		return fail(exitConfig, "set patroni.config, or let Patroni pass --datadir", "the data directory is not known")
	}
	f.dataDir = filepath.Clean(f.dataDir)
	return nil
}

// dashed takes the underscores out of the flags that Patroni makes of the keys in a
// method's section: keep_data, target_time.
func dashed(args []string) []string {
	if !slices.Contains(args, "patroni") {
		return args
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if name, value, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(arg, "--") {
			args[i] = strings.ReplaceAll(name, "_", "-") + "=" + value
		}
	}
	return args
}
