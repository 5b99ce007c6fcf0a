package wal_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// R11: a standby promotes while the archive answers nothing, and is at most three
// seconds slower than one that has no restore_command. The primary is on its
// second timeline, so that the last question is for a history that exists.
func TestFailoverWithBlackHole(t *testing.T) {
	w := newWorld(t)
	l := newLedger(w, 1)
	config, _ := w.config()
	a := l.copy("recovery.signal", w.restoreCommand(config), map[string]string{
		"archive_mode": "on", "archive_command": w.archiveCommand(config)})
	if got := l.recover(a, 1); got != whole {
		t.Fatal(got)
	}
	l.waitArchived("00000002.history")

	conninfo := fmt.Sprintf("host=%s port=%d user=postgres", a.SocketDir, a.Port)
	standby := func(name, restore string) *lab.Postgres {
		dir := filepath.Join(filepath.Dir(l.primary.DataDir), name)
		w.run.Must(lab.User1, "install", "-d", "-m", "700", dir)
		w.run.Must(lab.User1, a.Bin("pg_basebackup"), "-d", conninfo, "-D", dir, "-X", "stream", "-c", "fast", "--no-sync")
		w.run.Must(lab.User1, "touch", filepath.Join(dir, "standby.signal"))
		p := lab.StartPostgres(t, lab.PGOptions{DataDir: dir, NoStart: true})
		p.Configure(map[string]string{"restore_command": restore, "primary_conninfo": conninfo})
		p.Start()
		return p
	}
	without := standby("without", "")
	// A busy machine can hold up one promotion: it counts what ours can do, so there are three.
	var with []*lab.Postgres
	for i := range 3 {
		with = append(with, standby(fmt.Sprintf("with-%d", i+1), w.restoreCommand(config)))
	}
	a.Exec("INSERT INTO ledger VALUES (2)")
	for _, p := range append([]*lab.Postgres{without}, with...) {
		lab.Poll(t, 30*time.Second, "the row to be streamed", func() error {
			n, _, err := state(p)
			if err == nil && n < 2 {
				err = fmt.Errorf("%d rows", n)
			}
			return err
		})
	}

	w.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{BlackHole: true}})
	a.Kill9()
	promote := func(p *lab.Postgres) time.Duration {
		begin := time.Now()
		p.Exec("SELECT pg_promote(true, 100)")
		if _, recovering, err := state(p); err != nil || recovering {
			t.Fatalf("not promoted: %v", err)
		}
		return time.Since(begin)
	}
	empty := promote(without)
	for i, p := range with {
		ours := promote(p)
		t.Logf("promotion without restore_command %s, with a black hole behind ours %s", empty, ours)
		if ours <= empty+3*time.Second {
			break
		}
		if i == len(with)-1 {
			t.Errorf("promotion took %s, %s without a restore_command", ours, empty)
		}
	}
	asked := 0
	for _, line := range w.proxy.Requests() {
		if strings.HasPrefix(line, "GET") && strings.Contains(line, "00000003.history") || strings.Contains(line, "list-type=2") {
			asked++
		}
	}
	if asked == 0 {
		t.Error("the black hole was never asked")
	}

	// What the new primary could not archive then, it archives now: its .partial too.
	w.proxy.Set()
	l.waitArchived("00000003.history")
	lab.Poll(t, 60*time.Second, "a .partial in the archive", func() error {
		for key := range w.s3.Keys() {
			if strings.HasSuffix(key, ".partial") {
				return nil
			}
		}
		return fmt.Errorf("not yet")
	})
}
