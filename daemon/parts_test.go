package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneDaemonForAStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "main", "n1")
	first, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockState(dir)
	running, ok := errors.AsType[*RunningError](err)
	if want := "another pgha-backup daemon runs with this state directory: it holds " + dir + "/daemon.lock"; !ok || running.Error() != want || running.Hint() == "" {
		t.Errorf("got %v, want %s", err, want)
	}
	_ = first.Close()
	again, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// systemd listens on a socket, abstract ones too, and gives back what it heard.
func systemd(t *testing.T, name string) func() string {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return func() string {
		t.Helper()
		b := make([]byte, 1000)
		_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "s"), "@pgha-test-" + strconv.Itoa(os.Getpid())} {
		heard := systemd(t, name)
		env := map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())}
		n, err := newNotifier(func(key string) string { return env[key] })
		if err != nil || n.every != 15*time.Second {
			t.Fatalf("%v, watchdog every %s", err, n.every)
		}
		n.ready("serving main")
		if got := heard(); got != "READY=1\nSTATUS=serving main" {
			t.Errorf("%q", got)
		}
		n.reloading()
		usec, ok := strings.CutPrefix(heard(), "RELOADING=1\nMONOTONIC_USEC=")
		if at, err := strconv.ParseInt(usec, 10, 64); !ok || err != nil || at <= 0 {
			t.Errorf("reload at %q", usec)
		}
		env["WATCHDOG_PID"] = "1"
		if other, err := newNotifier(func(key string) string { return env[key] }); err != nil || other.every != 0 {
			t.Errorf("%v: the watchdog of another process is ours, every %s", err, other.every)
		} else {
			other.close()
		}
		n.close()
	}
	if n, err := newNotifier(func(string) string { return "" }); err != nil || n.conn != nil {
		t.Errorf("without systemd: %v %v", n, err)
	}
	if _, err := newNotifier(func(string) string { return "/nonexistent/s" }); err == nil {
		t.Error("a socket that nobody listens at was taken")
	}
}

func TestFullIn(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	const gib = 1 << 30
	for name, c := range map[string]struct {
		sizes []sizeAt
		free  int64
		want  time.Duration
		kept  int
	}{
		"one look":             {[]sizeAt{{at(0), 100}}, gib, 0, 1},
		"too little history":   {[]sizeAt{{at(0), 0}, {at(15), gib}}, gib, 0, 2},
		"steady growth":        {[]sizeAt{{at(0), 0}, {at(60), gib}}, 10 * gib, 10 * time.Minute, 2},
		"it shrinks":           {[]sizeAt{{at(0), gib}, {at(60), 0}}, gib, 0, 2},
		"it stays":             {[]sizeAt{{at(0), gib}, {at(60), gib}}, gib, 0, 2},
		"old sizes are gone":   {[]sizeAt{{at(0), 0}, {at(5000), gib}, {at(5060), 2 * gib}}, gib, time.Minute, 2},
		"full already":         {[]sizeAt{{at(0), gib}, {at(60), gib}}, 1000, time.Second, 2},
		"history is long gone": {[]sizeAt{{at(0), 0}, {at(5000), gib}}, gib, 0, 1},
	} {
		if got := fullIn(&c.sizes, c.free); got != c.want || len(c.sizes) != c.kept {
			t.Errorf("%s: %s and %d sizes kept, want %s and %d", name, got, len(c.sizes), c.want, c.kept)
		}
	}
}

// A server that is down shows what its files show; one that is not there yet is no trouble.
func TestLocalWithoutServer(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	const dsn = "host=/nonexistent user=postgres"
	if l := LookLocal(t.Context(), dsn, filepath.Join(dir, "absent"), "", now); l.Server != "absent" || len(l.Problems()) > 0 || l.Backlog != 0 {
		t.Errorf("%+v", l)
	}
	write := func(name string, size int, age time.Duration) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, size), 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	write("PG_VERSION", 3, 0)
	write("pg_wal/000000010000000000000001", 1000, 0)
	write("pg_wal/000000010000000000000002", 2000, 0)
	write("pg_wal/archive_status/000000010000000000000001.ready", 0, time.Hour)
	write("pg_wal/archive_status/000000010000000000000002.ready", 0, time.Minute)
	write("pg_wal/archive_status/000000010000000000000000.done", 0, 2*time.Hour)
	l := LookLocal(t.Context(), dsn, dir, filepath.Join(dir, "state"), now)
	if l.Server != "down" || l.Backlog != 2 || now.Sub(l.Waiting).Round(time.Second) != time.Hour || l.WALBytes != 3000 || l.FreeBytes == 0 {
		t.Errorf("%+v", l)
	}
	var sized Local // with a size of segments from pg_control
	(&looker{pgdata: dir}).files(&sized, 16<<20, now)
	if sized.WALBytes != 32<<20 || sized.BacklogBytes != 32<<20 || sized.Backlog != 2 || !sized.Waiting.Equal(l.Waiting) {
		t.Errorf("%+v", sized)
	}
	if p := l.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], "server: connect to PostgreSQL") {
		t.Errorf("%q", p)
	}
}

func TestLocalProblems(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for want, l := range map[string]Local{
		"": {Server: "primary", Backlog: 3, Waiting: now.Add(-time.Minute)},
		"archiver: failing since 2026-11-21T11:00:00Z, last on 000000010000000000000005; 7 files wait": {Server: "primary", Backlog: 7, FailingSince: now.Add(-time.Hour), FailedFile: "000000010000000000000005"},
		"archiver: stalled, 7 files wait since 2026-11-21T11:00:00Z and none fails":                    {Server: "primary", Backlog: 7, Waiting: now.Add(-time.Hour)},
		"archive: 2 files of WAL given up for want of space, and the repository does not know yet":     {Server: "primary", Dropped: 2},
		"pg_wal: its filesystem is full in 15m0s if it goes on growing so":                             {Server: "primary", FullIn: 900},
	} {
		l.Seen = now
		if got := strings.Join(l.Problems(), "\n"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// What a standby still has from its time as the leader is not its archiver's trouble.
	if p := (Local{Server: "standby", Seen: now, Backlog: 3, Waiting: now.Add(-time.Hour)}).Problems(); len(p) > 0 {
		t.Errorf("%q", p)
	}
}

func TestLooksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var took atomic.Int64 // nanoseconds
		took.Store(int64(time.Second))
		wake, began := make(chan struct{}), time.Now()
		var at []time.Duration
		go every(ctx, time.Minute, 5*time.Minute, wake, func(ctx context.Context) {
			at = append(at, time.Since(began))
			select { // a store that hangs
			case <-ctx.Done():
			case <-time.After(time.Duration(took.Load())):
			}
		})
		time.Sleep(70 * time.Second) // looks at 0 and 61 s
		took.Store(int64(12 * time.Second))
		time.Sleep(time.Minute) // one at 122 s takes 12 s
		took.Store(int64(time.Hour))
		wake <- struct{}{} // waits until the running look has ended
		time.Sleep(12 * time.Minute)
		stop()
		synctest.Wait()
		want := []time.Duration{0, 61 * time.Second, 122 * time.Second, 134 * time.Second, (134 + 300 + 240) * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("looked at %v, want %v", at, want)
		}
	})
}
