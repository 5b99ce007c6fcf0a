package wal_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// way is a configuration for the archive clients of a data directory. Where the world
// is hooked, a daemon serves it until the test ends, and pgha-wal, which has no
// pgha-backup to fall back to, is what is called.
func (w *world) way(t *testing.T, dataDir string, extra ...string) (config, state string) {
	t.Helper()
	if !w.hooked {
		return w.config(extra...)
	}
	config, state = w.configFor(dataDir, extra...)
	d := w.serve(config, state)
	t.Cleanup(d.Kill9)
	w.program = []string{w.lonely(), "--socket", filepath.Join(state, "socket")}
	return config, state
}

// serve starts a daemon and waits for its socket.
func (w *world) serve(config, state string) *lab.Process {
	w.t.Helper()
	w.n++
	d := w.run.Start(lab.User1, fmt.Sprintf("daemon%d", w.n), nil, w.bin, "--config", config, "daemon")
	w.listening(state)
	return d
}

func (w *world) listening(state string) {
	w.t.Helper()
	lab.Poll(w.t, 30*time.Second, "the daemon's socket", func() error {
		conn, err := net.Dial("unix", filepath.Join(state, "socket"))
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// lonely is a pgha-wal without pgha-backup beside it: whatever it does, the daemon did.
func (w *world) lonely() string {
	w.t.Helper()
	to := w.run.Path("lonely", "pgha-wal")
	if _, err := os.Stat(to); err == nil {
		return to
	}
	w.run.Mkdir(lab.User1, 0o755, "lonely")
	w.run.Must(lab.User1, "cp", w.run.Build("pgha-wal"), to)
	return to
}

// What a real server archives and restores through pgha-wal and the daemon is what it
// does through pgha-backup, whatever happens to the daemon.
func TestHooks(t *testing.T) {
	w := newWorld(t)
	w.hooked = true
	l := newLedger(w, len(troubles)+3)
	w.trusts(l.primary.Log)

	t.Run("recovery.signal", func(t *testing.T) { recoveryTable(t, l) })
	t.Run("standby.signal", func(t *testing.T) { standbyTable(t, l) })
	t.Run("neither", func(t *testing.T) { neitherTable(t, l) })
	t.Run("push", func(t *testing.T) {
		config, _ := l.way(t, l.primary.DataDir)
		pushByHand(t, l, config)
		home := l.run.Path(l.mkdir("home"))
		l.run.WriteFile(lab.User1, 0o600, "15\n", "home", "PG_VERSION")
		config, _ = l.way(t, home)
		pushOthers(t, l, config, "home")
	})
	t.Run("no daemon", func(t *testing.T) { brokenDaemons(t, l) })
	t.Run("it dies", func(t *testing.T) { dyingDaemons(t, l) })
}

// trusts makes sure that the daemon did what a server asked for.
func (w *world) trusts(log string) {
	w.t.Helper()
	if b, err := os.ReadFile(log); err != nil || strings.Contains(string(b), "the daemon did not answer") {
		w.t.Errorf("the daemon did not answer: %v\n%s", err, b)
	}
}

// fake listens where a daemon would, as a user of ours or as root, and answers anything so.
func fake(t *testing.T, socket string, uid int, answer string) {
	t.Helper()
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its identity
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETREUID, ^uintptr(0), uintptr(uid), 0)
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Error(err)
		}
		listening <- l
	}()
	l := <-listening
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(answer))
			_, _ = conn.Read(make([]byte, 1000))
			_ = conn.Close()
		}
	}()
}

