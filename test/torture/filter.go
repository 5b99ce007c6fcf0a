package torture

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stopped makes this process, a test program that a tracer has started, into the
// program of its arguments, one that stops at each call that counts. Other calls
// cost nothing: the kernel itself picks.
func Stopped(argv []string) error {
	runtime.LockOSThread() // a filter belongs to a thread, and exec keeps that of the thread that calls it
	numbers := []uint64{}
	for n := range changing {
		numbers = append(numbers, n)
	}
	if argv[0] == "reading" {
		for n := range reading {
			numbers = append(numbers, n)
		}
	}
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{{Code: load}} // the number is the first word
	for i, n := range numbers {
		program = append(program, unix.SockFilter{Code: equal, Jt: uint8(len(numbers) - i), K: uint32(n)})
	}
	program = append(program, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_TRACE})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		return fmt.Errorf("set the filter: %w", err)
	}
	return syscall.Exec(argv[1], argv[1:], os.Environ())
}

// StoppedVerb is the first argument by which a test program knows that it is to call Stopped.
const StoppedVerb = "torture-stopped"
