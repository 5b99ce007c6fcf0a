package daemon

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/hook"
)

// hooked serves a data directory with hooks of the test's.
func hooked(t *testing.T, h hooks) (s *service, socket string, log *bytes.Buffer, end func()) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "s")
	if err := os.MkdirAll(filepath.Join(dir, "data", "pg_wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	log = &bytes.Buffer{}
	s = &service{log: slog.New(slog.NewTextHandler(log, nil)), hooks: h, hintOf: func(error) string { return "do it" },
		config: config.Config{Cluster: config.Cluster{DataDir: filepath.Join(dir, "data")}, Daemon: config.Daemon{Socket: socket}}}
	l := s.listenHooks()
	if l == nil {
		t.Fatal(log)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serveHooks(ctx, l)
	}()
	end = func() {
		cancel()
		<-done
	}
	t.Cleanup(end)
	return s, socket, log, end
}

func TestHooksAnswer(t *testing.T) {
	var got hook.Request
	h := hooks{
		push: func(_ context.Context, path string) error {
			if got = (hook.Request{Path: path}); strings.HasSuffix(path, "bad") {
				return errors.New("bad file")
			}
			return nil
		},
		get: func(_ context.Context, r hook.Request) error {
			got = r
			return errors.New("no store")
		},
	}
	s, socket, _, end := hooked(t, h)
	data := s.config.Cluster.DataDir
	if err := os.Symlink(data, data+"-link"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	for _, c := range []struct {
		request hook.Request
		want    hook.Answer
	}{
		{hook.Request{Path: data + "/pg_wal/x"}, hook.Answer{Kind: hook.Done}},
		{hook.Request{Path: data + "-link/pg_wal/x"}, hook.Answer{Kind: hook.Done}},
		{hook.Request{Path: data + "/pg_wal/bad"}, hook.Answer{Kind: hook.Done, Status: 1, Error: "bad file", Hint: "do it"}},
		{hook.Request{File: "f", Path: data + "/pg_wal/y", Mode: hook.Standby}, hook.Answer{Kind: hook.Done, Status: 75, Error: "no store", Hint: "do it"}},
		{hook.Request{File: "f", Path: data + "/pg_wal/y", Mode: hook.Recovery, Ticket: 7}, hook.Answer{Kind: hook.Done, Status: 200, Error: "no store", Hint: "do it"}},
	} {
		if answer, err := hook.Ask(socket, c.request); err != nil || answer != c.want || got != c.request {
			t.Errorf("%v: %+v, %v; the hook got %v", c.request, answer, err, got)
		}
	}
	for _, path := range []string{"/elsewhere/pg_wal/x", data + "/x", data + "/pg_wal/no/such", "/x"} {
		request := hook.Request{File: "f", Path: path}
		if answer, err := hook.Ask(socket, request); err != nil || answer.Kind != hook.Direct {
			t.Errorf("%s: %+v %v", path, answer, err)
		}
	}
	for line, want := range map[string]string{
		"pgha/9 push \"/x\"\n":                             "direct \"another version of the protocol, not pgha/1\"\n",
		"GET / HTTP/1.1\n":                                 "direct \"another version of the protocol, not pgha/1\"\n",
		strings.Repeat("x", hook.MaxRequest) + "\n":        "", // too long
		"pgha/1 push \"" + data + "/pg_wal/x\" and more\n": "direct \"not a request of pgha/1\"\n",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(line))
		b := make([]byte, 1000)
		n, _ := conn.Read(b)
		if string(b[:n]) != want {
			t.Errorf("%.40q: %q", line, b[:n])
		}
		_ = conn.Close()
	}
	end()
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket outlives the daemon: %v", err)
	}
}

