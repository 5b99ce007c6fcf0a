package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

func newBackupCommand(a *app) *cobra.Command {
	var kind, comment string
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Take a base backup of the leader, on the leader's own host",
		Long: "Copies the local server's data directory into the repository while it runs, waits until the WAL that the copy\n" +
			"needs is archived, and commits. It exits 4, and names the leader, where this member is not it.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind != string(catalog.Full) {
				return usage("--type %q: want full", kind)
			}
			return a.backup(cmd.Context(), comment)
		},
	}
	cmd.Flags().StringVar(&kind, "type", string(catalog.Full), "full")
	cmd.Flags().StringVar(&comment, "comment", "", "a remark to keep with the backup")
	return cmd
}

func (a *app) backup(ctx context.Context, comment string) error {
	c := a.config
	if err := a.wantLeader(ctx); err != nil {
		return err
	}
	s, err := server.Connect(ctx, c.Cluster.DSN.Reveal())
	if err != nil {
		return fail(exitPreflight, hintOf(err), "%w", err)
	}
	defer s.Close()
	facts, err := s.Facts(ctx)
	if err != nil {
		return fail(exitPreflight, hintOf(err), "%w", err)
	}
	repository, err := a.repository(facts.System)
	if err != nil {
		return err
	}
	began := a.now()
	shown := newShow(a.stderr)
	m, err := backup.Take(ctx, backup.Source{Server: s, PGDATA: c.Cluster.DataDir, Member: c.Cluster.Member}, repository, backup.Options{
		ID: catalog.ManualID(began), Comment: comment, Tool: version,
		Workers: c.Backup.Workers, PackSize: int64(c.Backup.PackSize), Rate: int64(c.Backup.RateLimit),
		ConditionalWrites: c.Repository().ConditionalWrites, ArchiveLimit: c.Backup.WALTimeout,
		Events: shown.events(),
	})
	shown.end()
	if is[*backup.PreflightError](err) && ctx.Err() == nil {
		return fail(exitPreflight, hintOf(err), "%w", err)
	}
	if err != nil {
		return err
	}
	return a.reportBackup(m, a.now().Sub(began))
}

// wantLeader refuses any other member by Patroni's word. A server without Patroni
// must only be a primary, which the backup itself looks at.
func (a *app) wantLeader(ctx context.Context) error {
	if !a.hasPatroni() {
		return nil
	}
	t, err := a.topology(ctx)
	if err != nil {
		return err
	}
	if t.Leader == "" {
		return fail(exitPreflight, "wait for a leader, or look at patronictl list", "nobody leads %s", t.Scope)
	}
	if member := a.config.Cluster.Member; t.Leader != member {
		return fail(exitPreflight, "run it on "+t.Leader, "member %s is not the leader of %s: %s is", member, t.Scope, t.Leader)
	}
	return nil
}

func (a *app) reportBackup(m catalog.Manifest, took time.Duration) error {
	err := a.print(m, func() error {
		_, err := fmt.Fprintf(a.stdout, "%s: %s backup of %s (%s), %d files, %s, stored in %s, %s\nconsistent from %s on timeline %d, %s on\n",
			m.ID, m.Type, m.Scope, m.Member, m.Files, byteCount(m.Bytes), byteCount(m.Stored), took.Round(100*time.Millisecond),
			m.StopLSN, uint32(m.StopTLI), upward(m.StopTime).UTC().Format(time.RFC3339))
		return err
	})
	if err == nil && m.Damaged() {
		err = fail(exitDegraded, "find the relations with pg_filenode_relation, repair them, and take another backup; this one is kept but never used by itself",
			"the backup is stored, but %d files of the server have damaged pages, first %s block %d", len(m.Damage), m.Damage[0].Path, m.Damage[0].Blocks[0])
	}
	return err
}

// byteCount is a size as people read it.
func byteCount(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, i := float64(n), 0
	for value >= 1024 && i < len(units)-1 {
		value, i = value/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
