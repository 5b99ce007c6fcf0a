package wal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// trouble is one way in which an archive can fail to give a file that it has.
type trouble struct {
	name  string
	proxy faultproxy.Fault                 // of every request that names the segment
	body  func(l *ledger, b []byte) []byte // what the object is replaced by; nil removes it
}

var troubles = []trouble{
	{name: "store down", proxy: faultproxy.Fault{Drop: true}},
	{name: "black hole", proxy: faultproxy.Fault{BlackHole: true}},
	{name: "403", proxy: faultproxy.Fault{Status: 403, Code: "AccessDenied"}},
	{name: "missing bucket", proxy: faultproxy.Fault{Status: 404, Code: "NoSuchBucket"}},
	{name: "404 of something in between", proxy: faultproxy.Fault{Status: 404}},
	{name: "500", proxy: faultproxy.Fault{Status: 500, Code: "InternalError"}},
	{name: "missing in mid archive", body: func(*ledger, []byte) []byte { return nil }},
	{name: "corrupt", body: func(_ *ledger, b []byte) []byte { b[len(b)-100] ^= 0x10; return b }},
	{name: "truncated", body: func(_ *ledger, b []byte) []byte { return b[:len(b)-100] }},
	{name: "empty", body: func(*ledger, []byte) []byte { return []byte{} }},
	{name: "wrong object", body: func(l *ledger, b []byte) []byte { return l.object(l.key("/" + l.files[1])) }},
}

// cause makes the trouble for one file and returns what ends it.
func (l *ledger) cause(tr trouble, file string) (rules []faultproxy.Rule, end func()) {
	l.t.Helper()
	if tr.body == nil {
		return []faultproxy.Rule{{Match: file, Fault: tr.proxy}}, func() {}
	}
	key := l.key("/" + file)
	body := l.object(key)
	l.replace(key, tr.body(l, append([]byte(nil), body...)))
	return nil, func() { l.replace(key, body) }
}

// planted is a restore_command that says code where ours says trouble.
func (l *ledger) planted(config string, code int) string {
	script := fmt.Sprintf("%s --config %s archive-get \"$1\" \"$2\"\nc=$?\n[ $c -le 1 ] || exit %d\nexit $c\n", l.bin, config, code)
	l.n++
	return "sh " + l.run.WriteFile(lab.User1, 0o644, script, fmt.Sprintf("planted%d.sh", l.n)) + " %f %p"
}

const quickRecovery = "get_recovery_timeout: 1s, get_rewind_timeout: 1s"

// The truth table: whatever is wrong with the archive, recovery never ends early,
// a standby lives on, and pg_rewind is told to ask again.
func TestTruthTable(t *testing.T) {
	w := newWorld(t)
	rows := len(troubles) + 3
	l := newLedger(w, rows)

	t.Run("recovery.signal", func(t *testing.T) { recoveryTable(t, l) })
	t.Run("standby.signal", func(t *testing.T) { standbyTable(t, l) })
	t.Run("neither", func(t *testing.T) { neitherTable(t, l) })
	t.Run("planted", func(t *testing.T) { plantedTable(t, l) })
	t.Run("full disk", func(t *testing.T) { fullDisk(t, l) })
	t.Run("history", func(t *testing.T) { missingHistory(t, l) })
}

func recoveryTable(t *testing.T, l *ledger) {
	p := l.copy("recovery.signal", "", nil)
	config, _ := l.way(t, p.DataDir, quickRecovery)
	p.Configure(map[string]string{"restore_command": l.restoreCommand(config)})
	file := l.files[3]
	for _, tr := range troubles {
		rules, end := l.cause(tr, file)
		l.proxy.Set(rules...)
		if got := l.recover(p, l.rows); got != stopped {
			t.Fatalf("%s: %s", tr.name, got)
		}
		end()
		l.proxy.Set()
	}
	if l.hooked {
		l.trusts(p.Log)
	}
	// Every other way out of ours: usage, an unknown flag, no configuration, root's.
	for _, command := range []string{
		l.command(config, "archive-get %f"),
		l.command(config, "--nonsense archive-get %f %p"),
		l.bin + " --config /nonexistent archive-get %f %p",
		l.command(config, "archive-get --help %f %p"),
		l.command(config, "archive-get x%f %p"),
		l.command(config, "archive-gte %f %p"),
	} {
		p.Configure(map[string]string{"restore_command": command})
		if got := l.recover(p, l.rows); got != stopped {
			t.Fatalf("%s: %s", command, got)
		}
	}
	p.Configure(map[string]string{"restore_command": l.restoreCommand(config)})
	if got := l.recover(p, l.rows); got != whole {
		t.Fatalf("without trouble: %s", got)
	}
	p.Stop("fast")
}