// A client hears of a slow hook, a hook hears of a client that went away, and the end
// of the daemon is no failure of the request.
func TestHooksWait(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, hooksAtOnce)
	h := hooks{push: func(ctx context.Context, _ string) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}}
	s, socket, _, end := hooked(t, h)
	request := hook.Request{Path: s.config.Cluster.DataDir + "/pg_wal/x"}
	dial := func() net.Conn {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_, err = conn.Write([]byte(request.String()))
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := dial()
	<-began
	b := make([]byte, 5)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "wait\n" {
		t.Errorf("%q %v", b[:n], err)
	}
	_ = conn.Close()
	<-ended

	var answers []chan hook.Answer
	for range hooksAtOnce {
		answers = append(answers, make(chan hook.Answer, 1))
		go func(to chan hook.Answer) {
			answer, _ := hook.Ask(socket, request)
			to <- answer
		}(answers[len(answers)-1])
		<-began
	}
	// It may be gone before it has heard the question; what counts is that it is gone.
	if answer, err := hook.Ask(socket, request); err == nil && answer.Error != "64 requests are under way" {
		t.Errorf("one too many: %+v %v", answer, err)
	}
	end()
	for _, answer := range answers {
		if got := <-answer; got.Kind != hook.Direct || got.Error != "the daemon ends" {
			t.Errorf("at the end: %+v", got)
		}
	}
}

// A file that comes when nobody waits for it any more is not left in pg_wal.
func TestNothingIsLeftForAClientThatWentAway(t *testing.T) {
	began, gone := make(chan struct{}), make(chan struct{})
	s, socket, _, end := hooked(t, hooks{push: func(context.Context, string) error { return nil }, get: func(ctx context.Context, r hook.Request) error {
		close(began)
		<-gone
		<-ctx.Done()
		return os.WriteFile(r.Aside(), []byte("segment"), 0o600)
	}})
	request := hook.Request{File: "f", Path: s.config.Cluster.DataDir + "/pg_wal/RECOVERYXLOG", Ticket: 7}
	conn, err := net.Dial("unix", socket)
	if err == nil {
		_, err = conn.Write([]byte(request.String()))
	}
	if err != nil {
		t.Fatal(err)
	}
	<-began
	_ = conn.Close()
	close(gone)
	end()
	if _, err := os.Stat(request.Aside()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", request.Aside(), err)
	}
}

// Only what a dead daemon left is replaced.
func TestSocketIsTaken(t *testing.T) {
	s, socket, log, end := hooked(t, hooks{push: func(context.Context, string) error { return nil }})
	refused := func(what string) {
		t.Helper()
		log.Reset()
		if l := s.listenHooks(); l != nil || !strings.Contains(log.String(), "event=socket.refused") {
			t.Errorf("%s: %v, log %s", what, l, log)
		}
	}
	refused("a living daemon")
	end()
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a file")
	_ = os.Remove(socket)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	l := s.listenHooks()
	if l == nil {
		t.Fatalf("a dead daemon's socket: %s", log)
	}
	_ = l.Close()
	late := filepath.Join(filepath.Dir(socket), "missing", "s")
	s.config.Daemon.Socket = late
	refused("no directory")

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.keepServing(ctx, nil, time.Millisecond)
	}()
	if err := os.Mkdir(filepath.Dir(late), 0o700); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		if answer, err := hook.Ask(late, hook.Request{Path: s.config.Cluster.DataDir + "/pg_wal/x"}); err == nil {
			if answer.Kind != hook.Done {
				t.Errorf("%+v", answer)
			}
			break
		}
	}
	cancel()
	<-done
}

// A reload answers by the new store; what is under way keeps the old one.
func TestReloadRewires(t *testing.T) {
	said := make(chan string, 1)
	s, err := newService(Options{Log: slog.New(slog.DiscardHandler), Open: func(config.Config) (Opener, error) { return nil, nil },
		Clients: func(c config.Config) (Clients, error) {
			said <- c.Repositories[0].Name
			return Clients{}, nil
		}}, named("one"))
	if err != nil || <-said != "one" || s.hooks.push == nil {
		t.Fatal(err)
	}
	s.hooks.push = nil
	if err := s.adopt(named("two")); err != nil || <-said != "two" || s.hooks.push == nil {
		t.Errorf("the hooks are the old ones: %v", err)
	}
}

func named(repository string) config.Config {
	return config.Config{Cluster: config.Cluster{DataDir: "/d", StateDir: "/s"}, Daemon: config.Daemon{Socket: "/s/s"},
		Repositories: []config.Repository{{Name: repository}}}
}
