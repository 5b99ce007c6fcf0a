package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one server of a run. Its log collects standard output and error over all its lives.
type Process struct {
	Name string
	Log  string

	run  *Run
	user string
	env  []string
	argv []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the current life has ended
	err  error
}

// Start starts a server of the run as user, with its log in the run's directory.
// env is added to a small clean environment.
func (r *Run) Start(user, name string, env []string, argv ...string) *Process {
	r.t.Helper()
	p := &Process{Name: name, Log: r.Path(name + ".log"), run: r, user: user, env: env, argv: argv}
	r.mu.Lock()
	r.procs = append(r.procs, p)
	r.mu.Unlock()
	if err := p.start(); err != nil {
		r.t.Fatalf("lab: start %s: %v", name, err)
	}
	return p
}

// environment is what every child gets: nothing of the caller's but what is named here.
func environment(extra []string) []string {
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C.UTF-8", "TZ=UTC"}, extra...)
}

func (p *Process) start() error {
	id, err := identity(p.user)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Env = p.run.Dir, environment(p.env)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: id}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done, p.err = cmd, done, nil
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		if p.cmd == cmd {
			p.err = err
		}
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// Pid is the process id of the current life.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Running tells whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.life():
		return false
	default:
		return true
	}
}

func (p *Process) life() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Stop sends a signal and waits for the end, at most limit; past it the process is killed and an error returned.
func (p *Process) Stop(sig syscall.Signal, limit time.Duration) error {
	if !p.Running() {
		return nil
	}
	if err := syscall.Kill(p.Pid(), sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-p.life():
		return nil
	case <-time.After(limit):
		p.Kill9()
		return fmt.Errorf("%s did not end within %s of %s", p.Name, limit, sig)
	}
}

// Signal sends a signal to the process alone, SIGSTOP for example.
func (p *Process) Signal(sig syscall.Signal) error { return syscall.Kill(p.Pid(), sig) }

// Kill9 kills the process and everything in its process group, and waits for its end.
func (p *Process) Kill9() {
	if !p.Running() {
		return
	}
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	<-p.life()
}

// Restart starts the process again after it has ended.
func (p *Process) Restart() error {
	if p.Running() {
		return fmt.Errorf("%s is still running", p.Name)
	}
	return p.start()
}

// abandon is the end of a run: no ceremony.
func (p *Process) abandon() {
	if p.cmd == nil || !p.Running() {
		return
	}
	// SIGQUIT lets a postmaster remove its shared memory; the others just end.
	if strings.HasSuffix(p.argv[0], "/postgres") {
		_ = p.Stop(syscall.SIGQUIT, 5*time.Second)
		return
	}
	p.Kill9()
}

// Command prepares a command as user in the run's directory with a clean environment.
func (r *Run) Command(ctx context.Context, user string, env []string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = r.Dir, environment(env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.identity(user)}
	return cmd
}

// Must runs a command as user to its end and fails the test, with the command's output, if it does not succeed.
func (r *Run) Must(user string, argv ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := r.Command(ctx, user, nil, argv...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("lab: %s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// processes lists what is alive and has its working directory, program or arguments under dir.
func processes(dir string) []int { return touching(dir + "/") }

func touching(prefix string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if touches(pid, prefix) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func touches(pid int, prefix string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if stat, err := os.ReadFile(proc + "/stat"); err != nil || bytes.Contains(stat, []byte(") Z ")) {
		return false
	}
	line, _ := os.ReadFile(proc + "/cmdline")
	if bytes.Contains(line, []byte(prefix)) {
		return true
	}
	for _, link := range []string{"/cwd", "/exe"} {
		if to, err := os.Readlink(proc + link); err == nil && strings.HasPrefix(to+"/", prefix) {
			return true
		}
	}
	return false
}

// sweep ends every process that touches the run's directory: Patroni's children
// are not ours, and a postmaster outlives its Patroni.
func (r *Run) sweep() error {
	_ = poll(5*time.Second, r.quitServers)
	return r.killAll(r.Dir, 10*time.Second)
}

// quitServers asks every postmaster of the run for an immediate shutdown, which removes its shared memory.
func (r *Run) quitServers() error {
	left := 0
	for _, pid := range processes(r.Dir) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		program, _, _ := strings.Cut(string(line), "\x00")
		if filepath.Base(program) == "postgres" {
			_ = syscall.Kill(pid, syscall.SIGQUIT)
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d servers are still up", left)
	}
	return nil
}

// killAll kills with SIGKILL whatever touches a directory, until nothing does.
func (r *Run) killAll(dir string, limit time.Duration) error {
	return poll(limit, func() error {
		left := processes(dir)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("processes %v of %s do not end", left, dir)
		}
		return nil
	})
}
