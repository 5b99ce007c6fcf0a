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
	cmd := &cobra.Command{Use: prePromote, Short: "Queue again what the archive lacks, before this member is promoted: postgresql.pre_promote", Args: cobra.ArbitraryArgs}
	cmd.Long = `A standby marks the WAL that it receives as archived, whether the former leader came to archive it or not, and
PostgreSQL would never archive it. This turns those marks back for what the archive lacks. It takes less than a
second whatever happens, says what it did in one line, and always exits 0: it never stands in a promotion's way.`
	cmd.FParseErrWhitelist.UnknownFlags = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := wal.Requeue(cmd.Context(), a.config.Cluster.DataDir, a.config.Cluster.StateDir, a.repository)
		if err == nil {
			fmt.Fprintln(a.stderr, prePromote+":", r)
		}
		return err
	}
	return cmd
}

// guardPromotion lets nothing that happens here hold up or refuse a promotion: Patroni
// waits for the end, and gives the leader's lock back unless the exit status is 0.
func guardPromotion() exitMapper {
	signal.Ignore(syscall.SIGPIPE)
	time.AfterFunc(900*time.Millisecond, func() {
		fmt.Fprintln(os.Stderr, prePromote+": it did not end in time; the promotion goes on")
		os.Exit(exitOK)
	})
	return func(int) int { return exitOK }
}

// survive ends a panic of a command that must not fail.
func survive(leave exitMapper) {
	if leave(exitError) == exitOK {
		fmt.Fprintln(os.Stderr, prePromote+": panic:", recover())
		os.Exit(exitOK)
	}
}
