package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/internal/backoff"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/restore"
)

// replicaFlags are what Patroni passes to a method of create_replica_methods.
type replicaFlags struct {
	calledFlags
	connstring, keepData string
}

func newCreateReplicaCommand(a *app) *cobra.Command {
	var f replicaFlags
	cmd := &cobra.Command{
		Use:   "create-replica",
		Short: "Make a new member from the repository: a method of Patroni's create_replica_methods",
		Long: "Writes the newest good backup on the leader's history into the data directory, with the WAL that its first\n" +
			"start needs, and no settings: those are Patroni's. It exits 4 before anything is written where a member made so\n" +
			"could not follow the leader, and Patroni goes on with its next method. The leader is asked for its timeline and\n" +
			"otherwise left in peace; at most patroni.replicas_at_once members are made at a time. With keep_data a stopped\n" +
			"data directory of this cluster is given up. What else Patroni passes is ignored.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.createReplica(cmd.Context(), f) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.connstring, "connstring", "", "the replication source, as Patroni passes it; empty: nobody leads")
	cmd.Flags().StringVar(&f.keepData, "keep-data", "", "as Patroni passes it")
	return cmd
}

func (a *app) createReplica(ctx context.Context, f replicaFlags) error {
	if err := f.settle(a); err != nil {
		return err
	}
	stamp := backoff.New(a.config.Cluster.StateDir, "create-replica", a.log)
	if err := stamp.Allows(a.now()); err != nil {
		return fail(exitPreflight, hintOf(err), "%w", err)
	}
	err := a.replica(ctx, f)
	if exitCode(err) == exitNotFound { // no backup, no repository: nothing was changed
		err = fail(exitPreflight, hintOf(err), "%w", err)
	}
	if ctx.Err() == nil {
		stamp.Note(a.now(), err)
	}
	return err
}

func (a *app) replica(ctx context.Context, f replicaFlags) error {
	release, err := a.replicaTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	leader, err := a.leading(ctx, f.connstring)
	if err != nil {
		return err
	}
	repository, err := a.repository(leader.System)
	if err != nil {
		return err
	}
	facts, err := restore.Gather(ctx, repository)
	if err != nil {
		return err
	}
	plan, err := restore.NewMemberPlan(ctx, facts, leader.Timeline)
	var ground restore.Ground
	if err == nil {
		ground, err = restore.Check(plan, f.dataDir, cluster.True(f.keepData))
	}
	var bin string
	if err == nil {
		bin, err = restore.FindBinDir(ctx, plan.Backup.Version.Major(), a.config.Cluster.BinDir)
	}
	if err != nil {
		return err
	}
	a.log.Info("create-replica", "backup", plan.Backup.ID, "timeline", uint32(plan.Timeline), "datadir", f.dataDir, "ground", ground.State)
	a.warn(plan.Notes)
	defer repository.HoldForRestore(ctx, plan.Backup.ID, a.whoami(), a.log)()
	began := time.Now()
	if err := restore.Execute(ctx, repository, plan, ground, restore.Options{Member: true, BinDir: bin, Now: a.now(), Log: a.log}); err != nil {
		return err
	}
	a.log.Info("create-replica: done", "bytes", plan.Backup.Bytes, "seconds", time.Since(began).Round(time.Millisecond).Seconds())
	return nil
}

// leading is the system, and the timeline that a new member must reach; 0 if nobody leads.
// The source may be a replica (clonefrom) that has not followed the leader yet: of what it
// and Patroni say the newer timeline counts.
func (a *app) leading(ctx context.Context, connstring string) (id server.Identity, err error) {
	led := connstring != "" // or Patroni would not name a source
	if led {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		id, err = server.Identify(short, connstring)
		cancel()
		if err != nil {
			a.log.Warn("the replication source does not say its timeline; asking Patroni", "error", err)
		}
	}
	if a.hasPatroni() {
		t, unseen := a.topology(ctx)
		if unseen != nil && id.Timeline == 0 {
			return id, unseen
		}
		if leader, ok := t.Member(t.Leader); ok && unseen == nil {
			led = true
			id.Timeline = max(id.Timeline, leader.Timeline)
		}
		id.System = cmp.Or(id.System, t.SystemIdentifier)
	}
	if led && id.Timeline == 0 {
		return id, fail(exitPreflight, "Patroni tries again by itself", "somebody leads %s, and nobody says on which timeline", a.config.Cluster.Scope)
	}
	if id.System == 0 {
		id.System, err = a.onlySystem(ctx)
		return id, err
	}
	return id, nil
}

// replicaTurn waits until fewer members than allowed are made in the whole cluster.
func (a *app) replicaTurn(ctx context.Context) (release func(), err error) {
	c, err := patroni.NewCoordination(patroniOptions(a.config, a.log))
	if err != nil {
		a.log.Warn("how many members are made at a time is not bounded: there is no etcd to agree in", "error", err)
		return func() {}, nil
	}
	for said := false; ; said = true {
		claim, err := c.ClaimOneOf(ctx, "replicas", a.config.Patroni.ReplicasAtOnce, a.config.Cluster.Member)
		claimed, waits := errors.AsType[*patroni.ClaimedError](err)
		switch {
		case err == nil:
			return func() { claim.Release(); _ = c.Close() }, nil
		case !waits:
			_ = c.Close()
			a.log.Warn("how many members are made at a time is not bounded: etcd does not answer", "error", err)
			return func() {}, ctx.Err()
		case !said:
			a.log.Info("create-replica waits: other members are being made", "by", claimed.By)
		}
		select {
		case <-ctx.Done():
			_ = c.Close()
			return nil, ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
}
