package daemon

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// notifier tells systemd how the service is. Without one that listens it says nothing.
type notifier struct {
	conn *net.UnixConn
	// every is how often the watchdog wants to hear of us, halved so that one late
	// message is no end; 0: it does not.
	every time.Duration
}

// newNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
func newNotifier(getenv func(string) string) (notifier, error) {
	var n notifier
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return n, nil
	}
	// A name that begins with @ is an abstract one, which net knows.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return n, fmt.Errorf("tell systemd of us at NOTIFY_SOCKET: %w", err)
	}
	n.conn = conn
	pid := getenv("WATCHDOG_PID")
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(usec) * time.Microsecond / 2
	}
	return n, nil
}

// say sends one message. A lost one is no trouble of ours: nobody can be told.
func (n notifier) say(message string) {
	if n.conn != nil {
		_ = n.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = n.conn.Write([]byte(message))
	}
}

func (n notifier) ready(status string) { n.say("READY=1\nSTATUS=" + status) }

// reloading carries the clock that systemd orders messages by.
func (n notifier) reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // fails for unknown clocks only
	n.say(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

func (n notifier) close() {
	if n.conn != nil {
		_ = n.conn.Close()
	}
}
