package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/config"
)

func newConfigCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "config", Short: "Check or show the configuration"}, newConfigValidateCommand(a), newConfigShowCommand(a))
}

func newConfigValidateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "validate", Short: "Read the configuration and name everything that is wrong with it", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			if a.format == "json" {
				return a.json(struct {
					File     string   `json:"file"`
					Valid    bool     `json:"valid"`
					Warnings []string `json:"warnings"`
				}{c.File, true, append([]string{}, c.Warnings...)})
			}
			_, err = fmt.Fprintf(a.stdout, "%s is valid: cluster %s, repository %s (%s)\n", c.File, c.Cluster.Scope, c.Repository().Name, c.Repository().Type)
			return err
		},
	}
}

func newConfigShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show every value and where it came from, without secrets", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			if a.format == "json" {
				return a.json(struct {
					File   string         `json:"file"`
					Fields []config.Field `json:"fields"`
				}{c.File, c.Fields()})
			}
			t := table{title: c.File, head: []string{"Key", "Value", "From"}}
			for _, f := range c.Fields() {
				t.add(f.Path, f.Value, f.Origin)
			}
			return t.print(a.stdout)
		},
	}
}
