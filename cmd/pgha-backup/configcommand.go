package main

import (
	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/config"
)

func newConfigCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "config", Short: "Check or show the configuration"},
		&cobra.Command{
			Use: "validate", Short: "Read the configuration and name everything that is wrong with it", Args: exactly(),
			RunE: func(*cobra.Command, []string) error { return a.configValidate() },
		},
		&cobra.Command{
			Use: "show", Short: "Show every value and where it came from, without secrets", Args: exactly(),
			RunE: func(*cobra.Command, []string) error { return a.configShow() },
		})
}

// configValidate has nothing to find: every command loads a valid configuration or ends.
func (a *app) configValidate() error {
	c := a.config
	return a.say(struct {
		File     string   `json:"file"`
		Valid    bool     `json:"valid"`
		Warnings []string `json:"warnings"`
	}{c.File, true, append([]string{}, c.Warnings...)}, "%s is valid: cluster %s, repository %s (%s)", c.File, c.Cluster.Scope, c.Repository().Name, c.Repository().Type)
}

func (a *app) configShow() error {
	fields := a.config.Fields()
	return a.print(struct {
		File   string         `json:"file"`
		Fields []config.Field `json:"fields"`
	}{a.config.File, fields}, func() error {
		t := table{title: a.config.File, head: []string{"Key", "Value", "From"}}
		for _, f := range fields {
			t.add(f.Path, f.Value, f.Origin)
		}
		return t.print(a.stdout)
	})
}
