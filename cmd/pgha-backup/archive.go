package main

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/probe"
	"github.com/pgha-backup/pgha-backup/wal"
)

func newArchivePushCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "archive-push <path>",
		Short: "Archive a WAL file: archive_command = 'pgha-backup archive-push %p'",
		Long: "Archives a segment, .partial, .history or .backup file. It exits 0 only when the file is durable in the\n" +
			"repository, and 1 otherwise: PostgreSQL keeps the file and tries again. Only archive.on_full: drop-and-record changes that.",
		Args: exactly("<path>"),
		RunE: func(cmd *cobra.Command, args []string) error {
			debug.SetGCPercent(400) // it ends with its one file: what is collected is used by nobody
			bucket, err := a.bucket()
			if err != nil {
				return err
			}
			pusher := a.pusher(bucket)
			outcome, err := pusher.PushOrDrop(cmd.Context(), args[0])
			if err == nil {
				a.log.Debug("archive-push", "path", args[0], "outcome", string(outcome))
			}
			return err
		},
	}
}

func (a *app) pusher(bucket storage.Bucket) wal.Pusher {
	c, below := a.config, int64(0)
	if c.Archive.OnFull == config.DropAndRecord {
		below = int64(c.Archive.FullBelow)
	}
	return wal.Pusher{
		Bucket: bucket, Identity: c.Repository().Identity(), Scope: c.Cluster.Scope, Options: a.options(),
		Emulate: c.Repository().ConditionalWrites == config.Emulate, Probe: a.probe,
		DataDir: c.Cluster.DataDir, State: c.Cluster.StateDir, Timeout: c.Archive.PushTimeout,
		DropBelow: below, Member: c.Cluster.Member,
		AskAlways: c.Repository().Type == config.TypeFile,
		Log:       a.log, Now: a.now,
	}
}

// getter brings files for nobody yet: whose they are and how long that may take is
// known with the path.
func (a *app) getter(bucket storage.Bucket) wal.Getter {
	c := a.config
	return wal.Getter{
		Bucket: bucket, Identity: c.Repository().Identity(), Scope: c.Cluster.Scope,
		State: c.Cluster.StateDir, Spool: c.Archive.Spool, Batch: c.Archive.GetBatch,
		Timeouts: wal.Timeouts{Recovery: c.Archive.GetRecoveryTimeout, Standby: c.Archive.GetStandbyTimeout, Rewind: c.Archive.GetRewindTimeout},
		Log:      a.log,
	}
}

// probe refuses a store that cannot do create-once writes.
func (a *app) probe(ctx context.Context) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	report, err := probe.Probe(ctx, store, nil)
	if err != nil {
		return fmt.Errorf("find out what the store can do: %w", err)
	}
	if report.ConditionalWrites {
		return nil
	}
	return fail(exitConfig, "use a store that has If-None-Match, or set conditional_writes: emulate and read in the documentation which promises that costs",
		"the store cannot do create-once writes, so nothing is archived into it%s", report.Faults())
}

func newArchiveGetCommand(a *app) *cobra.Command {
	var scope string
	cmd := &cobra.Command{
		Use:   "archive-get <file> <path>",
		Short: "Bring a WAL file back: restore_command = 'pgha-backup archive-get %f %p'",
		Long: "Brings a WAL file from the archive. It exits 0 when the file is in place and 1 only when the archive is\n" +
			"proven to end before it. All else is trouble: 75, so that a standby or pg_rewind asks again, or 200 where\n" +
			"recovery.signal stands without standby.signal, so that PostgreSQL stops instead of promoting short.",
		Args: exactly("<file>", "<path>"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, dest := args[0], args[1]
			bucket, err := a.bucket()
			if err != nil {
				return err
			}
			getter := a.getter(bucket)
			getter.Scope = cmp.Or(scope, getter.Scope)
			getter.DataDir = hook.DataDir(dest, a.config.Cluster.DataDir)
			getter.Mode = hook.ModeOf(getter.DataDir, dest)
			err = getter.Get(cmd.Context(), name, dest)
			code := wal.ExitCode(getter.Mode, err)
			a.log.Debug("archive-get", "file", name, "mode", getter.Mode.String(), "outcome", code)
			switch {
			case err == nil:
				return nil
			case cmd.Context().Err() != nil:
				code = exitInterrupted
			case code == hook.ExitAbsent:
				// Recovery asks for files that do not exist all the time: that alarms nobody.
				fmt.Fprintln(a.stderr, err)
				return fail(exitAbsent, "", "")
			}
			return fail(code, hintOf(err), "%w", err)
		},
	}
	cmd.Flags().StringVar(&scope, "from-scope", "", "bring it from the archive of another cluster in this repository")
	return cmd
}
