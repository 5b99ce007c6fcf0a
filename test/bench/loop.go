package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop is what PostgreSQL's archiver or recovery does: one process for each segment, in
// order, the next when the last has ended. It runs in a process of its own, which
// collects what the commands leave running behind them, so that its CPU time counts.
type loop struct {
	Dir     string // working directory
	Command []string
	Names   []string
	Push    string        // pg_wal: the path is added, .ready becomes .done
	Keep    string        // the name and a destination are added, and some of what came is kept here
	Pace    time.Duration // between two segments
}

// looped is what it cost.
type looped struct {
	Wall, CPU time.Duration
	RSS       int64 // bytes, of the largest process
	Each      []time.Duration
}

// runLoop is the process: a loop in, what it cost out.
func runLoop() error {
	var l loop
	if err := json.NewDecoder(os.Stdin).Decode(&l); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	var out looped
	began := time.Now()
	for _, name := range l.Names {
		took, err := l.one(name)
		if err != nil {
			return err
		}
		out.Each = append(out.Each, took)
		time.Sleep(l.Pace)
	}
	out.Wall = time.Since(began)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == syscall.ECHILD {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		return err
	}
	out.CPU, out.RSS = time.Duration(u.Utime.Nano()+u.Stime.Nano()), u.Maxrss<<10
	return json.NewEncoder(os.Stdout).Encode(out)
}

func (l *loop) one(name string) (time.Duration, error) {
	argv := append([]string(nil), l.Command...)
	dest := filepath.Join(l.Dir, "pg_wal", "RECOVERYXLOG")
	switch {
	case l.Push != "":
		argv = append(argv, filepath.Join(l.Push, name))
	case l.Keep != "":
		argv = append(argv, name, dest)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = l.Dir
	var said strings.Builder
	cmd.Stderr = &said
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err == nil && l.Push != "" {
		status := filepath.Join(l.Push, "archive_status", name)
		err = os.Rename(status+".ready", status+".done")
	}
	if err == nil && l.Keep != "" {
		to := filepath.Join(l.Keep, "last") // recovery has done with it: its memory is free for the next
		if strings.HasSuffix(name, "0") {
			to = filepath.Join(l.Keep, name)
		}
		err = os.Rename(dest, to)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, said.String())
	}
	return took, nil
}
