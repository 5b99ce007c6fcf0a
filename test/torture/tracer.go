// Package torture runs the real program again and again and ends it, or lets a
// system call of it fail, at a chosen point; then it judges what was left behind.
package torture

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How says what happens at the chosen call.
type How string

// The ways. A torn write stores half of its bytes, and then the program is dead.
const (
	Nothing How = ""
	Before  How = "before" // killed, the call is not made
	After   How = "after"  // killed, the call was made
	Torn    How = "torn"
	Fail    How = "fail" // the call gives an errno
)

// Point is where and how a run is disturbed.
type Point struct {
	How   How
	N     int // of the calls that match, from 1
	Match func(Call) bool
	Errno syscall.Errno
	// Lasting lets every later call that matches fail, too.
	Lasting bool
	// Reading also stops at calls that only read.
	Reading bool
}

// Outcome is how a run went.
type Outcome struct {
	Code    int // of the exit; -1: it died of Signal
	Signal  syscall.Signal
	Output  string // both streams
	Calls   []Call // those that count
	Matched int
	Hit     *Call // where the run was disturbed
	Late    bool  // it had to be ended: it hung
	Took    time.Duration
}

// Dead tells whether the run was ended as the point says.
func (o Outcome) Dead() bool { return o.Code == -1 && o.Signal == syscall.SIGKILL && !o.Late }

func (o Outcome) String() string {
	s := fmt.Sprintf("exit %d", o.Code)
	if o.Code == -1 {
		s = "signal " + o.Signal.String()
	}
	if o.Late {
		s += ", hung"
	}
	return s
}

const traceOptions = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC |
	unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL

// pending is a call that a thread is in.
type pending struct {
	call int // its index
	last bool
}

// tracer is one run under way.
type tracer struct {
	point   Point
	output  string
	pid     int
	armed   bool // the program itself is running, no longer what started it
	seen    map[int]bool
	group   map[int]int     // thread -> process
	pending map[int]pending // by thread
	out     Outcome
}

// Trace runs a command whose program is a test program that knows StoppedVerb, and disturbs it at the point. All
// threads of the program count together, those of its children not at all. It returns when all of them have ended.
func Trace(helper string, cmd *exec.Cmd, point Point, limit time.Duration) (o Outcome, err error) {
	onOwnThread(func() { o, err = trace(helper, cmd, point, limit) })
	return o, err
}

func trace(helper string, cmd *exec.Cmd, point Point, limit time.Duration) (Outcome, error) {
	output, err := os.CreateTemp("", "pgha-torture-*")
	if err != nil {
		return Outcome{}, err
	}
	defer output.Close()
	defer os.Remove(output.Name())
	mode := "changing"
	if point.Reading {
		mode = "reading"
	}
	cmd.Path, cmd.Args = helper, append([]string{helper, StoppedVerb, mode}, cmd.Args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr.Ptrace = true
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return Outcome{}, err
	}
	t := &tracer{point: point, output: output.Name(), pid: cmd.Process.Pid, seen: map[int]bool{}, group: map[int]int{}, pending: map[int]pending{}}
	timer := time.AfterFunc(limit, func() { _ = syscall.Kill(t.pid, syscall.SIGKILL) })
	err = t.loop()
	t.out.Late = !timer.Stop()
	_ = cmd.Process.Release()
	t.out.Took = time.Since(began)
	text, _ := os.ReadFile(output.Name())
	t.out.Output = string(text)
	return t.out, err
}

// onOwnThread runs do on a thread that has no children, so that what the thread waits for is what do has started:
// servers of a test are the children of whatever thread their Start ran on.
func onOwnThread(do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if children, err := os.ReadFile("/proc/thread-self/children"); err == nil && len(children) == 0 {
		do()
		return
	}
	done := make(chan struct{})
	go func() { // this thread is kept, so that another one is taken
		defer close(done)
		onOwnThread(do)
	}()
	<-done
}