// Where no daemon of ours answers, pgha-wal is pgha-backup; without that it fails as
// safely as that.
func brokenDaemons(t *testing.T, l *ledger) {
	p := l.copy("recovery.signal", "", nil)
	own := int(fileOwner(t, p.DataDir).Uid)
	config, state := l.configFor(p.DataDir, quickRecovery)
	socket := filepath.Join(state, "socket")
	file, dest := l.files[l.rows-1], filepath.Join(p.DataDir, "pg_wal", "RECOVERYXLOG")
	source := filepath.Join(l.primary.DataDir, "pg_wal", file)
	mine := filepath.Join(p.DataDir, "pg_wal", file)
	beside, alone := l.run.Build("pgha-wal"), l.lonely()
	for _, broken := range []struct {
		name  string
		start func(t *testing.T)
	}{
		{"killed", func(t *testing.T) { l.serve(config, state).Kill9() }},
		{"stopped", func(t *testing.T) {
			d := l.serve(config, state)
			t.Cleanup(d.Kill9)
			if err := d.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}},
		{"another protocol", func(t *testing.T) { fake(t, socket, own, "pgha/9 done 0\n") }},
		{"another user", func(t *testing.T) { fake(t, socket, 0, "done 0 \"\" \"\"\n") }},
		{"a liar", func(t *testing.T) { fake(t, socket, own, "done 0 \"\" \"\"\n") }},
	} {
		t.Run(broken.name, func(t *testing.T) {
			_ = os.Remove(socket)
			broken.start(t)
			expect := func(program, dir string, want int, args ...string) {
				t.Helper()
				l.program = []string{program, "--socket", socket, "--config", config}
				if code, out := l.call(dir, args...); code != want {
					t.Errorf("%s %v: exit %d, want %d\n%s", program, args, code, want, out)
				}
			}
			get := []string{"archive-get", file, "pg_wal/RECOVERYXLOG"}
			l.run.Must(lab.User1, "rm", "-f", dest)
			expect(alone, p.DataDir, 200, get...)
			expect(alone, "/", 75, "archive-get", file, filepath.Join(l.primary.DataDir, "pg_wal", "x"))
			expect(beside, p.DataDir, 0, get...)
			if got, err := os.ReadFile(dest); err != nil || sha256Hex(got) != sha256Hex(must(os.ReadFile(source))) {
				t.Errorf("the segment is not the server's: %v", err)
			}
			l.run.Must(lab.User1, "rm", dest)
			expect(beside, p.DataDir, 1, "archive-get", "0000000100000000000000F0", "pg_wal/RECOVERYXLOG")
			l.proxy.Set(faultproxy.Rule{Match: file, Fault: faultproxy.Fault{Status: 403, Code: "AccessDenied"}})
			expect(beside, p.DataDir, 200, get...)
			if broken.name == "a liar" { // who has our user id may say of a push what it likes
				l.proxy.Set()
				return
			}
			l.run.Must(lab.User1, "cp", source, mine)
			expect(beside, p.DataDir, 1, "archive-push", "pg_wal/"+file)
			l.proxy.Set()
			expect(alone, p.DataDir, 1, "archive-push", "pg_wal/"+file)
			l.replace(l.key("/"+file), nil)
			expect(beside, p.DataDir, 0, "archive-push", "pg_wal/"+file)
			if !l.archived("/" + file) {
				t.Error("an acknowledged segment is not stored")
			}
		})
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// A daemon that dies, or stops, while a hook waits for it: the hook does the work.
func dyingDaemons(t *testing.T, l *ledger) {
	p := l.copy("recovery.signal", "", nil)
	config, state := l.configFor(p.DataDir, quickRecovery)
	file := l.files[l.rows-1]
	d := l.serve(config, state)
	l.run.Must(lab.User1, "cp", filepath.Join(l.primary.DataDir, "pg_wal", file), filepath.Join(p.DataDir, "pg_wal", file))
	for _, sent := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGTERM} {
		for _, args := range [][]string{{"archive-push", "pg_wal/" + file}, {"archive-get", file, "pg_wal/RECOVERYXLOG"}} {
			if !d.Running() {
				if err := d.Restart(); err != nil {
					t.Fatal(err)
				}
				l.listening(state)
			}
			if args[0] == "archive-push" {
				l.replace(l.key("/"+file), nil)
			}
			l.proxy.Set(faultproxy.Rule{Match: file, Fault: faultproxy.Fault{BlackHole: true}})
			asked := len(l.proxy.Requests())
			ended := make(chan string, 1)
			l.program = []string{l.run.Build("pgha-wal"), "--socket", filepath.Join(state, "socket"), "--config", config}
			go func() {
				code, out := l.call(p.DataDir, args...)
				ended <- fmt.Sprintf("exit %d: %s", code, out)
			}()
			lab.Poll(t, 30*time.Second, "the daemon to ask the store", func() error {
				if len(l.proxy.Requests()) == asked {
					return errors.New("not yet")
				}
				return nil
			})
			if err := d.Signal(sent); err != nil {
				t.Fatal(err)
			}
			l.proxy.Set()
			if got := <-ended; got != "exit 0: " {
				t.Errorf("%v while %s waits: %s", sent, args[0], got)
			}
			if !l.archived("/" + file) {
				t.Errorf("%v while %s waits: the segment is not stored", sent, args[0])
			}
			if sent == syscall.SIGTERM {
				if err := d.Stop(sent, 25*time.Second); err != nil {
					t.Fatal(err)
				}
			}
			d.Kill9()
		}
	}
}