func standbyTable(t *testing.T, l *ledger) {
	p := l.copy("standby.signal", "", nil)
	config, stateDir := l.way(t, p.DataDir, "get_batch: 1")
	p.Configure(map[string]string{"restore_command": l.restoreCommand(config)})
	troubles, row := troubles, 2
	if l.hooked { // those that differ for who asks; the daemon's get is the same
		troubles = []trouble{troubles[1], troubles[2], troubles[6], troubles[7]}
	}
	rules, end := l.cause(troubles[0], l.files[row])
	l.proxy.Set(rules...)
	p.Start()
	defer p.Stop("fast")
	for i, tr := range troubles {
		asked := l.proxy.Count("GET", l.files[row])
		lab.Poll(t, 30*time.Second, tr.name+" to be met", func() error {
			n, recovering, err := state(p)
			switch {
			case err != nil:
				return err
			case !recovering || n >= row:
				t.Fatalf("%s: %d rows, in recovery %v", tr.name, n, recovering)
			case l.proxy.Count("GET", l.files[row]) == asked:
				return errors.New("not asked yet")
			}
			return nil
		})
		next, endNext := []faultproxy.Rule(nil), func() {}
		if i+1 < len(troubles) {
			next, endNext = l.cause(troubles[i+1], l.files[row+1])
		}
		end()
		l.proxy.Set(next...)
		lab.Poll(t, 30*time.Second, fmt.Sprintf("row %d after %s", row, tr.name), func() error {
			// As ten seconds do; a get that was still under way may leave it again.
			_ = os.Remove(filepath.Join(stateDir, "archive-get.failed"))
			n, recovering, err := state(p)
			if err == nil && (n < row || !recovering) {
				err = fmt.Errorf("%d rows, in recovery %v", n, recovering)
			}
			return err
		})
		row, end = row+1, endNext
	}
}

func neitherTable(t *testing.T, l *ledger) {
	l.run.Mkdir(lab.User1, 0o755, "neither")
	l.run.WriteFile(lab.User1, 0o644, "15\n", "neither", "PG_VERSION")
	dir := l.run.Mkdir(lab.User1, 0o755, "neither", "pg_wal")
	config, _ := l.way(t, filepath.Dir(dir), quickRecovery)
	elsewhere := l.run.Mkdir(lab.User1, 0o755, "elsewhere")
	// Every trouble has a file of its own here, so that all wait out their second together.
	var rules []faultproxy.Rule
	var ends []func()
	for i, tr := range troubles {
		its, end := l.cause(tr, l.files[3+i])
		rules, ends = append(rules, its...), append(ends, end)
	}
	l.proxy.Set(rules...)
	var calls sync.WaitGroup
	for i, tr := range troubles {
		calls.Go(func() {
			file := l.files[3+i]
			if code, out := l.call(elsewhere, "--config", config, "archive-get", file, filepath.Join(dir, file)); code != 75 {
				t.Errorf("%s: exit %d\n%s", tr.name, code, out)
			}
		})
	}
	calls.Wait()
	for _, end := range ends {
		end()
	}
	l.proxy.Set()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatalf("left %v %v", left, err)
	}
	dest := filepath.Join(dir, "wanted")
	for _, absent := range []string{"0000000100000000000000F0", "00000002.history", "000000020000000000000004", l.files[3] + ".partial"} {
		want := 1
		if strings.HasSuffix(absent, ".partial") {
			want = 75 // later WAL is there: nobody asks for it, and it is not the end
		}
		if code, out := l.call(elsewhere, "--config", config, "archive-get", absent, dest); code != want {
			t.Errorf("%s: exit %d, want %d\n%s", absent, code, want, out)
		}
	}
	last := l.files[l.rows]
	if code, out := l.call(elsewhere, "--config", config, "archive-get", last, dest); code != 0 {
		t.Errorf("without trouble: exit %d\n%s", code, out)
	}
	want, err := os.ReadFile(filepath.Join(l.primary.DataDir, "pg_wal", last))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != string(want) {
		t.Errorf("the segment differs from the server's own: %v", err)
	}
}

