// Command pgha-wal is archive_command and restore_command where a daemon runs: it
// asks the daemon, and becomes pgha-backup where that does not answer. It is started
// for every segment, so it has the standard library alone, and little of that.
package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/hook"
)

// version is this release; the build sets it from git.
var version = "0.1.0-dev"

const usage = `, speaks ` + hook.Version + ` with the daemon.

Usage: pgha-wal [--socket <path>] [--config <file>] archive-push <path>
       pgha-wal [--socket <path>] [--config <file>] archive-get <file> <path>

Asks the daemon that listens at --socket. Where none does, or none is given, it runs pgha-backup, with --config.
Exit statuses are those of pgha-backup archive-push and archive-get.
`

func main() {
	leave := guard(os.Args[1:])
	l, err := parse(os.Args[1:])
	switch {
	case err != nil:
		say("error: ", err.Error())
		say("hint: ", "see pgha-wal --help")
		leave.trouble()
	case l.help:
		_, _ = os.Stdout.WriteString("pgha-wal " + version + usage)
		leave.help()
	}
	if l.socket != "" && l.plain() {
		ask(l, leave)
	}
	become("pgha-backup", l.rest, leave)
}

// ask exits if the daemon did what was asked for, or found out that it cannot be done.
func ask(l line, leave leaver) {
	at, err := filepath.Abs(l.operands[len(l.operands)-1])
	if err != nil {
		return
	}
	request := hook.Request{Path: at}
	if l.verb == get {
		request.File, request.Mode, request.Ticket = l.operands[0], leave.mode, uint64(time.Now().UnixNano())
		defer os.Remove(request.Aside())
	}
	answer, err := hook.Ask(l.socket, request)
	if err != nil || answer.Kind != hook.Done {
		return
	}
	if answer.Status == 0 && l.verb == get {
		if err := os.Rename(request.Aside(), at); err != nil {
			return // whatever it did, it did not do that
		}
	}
	prefix := "error: "
	if answer.Status == hook.ExitAbsent && l.verb == get {
		prefix = "" // recovery asks for files that do not exist all the time: that alarms nobody
	}
	say(prefix, answer.Error)
	say("hint: ", answer.Hint)
	leave.with(answer.Status)
}

// become runs the program beside ours, else one on the PATH, in place of this process.
func become(program string, args []string, leave leaver) {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if self, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Dir(self)}, dirs...)
	}
	// What we caught, it must be able to catch by itself; SIGPIPE stays ignored.
	signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	why := error(syscall.ENOENT)
	for _, dir := range dirs {
		err := syscall.Exec(filepath.Join(dir, program), append([]string{program}, args...), os.Environ())
		if err != syscall.ENOENT {
			why = err
		}
	}
	say("error: ", "the daemon did not answer, and "+program+" cannot be run: "+why.Error())
	say("hint: ", "install it beside pgha-wal")
	leave.trouble()
}

// say prints a line of log, if there is anything to say.
func say(prefix, text string) {
	if text == "" {
		return
	}
	for i := 0; i < len(text); i++ {
		if text[i] == '\n' {
			say(prefix, text[:i])
			say(prefix, text[i+1:])
			return
		}
	}
	_, _ = os.Stderr.WriteString(prefix + text + "\n")
}
