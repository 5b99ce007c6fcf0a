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

// leaver ends the process with what PostgreSQL must see (R10).
type leaver struct {
	push bool
	mode hook.Mode // of a get
}

// guard is called before anything else. Whatever is no push could be a get.
func guard(args []string) leaver {
	l := leaver{push: slices.Contains(args, push) && !slices.Contains(args, get) && !slices.ContainsFunc(args, hook.ByRecovery)}
	signal.Ignore(syscall.SIGPIPE) // a closed log would kill us with a status that ends a standby
	if !l.push {
		if l.mode = hook.ModeOfArgs(args); l.mode == hook.Recovery {
			debug.SetTraceback("crash") // a panic dies of SIGABRT instead of exit status 2
		}
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT) // the last would print stacks into the server's log
	go func() {
		<-ended
		l.interrupted()
	}()
	return l
}

// interrupted ends a get by the signal, which PostgreSQL, who stops its children so,
// knows from a failure. A push is just not done.
func (l leaver) interrupted() {
	if !l.push {
		signal.Reset(syscall.SIGTERM)
		if syscall.Kill(os.Getpid(), syscall.SIGTERM) == nil {
			time.Sleep(time.Second)
		}
	}
	l.trouble()
}

func (l leaver) trouble() {
	if l.push {
		os.Exit(1)
	}
	os.Exit(l.mode.TroubleCode())
}

// help has shown how to call us: no file is in place.
func (l leaver) help() {
	if l.mode == hook.Recovery {
		l.trouble()
	}
	os.Exit(0)
}

// with ends as the daemon says.
func (l leaver) with(status int) {
	switch {
	case status == 0, l.push && status <= 125, !l.push && (status == hook.ExitAbsent || status == hook.ExitStopShort):
		os.Exit(status)
	}
	l.trouble()
}
