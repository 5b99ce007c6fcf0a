package wal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// slower is how much longer than without a restore_command a failover may take (R11).
const slower = 3 * time.Second

// TestPatroniFailover is what Patroni does with our restore_command: it fails over
// while the store answers nothing, and it lets pg_rewind ask for WAL.
func TestPatroniFailover(t *testing.T) {
	w := newWorld(t)
	// Every member has a configuration of its own, and the dynamic configuration one command.
	program := w.bin + " --config " + w.run.Path("pgha-$(id -un).yaml")
	c := &pair{world: w, Cluster: lab.StartCluster(t, lab.ClusterOptions{Members: 2, Etcd: 1,
		Parameters:     map[string]string{"wal_keep_size": "16MB"}, // the least that Patroni allows
		ArchiveCommand: program + " archive-push %p",
		Extra:          map[string]any{"bootstrap": map[string]any{"dcs": map[string]any{"maximum_lag_on_failover": 1 << 30}}},
		Prepare: func(m *lab.Member) {
			path, state := w.config("push_timeout: 5s")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			w.run.Must("root", "chown", m.User+":", state)
			w.run.WriteFile(m.User, 0o600, string(text)+"log: {level: debug}\n", "pgha-"+m.User+".yaml")
		},
	})}
	c.Leader().Exec("CREATE TABLE ledger(id serial PRIMARY KEY)")
	lab.Poll(t, 30*time.Second, "the table on the replica", func() error {
		var there bool
		if c.replica().QueryRow("SELECT to_regclass('ledger') IS NOT NULL", &there); !there {
			return errors.New("not yet")
		}
		return nil
	})

	empty := c.failover(faultproxy.Rule{})
	c.PatchConfig(fmt.Sprintf(`{"postgresql": {"recovery_conf": {"restore_command": %q}}}`, program+" archive-get %f %p"))
	// A busy machine can hold up one failover: it counts what ours can do, so there are three.
	for try := 1; ; try++ {
		c.restores()
		before := c.asked()
		ours := c.failover(faultproxy.Rule{Fault: faultproxy.Fault{BlackHole: true}})
		t.Logf("failover without restore_command %s, with a black hole behind ours %s", empty, ours)
		if c.asked() == before {
			t.Fatal("the black hole was never asked")
		}
		if ours <= empty+slower {
			break
		}
		if try == 3 {
			t.Fatalf("failover took %s, %s without a restore_command", ours, empty)
		}
	}
	c.rewind()
	// What the new primaries could not archive then, they have archived: their .partial too.
	for _, name := range []string{"/00000003.history", ".partial"} {
		lab.Poll(t, 60*time.Second, "*"+name+" in the archive", func() error {
			if !w.archived(name) {
				return errors.New("not yet")
			}
			return nil
		})
	}
}

// pair is a Patroni cluster of a leader and a replica.
type pair struct {
	*world
	*lab.Cluster
}

func (c *pair) replica() *lab.Member { return c.Replicas()[0] }

// asked counts what a standby asks of the archive.
func (c *pair) asked() int {
	return c.proxy.Count("GET", ".history") + c.proxy.Count("GET", "list-type=2")
}

// rows waits until a member has as many rows as the other.
func (c *pair) rows(of, as *lab.Member) {
	c.t.Helper()
	var want int
	as.QueryRow("SELECT count(*) FROM ledger", &want)
	lab.Poll(c.t, 30*time.Second, "the rows to be streamed", func() error {
		var n int
		of.QueryRow("SELECT count(*) FROM ledger", &n)
		if n != want {
			return fmt.Errorf("%s has %d rows, want %d", of.Name, n, want)
		}
		return nil
	})
}

// restores waits until the replica has our restore_command.
func (c *pair) restores() {
	c.t.Helper()
	m := c.replica()
	lab.Poll(c.t, 30*time.Second, "the restore_command of "+m.Name, func() error {
		var command string
		m.QueryRow("SELECT current_setting('restore_command')", &command)
		if !strings.Contains(command, "archive-get") {
			return fmt.Errorf("it is %q", command)
		}
		return nil
	})
}

// take lets the leader key of a dead leader expire now: how long that takes is up
// to Patroni's ttl, and varies by more than what is measured here.
func (c *pair) take() {
	c.t.Helper()
	if err := c.Etcd.DeletePrefix(c.Key("leader")); err != nil {
		c.t.Fatal(err)
	}
}

// failover kills the leader while a rule holds, and tells after how long the other
// member can be written to. Then all is well again.
func (c *pair) failover(rule faultproxy.Rule) time.Duration {
	c.t.Helper()
	old, next := c.Leader(), c.replica()
	old.Exec("INSERT INTO ledger DEFAULT VALUES")
	c.rows(next, old)
	c.proxy.Set(rule)
	begin := time.Now()
	old.Kill9()
	c.take()
	lab.Poll(c.t, 90*time.Second, next.Name+" to be writable", func() error { return write(next) })
	took := time.Since(begin)
	c.proxy.Set()
	old.Start()
	c.WaitHealthy(90 * time.Second)
	return took
}

func write(m *lab.Member) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, m.DSN())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "INSERT INTO ledger DEFAULT VALUES")
	return err
}

// rewind makes a former leader need WAL that it no longer has: all since the last
// checkpoint that it shares with its successor is archived and recycled.
func (c *pair) rewind() {
	c.t.Helper()
	old, next := c.Leader(), c.replica()
	old.Exec("CHECKPOINT")
	var first, last string
	old.QueryRow("SELECT pg_walfile_name(pg_current_wal_lsn())", &first)
	for range 3 {
		old.Exec("INSERT INTO ledger DEFAULT VALUES")
		old.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &last)
	}
	for _, name := range []string{first, last} {
		lab.Poll(c.t, 60*time.Second, name+" in the archive", func() error {
			if !c.archived("/" + name) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	c.rows(next, old)
	next.Kill9()
	old.Exec("INSERT INTO ledger DEFAULT VALUES") // only here
	lab.Poll(c.t, 30*time.Second, first+" to be recycled", func() error {
		old.Exec("CHECKPOINT")
		if _, err := os.Stat(filepath.Join(old.DataDir, "pg_wal", first)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("it is still in pg_wal: %v", err)
		}
		return nil
	})
	old.Kill9()
	c.take()
	next.Start()
	lab.Poll(c.t, 60*time.Second, next.Name+" to be writable", func() error { return write(next) })
	old.Start()
	c.WaitHealthy(2 * time.Minute)
	c.rows(old, next)
	log, err := os.ReadFile(old.Log)
	if err != nil {
		c.t.Fatal(err)
	}
	if want := "msg=archive-get file=" + first + " mode=rewind outcome=0"; !strings.Contains(string(log), want) {
		c.t.Errorf("the log of %s has no %q", old.Name, want)
	}
}
