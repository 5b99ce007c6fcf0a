// Package lab starts real servers for tests and for the demo: PostgreSQL, etcd,
// Patroni, HAProxy and an S3 server, each as an unprivileged user, on loopback
// addresses that belong to this run alone. Everything it starts lives under one
// run directory and is gone when the test ends, however it ends.
//
// The harness itself must run as root, because it starts servers as several
// users that cannot read each other's files.
package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// T is what the harness asks of a test; *testing.T and *testing.B have it, and
// the demo brings its own.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Failed() bool
	Name() string
}

// Run is everything one test has started: a directory, a network prefix, processes.
type Run struct {
	// Dir is the run's directory, readable by every user of the machine.
	Dir string
	// Prefix is the run's own part of the loopback network, as in "127.31.7.".
	Prefix string

	t        T
	lock     net.Listener // held for the run's life: whoever has it owns the prefix
	guardian *guardian

	mu     sync.Mutex
	procs  []*Process
	counts map[string]int
}

// registry maps each test to its run, so that two Start calls of one test share it.
var registry sync.Map // T -> *Run

// RunOf returns the run of a test, made at the first call and torn down by the test's Cleanup.
func RunOf(t T) *Run {
	t.Helper()
	if r, ok := registry.Load(t); ok {
		return r.(*Run)
	}
	if os.Getuid() != 0 {
		t.Fatalf("lab: the harness starts servers as several users and must run as root; use sudo")
	}
	dir, err := os.MkdirTemp("", ownRuns()+"*")
	if err != nil {
		t.Fatalf("lab: make the run directory: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatalf("lab: open the run directory: %v", err)
	}
	r := &Run{Dir: dir, t: t, counts: map[string]int{}}
	if err := r.claimPrefix(); err != nil {
		t.Fatalf("lab: %v", err)
	}
	if r.guardian, err = startGuardian(dir); err != nil {
		t.Fatalf("lab: start the guardian: %v", err)
	}
	registry.Store(t, r)
	t.Cleanup(r.close)
	return r
}

// runPattern begins the name of every run directory; the process id of the harness follows.
const runPattern = "pgha-lab-"

// claimPrefix takes a random 127.x.y.0/24 and holds it by a listener that any other run would collide with.
func (r *Run) claimPrefix() error {
	var last error
	for range 50 {
		prefix := fmt.Sprintf("127.%d.%d.", 16+rand.IntN(230), 1+rand.IntN(250))
		l, err := net.Listen("tcp", prefix+"1:61000")
		if err == nil {
			r.lock, r.Prefix = l, prefix
			return nil
		}
		last = err
	}
	return fmt.Errorf("find a free loopback prefix: %w", last)
}

// Path joins names to the run's directory.
func (r *Run) Path(names ...string) string {
	return filepath.Join(append([]string{r.Dir}, names...)...)
}

// Mkdir makes a directory of the run that belongs to user.
func (r *Run) Mkdir(user string, mode os.FileMode, names ...string) string {
	r.t.Helper()
	dir := r.Path(names...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatalf("lab: %v", err)
	}
	r.own(dir, user, mode)
	return dir
}

// WriteFile writes a file of the run that belongs to user.
func (r *Run) WriteFile(user string, mode os.FileMode, content string, names ...string) string {
	r.t.Helper()
	path := r.Path(names...)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		r.t.Fatalf("lab: %v", err)
	}
	r.own(path, user, mode)
	return path
}

func (r *Run) own(path, user string, mode os.FileMode) {
	r.t.Helper()
	id := r.identity(user)
	if err := os.Chown(path, int(id.Uid), int(id.Gid)); err != nil {
		r.t.Fatalf("lab: %v", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		r.t.Fatalf("lab: %v", err)
	}
}

// next numbers things of one kind: 1, 2, 3.
func (r *Run) next(kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[kind]++
	return r.counts[kind]
}

// close ends every process of the run, shows logs of a failed test, and removes the directory.
func (r *Run) close() {
	registry.Delete(r.t)
	r.mu.Lock()
	procs := r.procs
	r.mu.Unlock()
	for i := len(procs) - 1; i >= 0; i-- {
		procs[i].abandon()
	}
	if err := r.sweep(); err != nil {
		r.t.Logf("lab: %v", err)
	}
	removeStaleShared()
	_ = r.lock.Close()
	r.guardian.dismiss()
	keep := os.Getenv("PGHA_KEEP") == "1"
	if r.t.Failed() {
		r.showLogs()
	}
	if keep {
		r.t.Logf("lab: kept %s", r.Dir)
		return
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		r.t.Logf("lab: remove the run directory: %v", err)
	}
}

// showLogs prints the tail of every log file of the run.
func (r *Run) showLogs() {
	_ = filepath.WalkDir(r.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, ".log") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return nil
		}
		if len(b) > 4000 {
			b = b[len(b)-4000:]
		}
		r.t.Logf("---- %s\n%s", path, b)
		return nil
	})
}

// Logs names the log files of the run.
func (r *Run) Logs() []string {
	var logs []string
	_ = filepath.WalkDir(r.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".log") {
			logs = append(logs, path)
		}
		return nil
	})
	return logs
}

// Poll asks until the answer is nil, and fails the test with the last answer after the limit.
func Poll(t T, limit time.Duration, what string, ask func() error) {
	t.Helper()
	if err := poll(limit, ask); err != nil {
		t.Fatalf("lab: waited %s for %s: %v", limit, what, err)
	}
}

func poll(limit time.Duration, ask func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// guardian is a shell outside our process group that sweeps the run when this
// process dies without doing so itself: a signal, a panic, a test's time limit.
type guardian struct {
	cmd  *exec.Cmd
	pipe *os.File
}

const guardianScript = `
read -r word && [ "$word" = done ] && exit 0
run=$1
pids() {
  for p in /proc/[0-9]*; do
    [ "${p#/proc/}" = $$ ] && continue
    at="$(readlink "$p/cwd") $(readlink "$p/exe") $(tr '\0' ' ' <"$p/cmdline")"
    case "$at" in *"$run"/*) echo "${p#/proc/}" ;; esac
  done 2>/dev/null
}
for s in QUIT KILL KILL KILL; do
  list=$(pids); [ -z "$list" ] || { kill -$s $list; sleep 1; }
done 2>/dev/null
grep -o " $run/[^ ]*" /proc/mounts | xargs -r -n 1 umount -l
[ "$PGHA_KEEP" = 1 ] || rm -rf -- "$run"
`

func startGuardian(dir string) (*guardian, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/bash", "-c", guardianScript, "guardian", dir)
	cmd.Dir = "/"
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_ = read.Close()
	return &guardian{cmd: cmd, pipe: write}, nil
}

func (g *guardian) dismiss() {
	_, _ = g.pipe.WriteString("done\n")
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}
