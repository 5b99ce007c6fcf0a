package hook

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"time"
)

// silence is how long a daemon may say nothing: it is gone, or stopped. A standby
// must be able to promote fast (R11).
func (r Request) silence() time.Duration {
	if r.File != "" && (r.Mode == Standby || r.Mode == Promotion) {
		return 500 * time.Millisecond
	}
	return time.Second
}

// Ask asks the daemon that listens at a socket and gives its last answer: Done or
// Direct. An error is a daemon that is gone, silent, another user's or of another
// version. It uses bare system calls: package net would be half of pgha-wal.
func Ask(socket string, r Request) (Answer, error) {
	line := r.String()
	if len(line) > MaxRequest {
		return Answer{}, errors.New("the path is too long to ask for")
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return Answer{}, err
	}
	defer syscall.Close(fd)
	limit := syscall.NsecToTimeval(r.silence().Nanoseconds())
	// The limit of sending is also that of connecting, where nobody accepts.
	for _, option := range []int{syscall.SO_SNDTIMEO, syscall.SO_RCVTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &limit); err != nil {
			return Answer{}, err
		}
	}
	if err := again(func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}) }); err != nil {
		return Answer{}, err
	}
	// Another user's word would acknowledge WAL that nobody has.
	peer, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return Answer{}, err
	}
	if int(peer.Uid) != os.Geteuid() {
		return Answer{}, errors.New("another user listens there")
	}
	if err := again(func() error { _, err := syscall.Write(fd, []byte(line)); return err }); err != nil {
		return Answer{}, err
	}
	return listen(fd)
}

func listen(fd int) (Answer, error) {
	var heard string
	for part := make([]byte, 4096); ; {
		var n int
		err := again(func() (err error) { n, err = syscall.Read(fd, part); return err })
		switch heard += string(part[:max(n, 0)]); {
		case err != nil:
			return Answer{}, err
		case n == 0:
			return Answer{}, errors.New("it went away without an answer")
		case len(heard) > maxAnswer:
			return Answer{}, errAnswer
		}
		for {
			line, rest, whole := strings.Cut(heard, "\n")
			if !whole {
				break
			}
			answer, err := ParseAnswer(line + "\n")
			if err != nil || answer.Kind != Wait {
				return answer, err
			}
			heard = rest
		}
	}
}

// again repeats a system call that a signal interrupted: the runtime uses some itself.
func again(call func() error) (err error) {
	for err = call(); errors.Is(err, syscall.EINTR); err = call() {
	}
	return err
}
