package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
)

func newPatroniCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "patroni", Short: "What Patroni calls, and what it needs to be told for that"},
		newCreateReplicaCommand(a))
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
