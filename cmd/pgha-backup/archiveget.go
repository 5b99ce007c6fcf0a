package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/wal"
)

func newArchiveGetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "archive-get <file> <path>",
		Short: "Bring a WAL file back: restore_command = 'pgha-backup archive-get %f %p'",
		Long: "Brings a WAL file from the archive. It exits 0 when the file is in place and 1 only when the archive is\n" +
			"proven to end before it. All else is trouble: 75, so that a standby or pg_rewind asks again, or 200 where\n" +
			"recovery.signal stands without standby.signal, so that PostgreSQL stops instead of promoting short.",
		Args: exactly("<file>", "<path>"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, dest := args[0], args[1]
			c := a.config
			bucket, err := a.bucket()
			if err != nil {
				return err
			}
			dataDir := wal.DataDir(dest, c.Cluster.DataDir)
			getter := wal.Getter{
				Bucket: bucket, Identity: a.identity(), Scope: c.Cluster.Scope,
				DataDir: dataDir, Mode: wal.ModeOf(dataDir, dest),
				State: c.Cluster.StateDir, Spool: c.Archive.Spool, Batch: c.Archive.GetBatch,
				Timeouts: wal.Timeouts{Recovery: c.Archive.GetRecoveryTimeout, Standby: c.Archive.GetStandbyTimeout, Rewind: c.Archive.GetRewindTimeout},
				Log:      a.log,
			}
			err = getter.Get(cmd.Context(), name, dest)
			code := getter.Mode.ExitCode(err)
			switch {
			case err == nil:
				return nil
			case cmd.Context().Err() != nil:
				code = exitInterrupted
			case code == wal.ExitAbsent:
				// Recovery asks for files that do not exist all the time: that alarms nobody.
				fmt.Fprintln(a.stderr, err)
				return fail(exitAbsent, "", "")
			}
			return fail(code, hintOf(err), "%w", err)
		},
	}
}
