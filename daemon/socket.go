package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/wal"
)

const (
	hooksAtOnce = 64
	hookWait    = 200 * time.Millisecond // between two signs of life
	hookLimit   = 2 * time.Second        // for a request to be read, for a line to be written
	socketRetry = 10 * time.Second
)

// listenHooks makes the socket that pgha-wal asks at. Without it everything goes
// on: pgha-wal runs pgha-backup.
func (s *service) listenHooks() *net.UnixListener {
	path := s.settings().Daemon.Socket
	l, err := listenUnix(path)
	if err != nil {
		s.event(slog.LevelWarn, "socket.refused", "pgha-wal cannot ask this daemon and runs pgha-backup each time", "socket", path, "error", err)
		return nil
	}
	return l
}

// keepServing serves hooks until ctx ends, from when on the socket can be made: its
// directory may come later, or a former daemon may take its time to end.
func (s *service) keepServing(ctx context.Context, l *net.UnixListener, retry time.Duration) {
	for l == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		l, _ = listenUnix(s.settings().Daemon.Socket)
	}
	s.serveHooks(ctx, l)
}

// listenUnix takes the place of a daemon that is dead, and of nothing else.
func listenUnix(path string) (*net.UnixListener, error) {
	at := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		if info, stat := os.Lstat(path); stat != nil || info.Mode().Type() != fs.ModeSocket {
			return nil, err
		}
		conn, dead := net.DialTimeout("unix", path, time.Second)
		if dead == nil {
			_ = conn.Close()
		}
		if !errors.Is(dead, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("another process listens there: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.ListenUnix("unix", at)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serveHooks answers until ctx ends, and returns when the last answer is given.
func (s *service) serveHooks(ctx context.Context, l *net.UnixListener) {
	context.AfterFunc(ctx, func() { _ = l.Close() })
	defer l.Close()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, hooksAtOnce)
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = conn.Close()
			}
			return
		case err != nil: // no descriptor is left, for now
			select {
			case <-ctx.Done():
			case <-time.After(hookWait):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
			all.Go(func() {
				s.answerHook(ctx, conn)
				<-slots
			})
		default:
			tell(conn, direct(fmt.Sprintf("%d requests are under way", hooksAtOnce)))
			_ = conn.Close()
		}
	}
}

func direct(why string) hook.Answer { return hook.Answer{Kind: hook.Direct, Error: why} }

func tell(conn *net.UnixConn, a hook.Answer) bool {
	_ = conn.SetWriteDeadline(time.Now().Add(hookLimit))
	_, err := conn.Write([]byte(a.String()))
	return err == nil
}

// answerHook serves one connection: one request. A client that went away wants nothing
// any more.
func (s *service) answerHook(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if uid, err := peer(conn); err != nil || uid != os.Geteuid() && uid != 0 {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(hookLimit))
	line, err := bufio.NewReaderSize(io.LimitReader(conn, hook.MaxRequest), hook.MaxRequest).ReadSlice('\n')
	if err != nil {
		return
	}
	request, err := hook.ParseRequest(string(line))
	if err == nil {
		err = s.mine(request)
	}
	if err != nil {
		tell(conn, direct(err.Error()))
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	ended := make(chan hook.Answer, 1)
	go func() { ended <- s.serve(work, request) }()
	for tick := time.Tick(hookWait); ; {
		select {
		case answer := <-ended:
			if ctx.Err() != nil && answer.Status != 0 {
				answer = direct("the daemon ends") // it was not the request that failed
			}
			if !tell(conn, answer) && request.File != "" {
				_ = os.Remove(request.Aside()) // nobody moves it any more
			}
			return
		case <-tick:
			if !tell(conn, hook.Answer{Kind: hook.Wait}) {
				cancel()
			}
		}
	}
}

// peer is the user at the other end.
func peer(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	ask := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(ask, err); err != nil {
		return 0, err
	}
	return int(credentials.Uid), nil
}

// mine refuses what is another server's, and what this daemon may not do where the
// client may: its unit may keep it from writing there.
func (s *service) mine(r hook.Request) error {
	dir := s.settings().Cluster.DataDir
	ours, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if theirs, err := os.Stat(hook.Holder(r.Path)); err != nil || !os.SameFile(ours, theirs) {
		return fmt.Errorf("it is not in %s, which this daemon serves", dir)
	}
	if r.File != "" {
		if err := unix.Access(filepath.Dir(r.Path), unix.W_OK); err != nil {
			return fmt.Errorf("this daemon may not write there: %w", err)
		}
	}
	return nil
}

// serve does what is asked for. The exit statuses are those of pgha-backup.
func (s *service) serve(ctx context.Context, r hook.Request) hook.Answer {
	hooks := s.wired()
	var err error
	status := 0
	if r.File == "" {
		if err = hooks.push(ctx, r.Path); err != nil {
			status = 1
		}
	} else {
		err = hooks.get(ctx, r)
		status = wal.ExitCode(r.Mode, err)
	}
	a := hook.Answer{Kind: hook.Done, Status: status}
	if err != nil {
		a.Error, a.Hint = err.Error(), s.hintOf(err)
	}
	return a
}
