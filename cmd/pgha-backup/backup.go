package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
)

// The values of --method.
const (
	methodFileCopy   = "file-copy"
	methodBaseBackup = "base-backup"
)

func newBackupCommand(a *app) *cobra.Command {
	var kind, comment, source, method string
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Take a base backup of the local member, or of any over the network",
		Long: "Copies the local server's data directory into the repository while it runs, waits until the WAL that the copy\n" +
			"needs is archived, and commits.\n\n" +
			"--source says which member may be copied: the leader (default), a replica, or with prefer-replica a replica,\n" +
			"and the leader where none can serve. Where this member is not it, the command exits 4 and says who is. A\n" +
			"replica must stream and replay the leader's timeline without delay, at most backup.max_lag bytes behind. The\n" +
			"leader then writes a checkpoint and ends two WAL segments, and is not read; it is reached with the local server's\n" +
			"credentials at the address that Patroni shows. A replica that is promoted in mid copy ends the backup with exit 1;\n" +
			"a failover between two other members does not.\n\n" +
			"--method base-backup needs no data directory here: the server streams its files over the replication protocol.\n" +
			"Patroni says where the chosen member is, and cluster.dsn (or Patroni's file) how to log in; without Patroni\n" +
			"cluster.dsn alone leads to the server. The role must be a superuser, or have REPLICATION, pg_monitor,\n" +
			"pg_checkpoint and EXECUTE on pg_switch_wal and pg_create_restore_point; pg_hba.conf needs no line for replication.\n" +
			"It is one stream, slower than file-copy, and reads through the server's page cache.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind != string(catalog.Full) {
				return usage("--type %q: want full", kind)
			}
			if !slices.Contains([]string{"leader", "prefer-replica", "replica"}, source) {
				return usage("--source %q: want leader, prefer-replica or replica", source)
			}
			if method != methodFileCopy && method != methodBaseBackup {
				return usage("--method %q: want %s or %s", method, methodFileCopy, methodBaseBackup)
			}
			debug.SetGCPercent(manyBuffers)
			return a.backup(cmd.Context(), method, cluster.SourcePolicy(source), comment)
		},
	}
	cmd.Flags().StringVar(&kind, "type", string(catalog.Full), "full")
	cmd.Flags().StringVar(&source, "source", string(cluster.FromLeader), "leader, prefer-replica or replica")
	cmd.Flags().StringVar(&method, "method", methodFileCopy, "file-copy or base-backup")
	cmd.Flags().StringVar(&comment, "comment", "", "a remark to keep with the backup")
	return cmd
}

// manyBuffers is the GC percentage of who takes backups: most of the memory is buffers, which
// are long to fill and quick to collect.
const manyBuffers = 40

func (a *app) backup(ctx context.Context, method string, source cluster.SourcePolicy, comment string) error {
	c := a.config
	member := backup.Member{Name: c.Cluster.Member, DSN: c.Cluster.DSN.Reveal(), PGDATA: c.Cluster.DataDir, Repository: a.repository}
	reason := ""
	var err error
	if method == methodBaseBackup && a.hasPatroni() {
		reason, err = a.remote(ctx, &member, source)
	} else {
		reason, err = a.wantSource(ctx, source)
	}
	if err != nil {
		return err
	}
	member.Streamed = method == methodBaseBackup
	if a.hasPatroni() && source != cluster.FromLeader {
		member.Topology = a.topology
	}
	began := a.now()
	shown := newShow(a.stderr)
	m, err := member.Backup(ctx, reason, backup.Options{
		ID: catalog.ManualID(began), Comment: comment, Tool: version,
		Workers: c.Backup.Workers, PackSize: int64(c.Backup.PackSize), Rate: int64(c.Backup.RateLimit), MaxLag: int64(c.Backup.MaxLag),
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

// remote points m at the member that the policy chooses, wherever it is.
func (a *app) remote(ctx context.Context, m *backup.Member, policy cluster.SourcePolicy) (reason string, err error) {
	t, err := a.topology(ctx)
	if err != nil {
		return "", err
	}
	choice, err := cluster.ChooseSource(t, cluster.SourceWant{Policy: policy, MaxLag: int64(a.config.Backup.MaxLag), Waited: true})
	if err != nil {
		return "", fail(exitPreflight, hintOf(err), "%w", err)
	}
	chosen, _ := t.Member(choice.Member)
	m.Name, m.ConnURL = chosen.Name, chosen.ConnURL
	return choice.Reason, nil
}

// wantSource refuses a member that is not the source asked for, by Patroni's word. A
// server without Patroni must only be a primary, which the backup itself looks at.
func (a *app) wantSource(ctx context.Context, source cluster.SourcePolicy) (reason string, err error) {
	if !a.hasPatroni() {
		if source == cluster.FromReplica {
			return "", fail(exitPreflight, "set patroni.config, or leave --source away on a primary", "--source replica: nothing says who leads, since no Patroni is configured")
		}
		return "", nil
	}
	t, err := a.topology(ctx)
	if err != nil {
		return "", err
	}
	member := a.config.Cluster.Member
	switch {
	case t.Leader == "":
		return "", fail(exitPreflight, "wait for a leader, or look at patronictl list", "nobody leads %s", t.Scope)
	case source == cluster.FromLeader && t.Leader != member:
		return "", fail(exitPreflight, "run it on "+t.Leader, "member %s is not the leader of %s: %s is", member, t.Scope, t.Leader)
	case source == cluster.FromReplica && t.Leader == member:
		return "", fail(exitPreflight, "run it on another member", "member %s leads %s: --source replica wants one that does not", member, t.Scope)
	case t.Leader != member:
		return "a replica, asked for by hand", nil
	}
	choice, err := cluster.ChooseSource(t, cluster.SourceWant{Policy: source, MaxLag: int64(a.config.Backup.MaxLag), Waited: true})
	if err == nil && choice.Member != member {
		err = fail(exitPreflight, "run it on "+choice.Member, "member %s leads %s, and replica %s can serve", member, t.Scope, choice.Member)
	}
	if is[*cluster.NoSourceError](err) {
		return "", nil // asked for by hand, the leader serves
	}
	return choice.Reason, err
}

func (a *app) reportBackup(m catalog.Manifest, took time.Duration) error {
	err := a.say(m, "%s: %s backup of %s (%s), %d files, %s, stored in %s, %s\nconsistent from %s on timeline %d, %s on",
		m.ID, m.Type, m.Scope, m.Member, m.Files, byteCount(m.Bytes), byteCount(m.Stored), took.Round(100*time.Millisecond),
		m.StopLSN, uint32(m.StopTLI), upward(m.StopTime).UTC().Format(time.RFC3339))
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
