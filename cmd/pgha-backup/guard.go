package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/hook"
)

// exitMapper turns an exit code into the one that PostgreSQL must see.
type exitMapper func(code int) int

// exitAbsent is how archive-get tells the guard of proven absence: the 1 of any
// other error must not be taken for it.
const exitAbsent = 100

// guard is called before anything else, also before flags and configuration are
// read. It protects PostgreSQL from what an archive client's exit status would
// make it believe (R10).
func guard(args []string) exitMapper {
	if slices.Contains(args, "archive-get") || slices.Contains(args, "archive-push") {
		signal.Ignore(syscall.SIGPIPE) // a closed log would kill us with a status that ends a standby
	}
	switch {
	case slices.Contains(args, prePromote):
		return guardPromotion()
	case slices.Contains(args, "archive-get"):
		return guardGet(args[slices.Index(args, "archive-get")+1:])
	case slices.ContainsFunc(args, hook.ByRecovery): // a restore_command whose verb is misspelt
		return guardGet(args)
	case slices.Contains(args, "archive-push"):
		if slices.Contains(args, "--help") || slices.Contains(args, "-h") {
			return func(int) int { return exitError } // PostgreSQL would take 0 for an archived file
		}
		return func(code int) int { return min(code, exitError) }
	}
	return func(code int) int { return code }
}

func guardGet(args []string) exitMapper {
	mode := hook.ModeOfArgs(args)
	if mode == hook.Recovery {
		debug.SetTraceback("crash") // a panic dies of SIGABRT instead of exit status 2
	}
	return func(code int) int {
		switch code {
		case exitOK:
			if mode == hook.Recovery && !exists(args) {
				return mode.TroubleCode() // --help: PostgreSQL would take it for the end
			}
			return exitOK
		case exitAbsent:
			return hook.ExitAbsent
		case exitInterrupted:
			// PostgreSQL stops its children so, and knows the signal from a failure.
			signal.Reset(syscall.SIGTERM)
			if syscall.Kill(os.Getpid(), syscall.SIGTERM) == nil {
				time.Sleep(time.Second)
			}
		case hook.ExitStopShort:
			return code // the command, which knows the configuration, saw a recovery
		}
		return mode.TroubleCode()
	}
}

// exists tells whether the file that was asked for is there.
func exists(args []string) bool {
	if len(args) == 0 {
		return false
	}
	_, err := os.Stat(args[len(args)-1])
	return err == nil
}