// loop serves stops until no thread is left.
func (t *tracer) loop() error {
	for {
		var status syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			return nil
		case err != nil:
			return err
		}
		switch {
		case status.Exited() || status.Signaled():
			if tid == t.pid {
				t.out.Code = status.ExitStatus()
				if status.Signaled() {
					t.out.Signal = status.Signal()
				}
			}
		case status.Stopped():
			if err := t.stopped(tid, status); err != nil && !errors.Is(err, syscall.ESRCH) { // killed in the meantime
				_ = syscall.Kill(t.pid, syscall.SIGKILL)
				return err
			}
		}
	}
}

func (t *tracer) stopped(tid int, status syscall.WaitStatus) error {
	signal := status.StopSignal()
	first := !t.seen[tid]
	t.seen[tid] = true
	switch {
	case tid == t.pid && first: // the exec of what started it
		if err := syscall.PtraceSetOptions(tid, traceOptions); err != nil {
			return err
		}
		signal = 0
	case signal == syscall.SIGTRAP|0x80:
		return t.left(tid)
	case signal == syscall.SIGTRAP:
		switch status.TrapCause() {
		case unix.PTRACE_EVENT_SECCOMP:
			return t.entered(tid)
		case unix.PTRACE_EVENT_EXEC:
			t.armed = t.armed || tid == t.pid
		}
		signal = 0
	case first && signal == syscall.SIGSTOP: // a new thread
		signal = 0
	}
	return syscall.PtraceCont(tid, int(signal))
}

// entered: a thread is about to make a call that the filter picked.
func (t *tracer) entered(tid int) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	if !t.armed || t.process(tid) != t.pid {
		return syscall.PtraceCont(tid, 0)
	}
	c, counts := describe(tid, &regs)
	if !counts || c.Path == t.output || !t.point.Reading && !c.changes() {
		return syscall.PtraceCont(tid, 0)
	}
	c.N = len(t.out.Calls) + 1
	hit := false
	if t.point.How != Nothing && (t.point.Match == nil || t.point.Match(c)) {
		t.out.Matched++
		hit = t.out.Matched == t.point.N || t.point.Lasting && t.out.Matched > t.point.N
	}
	if hit {
		if t.out.Hit == nil {
			t.out.Hit = &c
		}
		switch t.point.How {
		case Before:
			return syscall.Kill(t.pid, syscall.SIGKILL)
		case Fail:
			c.Err = t.point.Errno.Error()
			t.out.Calls = append(t.out.Calls, c)
			regs.Orig_rax, regs.Rax = ^uint64(0), uint64(-int64(t.point.Errno))
			if err := unix.PtraceSetRegs(tid, &regs); err != nil {
				return err
			}
			return syscall.PtraceCont(tid, 0)
		case Torn:
			if strings.Contains(c.Name, "write") && c.Size > 1 && !strings.HasSuffix(c.Name, "v") {
				regs.Rdx /= 2
				if err := unix.PtraceSetRegs(tid, &regs); err != nil {
					return err
				}
			}
		}
	}
	t.pending[tid] = pending{len(t.out.Calls), hit}
	t.out.Calls = append(t.out.Calls, c)
	return syscall.PtraceSyscall(tid, 0)
}

// left: a call is over.
func (t *tracer) left(tid int) error {
	p, ok := t.pending[tid]
	if ok {
		var regs unix.PtraceRegs
		if err := unix.PtraceGetRegs(tid, &regs); err != nil {
			return err
		}
		if ret := int64(regs.Rax); ret < 0 && ret > -4096 {
			t.out.Calls[p.call].Err = syscall.Errno(-ret).Error()
		}
		delete(t.pending, tid)
		if p.last {
			return syscall.Kill(t.pid, syscall.SIGKILL)
		}
	}
	return syscall.PtraceCont(tid, 0)
}

// process is the process that a thread belongs to.
func (t *tracer) process(tid int) int {
	if id, ok := t.group[tid]; ok {
		return id
	}
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	_, rest, _ := strings.Cut(string(status), "\nTgid:\t")
	line, _, _ := strings.Cut(rest, "\n")
	id, _ := strconv.Atoi(line)
	if id != 0 {
		t.group[tid] = id
	}
	return id
}
