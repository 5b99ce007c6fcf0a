package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/restore"
)

// bootstrapFlags are what Patroni passes to bootstrap.method, and what the method's
// command says beside the target.
type bootstrapFlags struct {
	calledFlags
	restoreFlags
	fromConfig, fromScope string
}

func newBootstrapCommand(a *app) *cobra.Command {
	var target targetFlags
	var f bootstrapFlags
	cmd := &cobra.Command{
		Use:   "bootstrap (--from-config <file> | --from-scope <cluster>)",
		Short: "Make a new cluster from another cluster's repository: Patroni's bootstrap.method",
		Long: "Restores and recovers the other cluster, to a target as restore has them, inside a directory that Patroni takes\n" +
			"for empty; proves where recovery stopped, and only then moves everything into place: an interruption leaves\n" +
			"nothing that Patroni could start. The new cluster archives under its own name and never under its source's.\n" +
			"Patroni's method needs neither recovery_conf nor keep_existing_recovery_conf.\n\n" +
			"A Patroni that was killed meanwhile says \"waiting for leader to bootstrap\" for ever: remove the key initialize\n" +
			"of the new cluster from etcd (etcdctl del /service/<scope>/initialize) and, if it is not empty, its data directory.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.similar(cmd); err != nil {
				return err
			}
			return a.bootstrap(cmd.Context(), target, f)
		},
	}
	f.calledFlags.add(cmd)
	target.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.fromConfig, "from-config", "", "configuration of the source: its cluster.scope and its repository")
	flags.StringVar(&f.fromScope, "from-scope", "", "the source, where it lies in this configuration's own repository")
	f.addSource(cmd)
	return cmd
}

// similar refuses an unknown flag that was meant for us: a target that is misspelt
// must not be taken for none. The others are Patroni's or the operator's.
func (a *app) similar(cmd *cobra.Command) error {
	for _, arg := range a.args {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		word, _, _ := strings.Cut(name, "-")
		switch {
		case !strings.HasPrefix(arg, "--") || cmd.Flags().Lookup(name) != nil:
		case strings.Contains(name, "target"), slices.Contains([]string{"from", "backup", "system", "tablespace"}, word):
			return fail(exitUsage, "see "+cmd.CommandPath()+" --help", "unknown flag --%s", name)
		default:
			a.log.Warn("flag ignored", "flag", "--"+name)
		}
	}
	return nil
}

func (a *app) bootstrap(ctx context.Context, target targetFlags, f bootstrapFlags) (err error) {
	defer func() {
		if ctx.Err() != nil && err != nil {
			key := path.Join("/", a.config.Patroni.Namespace, a.config.Cluster.Scope, "initialize")
			err = fail(exitInterrupted, "if Patroni then waits for a leader to bootstrap for ever: etcdctl del "+key, "%w", err)
		}
	}()
	if err := f.settle(a); err != nil {
		return err
	}
	f.pgdata, f.archiveMode = f.dataDir, string(restore.ArchiveOff)
	request, err := f.request(target, a.now())
	if err != nil {
		return err
	}
	if request.Target.Action != restore.Promote {
		return usage("--target-action %q: a new cluster is promoted", request.Target.Action)
	}
	source, command, err := a.source(f)
	if err != nil {
		return err
	}
	repository, plan, err := source.planned(ctx, f.system, request)
	if err != nil {
		return err
	}
	bin, err := restore.FindBinDir(ctx, plan.Backup.Version.Major(), a.config.Cluster.BinDir)
	if err != nil {
		return err
	}
	a.log.Info("bootstrap", "from", plan.Backup.Scope, "target", plan.Target.String(), "backup", plan.Backup.ID,
		"timeline", uint32(plan.Timeline), "stops", plan.Stop.What)
	a.warn(plan.Notes)
	stage, err := restore.OpenStage(ctx, f.dataDir, a.log)
	if err != nil {
		return err
	}
	defer stage.Close()
	ground, err := restore.Check(plan, stage.PGDATA, true) // what stands there is a bootstrap's that did not end
	if err != nil {
		return err
	}
	defer repository.HoldForRestore(ctx, plan.Backup.ID, a.whoami(), a.log)()
	began := time.Now()
	if err := restore.Execute(ctx, repository, plan, ground, restore.Options{RestoreCommand: command, ArchiveMode: restore.ArchiveOff,
		BinDir: bin, Now: a.now(), Log: a.log}); err != nil {
		return err
	}
	seen, err := a.recoverStage(ctx, plan, stage, bin)
	if err != nil {
		return err
	}
	a.log.Info("bootstrap: done", "lsn", seen.LSN.String(), "last_commit", seen.LastCommit, "timeline", uint32(seen.NewTimeline),
		"seconds", time.Since(began).Round(time.Millisecond).Seconds())
	return nil
}

// recoverStage recovers what was restored, proves where it stopped, and makes a
// cluster of it.
func (a *app) recoverStage(ctx context.Context, plan restore.Plan, stage *restore.Stage, bin string) (restore.Outcome, error) {
	copied, err := restore.Start(ctx, plan, stage.PGDATA, restore.StartOptions{BinDir: bin, ArchiveMode: restore.ArchiveOff, Log: a.log})
	if err != nil {
		return restore.Outcome{}, err
	}
	seen, err := copied.Recover(ctx)
	if err != nil {
		return seen, err
	}
	subscriptions, err := copied.Subscriptions(ctx)
	stopped := copied.Stop(ctx) // its last checkpoint may take long
	if ctx.Err() != nil {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		stopped = cmp.Or(copied.Stop(limit), ctx.Err()) // what is not whole is not moved into place
	}
	if stopped != nil || err != nil {
		return seen, fmt.Errorf("stop the recovered cluster: %w", errors.Join(err, stopped))
	}
	if subscriptions > 0 {
		a.log.Warn("the new cluster takes no part in logical replication, or it would take over the subscriptions of its source: "+
			"drop or disable them, then ALTER SYSTEM RESET max_logical_replication_workers and restart", "subscriptions", subscriptions)
	}
	return seen, stage.Settle(seen.NewTimeline, subscriptions > 0)
}

// source is the cluster to clone, and the command that fetches its WAL.
func (a *app) source(f bootstrapFlags) (*app, []string, error) {
	source := *a
	var own []string
	switch {
	case (f.fromConfig == "") == (f.fromScope == ""):
		return nil, nil, usage("want --from-config with the configuration of the source, or --from-scope with its name in this repository")
	case f.fromConfig != "":
		source.path = f.fromConfig
		if err := source.load(); err != nil {
			return nil, nil, err
		}
	default:
		source.config.Cluster.Scope = f.fromScope
		source.config.Patroni.API = config.API{} // of our own member
		own = []string{"--from-scope", f.fromScope}
	}
	source.config.Cluster.DataDir = "" // says nothing of the source
	if scope := a.config.Cluster.Scope; source.config.Cluster.Scope == scope {
		return nil, nil, fail(exitPreflight, "give the new cluster a scope of its own",
			"the source is named %s, as the new cluster is: they would write into one archive", scope)
	}
	command, err := source.restoreCommand()
	if err != nil {
		return nil, nil, err
	}
	at := slices.Index(command, "archive-get") + 1
	return &source, slices.Insert(command, at, own...), nil
}
