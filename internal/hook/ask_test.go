package hook

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever answers at the socket, a hook does not hang, and believes only an answer.
func TestAsk(t *testing.T) {
	request := Request{Path: "/data/pg_wal/x"}
	for answer, want := range map[string]Kind{
		"":                         "",
		"wait\n":                   "",
		"wait\nwait\ndone 0":       "",
		"done 0 \"\" \"\"\n":       Done,
		"wait\ndirect \"why\"\n":   Direct,
		"HTTP/1.1 400\n":           "",
		strings.Repeat("x", 1e5):   "",
		"wait\ndone 1 \"\" \"\"\n": Done,
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1000)
			n, _ := conn.Read(b)
			asked <- string(b[:n])
			_, _ = conn.Write([]byte(answer))
			if len(answer)%2 == 0 { // go away, or be silent
				_ = conn.Close()
			}
		}()
		got, err := Ask(socket, request)
		if got.Kind != want || (err == nil) != (want != "") {
			t.Errorf("%.30q: %+v, %v", answer, got, err)
		}
		if line := <-asked; line != request.String() {
			t.Errorf("asked %q", line)
		}
		_ = l.Close()
		if _, err := Ask(socket, request); err == nil {
			t.Error("nobody answered")
		}
	}
	if _, err := Ask("/s", Request{Path: "/" + strings.Repeat("x", MaxRequest)}); err == nil {
		t.Error("more was asked than the daemon reads")
	}
	if _, err := Ask(strings.Repeat("/s", 100), request); err == nil {
		t.Error("a socket with a name too long")
	}
	for r, want := range map[Request]time.Duration{{}: time.Second, {Mode: Standby}: time.Second, {File: "f"}: time.Second,
		{File: "f", Mode: Standby}: 500 * time.Millisecond, {File: "f", Mode: Promotion}: 500 * time.Millisecond, {File: "f", Mode: Recovery}: time.Second} {
		if got := r.silence(); got != want {
			t.Errorf("%+v: %s", r, got)
		}
	}
}

// A daemon that is stopped accepts nobody, and its queue is full.
func TestAskAFullQueue(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for { // until the queue is full
		conn, err := net.DialTimeout("unix", socket, 10*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	if _, err := Ask(socket, Request{Path: "/x"}); err == nil {
		t.Error("nobody accepts")
	}
}
