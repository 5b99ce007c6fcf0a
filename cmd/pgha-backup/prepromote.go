package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/wal"
)

const prePromote = "pre-promote"

func newPrePromoteCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   prePromote,
		Short: "Queue again what the archive lacks, before this member is promoted: postgresql.pre_promote",
		Long: "A standby marks the WAL that it receives as archived, whether the former leader came to archive it or not, and\n" +
			"PostgreSQL would never archive it. This turns those marks back for what the archive lacks. It takes less than a\n" +
			"second whatever happens, says what it did in one line, and always exits 0: it never stands in a promotion's way.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := wal.Requeue(cmd.Context(), a.config.Cluster.DataDir, a.config.Cluster.StateDir, a.repository)
			if err != nil {
				return fmt.Errorf("%s: after %d of %d files: %w", prePromote, r.Queued, r.Lacking, err)
			}
			_, err = fmt.Fprintf(a.stderr, "%s: %d of %s that the archive lacks queued again, as known from %s\n", prePromote, r.Queued, plural(r.Lacking, "file"), r.By)
			return err
		},
	}
	cmd.FParseErrWhitelist.UnknownFlags = true
	return cmd
}

// guardPromotion lets nothing that happens here hold up or refuse a promotion: Patroni
// waits for the end, and gives the leader's lock back unless the exit status is 0.
func guardPromotion() exitMapper {
	signal.Ignore(syscall.SIGPIPE)
	time.AfterFunc(prePromoteLimit, func() {
		fmt.Fprintln(os.Stderr, prePromote+": it did not end in time; the promotion goes on")
		os.Exit(exitOK)
	})
	return func(int) int { return exitOK }
}

const prePromoteLimit = 900 * time.Millisecond

// survive ends a panic of a command that must not fail.
func survive(leave exitMapper) {
	if leave(exitError) != exitOK {
		return
	}
	if p := recover(); p != nil {
		fmt.Fprintf(os.Stderr, "%s: panic: %v\n", prePromote, p)
		os.Exit(exitOK)
	}
}
