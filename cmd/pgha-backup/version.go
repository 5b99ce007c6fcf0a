package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// version is this release; the build sets it from git.
var version = "0.1.0-dev"

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				Format   int    `json:"repository_format"`
				Oldest   int    `json:"oldest_server"`
				Newest   int    `json:"newest_server"`
			}{Version: version, Go: runtime.Version(), Format: catalog.Format, Oldest: postgres.OldestMajor, Newest: postgres.NewestMajor}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value[:min(12, len(s.Value))]
					}
				}
			}
			return a.say(v, "pgha-backup %s (%s, repository format %d, PostgreSQL %d to %d)", v.Version, v.Go, v.Format, v.Oldest, v.Newest)
		},
	}
}
