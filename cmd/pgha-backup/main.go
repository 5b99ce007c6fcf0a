// Command pgha-backup backs up PostgreSQL clusters run by Patroni and brings them
// back to a point in time.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // schedules name time zones, and a host may know none
)

func main() {
	leave := guard(os.Args[1:])
	defer survive(leave)
	// PostgreSQL's immediate shutdown sends SIGQUIT to its children: by itself Go
	// would then write the stacks of all goroutines into the server's log.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	code := run(ctx, newApp(os.Stdout, os.Stderr), os.Args[1:])
	stop()
	os.Exit(leave(code))
}

// run executes one command line and says how it ended: nothing below it prints
// an error or exits.
func run(ctx context.Context, a *app, args []string) int {
	root := newRootCommand(a)
	args = dashed(args)
	a.args = args
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	report(a.stderr, err)
	return exitCode(err)
}

// report prints an error and, where there is one, what to do about it.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	if text := err.Error(); text != "" {
		for line := range strings.SplitSeq(text, "\n") {
			fmt.Fprintf(w, "error: %s\n", printable(line))
		}
	}
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
}

// hintOf finds the outermost hint of an error.
func hintOf(err error) string {
	if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
		return h.Hint()
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		if inner := u.Unwrap(); inner != nil {
			return hintOf(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range u.Unwrap() {
			if hint := hintOf(inner); hint != "" {
				return hint
			}
		}
	}
	return ""
}