// The oracle sees what a wrong exit status does: rows are lost without an error.
func plantedTable(t *testing.T, l *ledger) {
	config, _ := l.config(quickRecovery)
	rules, _ := l.cause(troubles[2], l.files[3])
	l.proxy.Set(rules...)
	defer l.proxy.Set()
	for _, code := range []int{1, 2, 3, 5} {
		p := l.copy("recovery.signal", l.planted(config, code), nil)
		if got := l.recover(p, l.rows); got != short {
			t.Errorf("exit %d planted on trouble: %s; the oracle must see rows lost", code, got)
		}
		p.Stop("immediate")
	}
	// And a standby that dies of a blip, if it were told to stop.
	p := l.copy("standby.signal", l.planted(config, 200), nil)
	if err := p.TryStart(30 * time.Second); err == nil {
		p.Wait(30 * time.Second)
	}
}

// A full pg_wal is trouble; a full spool is none.
func fullDisk(t *testing.T, l *ledger) {
	spool := l.run.Mkdir(lab.User1, 0o755, "spool")
	mountSmall(t, spool, "64k")
	config, _ := l.config(quickRecovery, "spool: "+spool)
	for _, signal := range []string{"recovery.signal", "standby.signal"} {
		p := l.copy(signal, l.restoreCommand(config), nil)
		pgWAL := filepath.Join(p.DataDir, "pg_wal")
		mountSmall(t, pgWAL, "24m")
		l.run.Must(lab.User1, "mkdir", filepath.Join(pgWAL, "archive_status"))
		filler := filepath.Join(pgWAL, "filler")
		l.run.Must(lab.User1, "sh", "-c", "head -c 21500000 /dev/zero > "+filler)
		switch signal {
		case "recovery.signal":
			if got := l.recover(p, l.rows); got != stopped {
				t.Fatalf("full pg_wal in recovery: %s", got)
			}
			l.run.Must(lab.User1, "rm", filler)
			if got := l.recover(p, l.rows); got != whole {
				t.Fatalf("full spool: %s", got)
			}
		case "standby.signal":
			p.Start()
			lab.Poll(t, 30*time.Second, "a full pg_wal", func() error {
				log, err := os.ReadFile(p.Log)
				if err == nil && !strings.Contains(string(log), "no space left on device") {
					err = errors.New("not full yet")
				}
				return err
			})
			if n, recovering, err := state(p); err != nil || !recovering || n >= l.rows {
				t.Fatalf("standby with a full pg_wal: %d rows, in recovery %v, %v", n, recovering, err)
			}
			l.run.Must(lab.User1, "rm", filler)
			lab.Poll(t, 30*time.Second, "all rows", func() error {
				n, _, err := state(p)
				if err == nil && n < l.rows {
					err = fmt.Errorf("%d rows", n)
				}
				return err
			})
		}
		p.Stop("fast")
	}
}

func mountSmall(t *testing.T, dir, size string) {
	t.Helper()
	uid := fileOwner(t, dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%s,mode=0700,uid=%d,gid=%d", size, uid.Uid, uid.Gid)); err != nil {
		t.Fatalf("mount a tmpfs on %s: %v", dir, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func fileOwner(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// A history file that is missing while its timeline is there stops a recovery to
// the latest timeline: PostgreSQL would end on the old one and use the number again.
func missingHistory(t *testing.T, l *ledger) {
	config, _ := l.config(quickRecovery)
	p := l.copy("recovery.signal", l.restoreCommand(config), map[string]string{
		"archive_mode": "on", "archive_command": l.archiveCommand(config)})
	if got := l.recover(p, l.rows); got != whole {
		t.Fatal(got)
	}
	p.Exec("INSERT INTO ledger VALUES (1000)")
	var last string
	p.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &last)
	p.Stop("fast")
	l.waitArchived(last)
	l.waitArchived("00000002.history")

	key := l.key("/00000002.history")
	history := l.object(key)
	l.replace(key, nil)
	q := l.copy("recovery.signal", l.restoreCommand(config), nil)
	if got := l.recover(q, l.rows+1); got != stopped {
		t.Fatalf("history missing in mid archive: %s", got)
	}
	r := l.copy("recovery.signal", l.planted(config, 1), nil)
	if got := l.recover(r, l.rows+1); got != short {
		t.Errorf("exit 1 planted for a missing history: %s; the oracle must see rows lost", got)
	}
	r.Stop("immediate")
	l.replace(key, history)
	if got := l.recover(q, l.rows+1); got != whole {
		t.Fatalf("history back: %s", got)
	}
	q.Stop("fast")
}
