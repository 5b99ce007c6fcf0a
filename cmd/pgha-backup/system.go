package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/wal"
)

// systemIdentifier says which cluster's repository a reader means (R8): the one
// given, else that of the local data directory, else Patroni's initialize key (the
// leader need not be known for that), else the only one there is.
func (a *app) systemIdentifier(ctx context.Context, given string) (postgres.SystemIdentifier, error) {
	c := a.config
	if given != "" {
		id, err := postgres.ParseSystemIdentifier(given)
		if err != nil {
			return 0, usage("--system-id: %w", err)
		}
		return id, nil
	}
	if control, err := wal.ReadControl(c.Cluster.DataDir); err == nil {
		return control.System, nil
	}
	if a.hasPatroni() {
		t, err := a.topology(ctx)
		if t.SystemIdentifier != 0 {
			return t.SystemIdentifier, nil
		}
		a.log.Debug("the system identifier could not be had from Patroni", "error", err)
	}
	return a.onlySystem(ctx)
}

// onlySystem is the cluster that the repository holds, if it is the only one of its name.
func (a *app) onlySystem(ctx context.Context) (postgres.SystemIdentifier, error) {
	c := a.config
	bucket, err := a.bucket()
	if err != nil {
		return 0, err
	}
	found, err := catalog.Systems(ctx, bucket, c.Cluster.Scope)
	if err != nil {
		return 0, fmt.Errorf("look for repositories of %s: %w", c.Cluster.Scope, err)
	}
	switch len(found) {
	case 0:
		return 0, fail(exitNotFound, "make the cluster archive here with pgha-backup patroni setup --apply, or check cluster.scope and the repository's prefix",
			"repository %s holds nothing of cluster %s", c.Repository().Name, c.Cluster.Scope)
	case 1:
		return found[0], nil
	}
	names := strings.Trim(strings.ReplaceAll(fmt.Sprint(found), " ", ", "), "[]")
	return 0, fail(exitUsage, "say which with --system-id; there are "+names,
		"repository %s holds %d clusters named %s", c.Repository().Name, len(found), c.Cluster.Scope)
}

// chosen is the repository of systemIdentifier.
func (a *app) chosen(ctx context.Context, given string) (*catalog.Repository, error) {
	system, err := a.systemIdentifier(ctx, given)
	if err != nil {
		return nil, err
	}
	return a.repository(system)
}

// systemFlag adds --system-id to a command that reads a repository.
func systemFlag(cmd *cobra.Command, system *string) {
	cmd.Flags().StringVar(system, "system-id", "", "system identifier, where the repository holds several clusters of this name")
}

// reading completes a command that reads a repository.
func (a *app) reading(cmd *cobra.Command, run func(context.Context, *catalog.Repository, []string) error) *cobra.Command {
	var system string
	systemFlag(cmd, &system)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		repository, err := a.chosen(cmd.Context(), system)
		if err != nil {
			return err
		}
		return run(cmd.Context(), repository, args)
	}
	return cmd
}

// about is the head of a document about one repository.
type about struct {
	Cluster string                    `json:"cluster"`
	System  postgres.SystemIdentifier `json:"system_identifier"`
}

func aboutOf(r *catalog.Repository) about { return about{r.Location().Scope, r.Location().System} }

// title is the head of a table.
func (o about) title(what string) string { return fmt.Sprintf("%s %s (%s)", what, o.Cluster, o.System) }
