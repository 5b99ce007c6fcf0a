package plan_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/restore"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestStops recovers a real server to targets of every kind and compares the stop.
func TestStops(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	w.pg.Exec("create table t (a int, b text); insert into t select g, repeat('x', 100) from generate_series(1, 20000) g; checkpoint")
	backup := w.take()

	where := func() (l postgres.LSN) {
		var s string
		w.pg.QueryRow("select pg_current_wal_insert_lsn()::text", &s)
		l, err := postgres.ParseLSN(s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	x1, _ := commit(t, w.pg, "insert into t values (-1)")
	before2 := where()
	x2, t2 := commit(t, w.pg, "insert into t select g, repeat('y', 200) from generate_series(1, 20000) g")
	_, t3 := commit(t, w.pg, "insert into t values (-3)")
	w.pg.Exec("select pg_create_restore_point('between')")
	w.pg.Exec("begin; insert into t values (-4); prepare transaction 'p4'; insert into t values (-5)")
	var x4 uint32
	w.pg.QueryRow("select transaction::text::bigint from pg_prepared_xacts", &x4)
	w.pg.Exec("commit prepared 'p4'")
	w.pg.Exec("begin; insert into t values (-6); prepare transaction 'p6'")
	var x6 uint32
	w.pg.QueryRow("select transaction::text::bigint from pg_prepared_xacts", &x6)
	w.pg.Exec("rollback prepared 'p6'")
	var x7 uint32
	w.pg.QueryRow("with i as (insert into t values (-7) returning 1) select pg_current_xact_id()::text::bigint from i", &x7)
	w.pg.Exec("begin; insert into t values (-8); rollback; select pg_switch_wal()")
	w.pg.Exec("begin; insert into t values (-9); savepoint s; insert into t values (-10); rollback to s; insert into t values (-11); commit")
	w.pg.Exec("select pg_create_restore_point('between')")
	for i := range 40 {
		w.pg.Exec(fmt.Sprintf("insert into t select %d, repeat('z', 150) from generate_series(1, %d)", i, 1+random.IntN(1500)))
	}
	last, tLast := commit(t, w.pg, "insert into t values (-99)")
	end := where()
	w.waitSecond(tLast)
	w.pg.Exec("checkpoint")
	w.flush(w.pg)

	type kind = restore.Target
	for _, c := range []struct {
		what string
		kind
	}{
		{"xid", kind{Kind: restore.XID, XID: x2}},
		{"xid exclusive", kind{Kind: restore.XID, XID: x2, Exclusive: true}},
		{"first xid exclusive", kind{Kind: restore.XID, XID: x1, Exclusive: true}},
		{"prepared xid", kind{Kind: restore.XID, XID: x4}},
		{"prepared xid exclusive", kind{Kind: restore.XID, XID: x4, Exclusive: true}},
		{"rolled back prepared xid", kind{Kind: restore.XID, XID: x6}},
		{"implicit xid", kind{Kind: restore.XID, XID: x7}},
		{"last xid", kind{Kind: restore.XID, XID: last}},
		{"time of a commit", kind{Kind: restore.Time, Time: t2}},
		{"time exclusive", kind{Kind: restore.Time, Time: t3, Exclusive: true}},
		{"a microsecond before", kind{Kind: restore.Time, Time: t3.Add(-time.Microsecond)}},
		{"end of the backup", kind{Kind: restore.Time, Time: backup.StopTime.Truncate(time.Microsecond).Add(time.Microsecond)}},
		{"time of the last commit", kind{Kind: restore.Time, Time: tLast}},
		{"after the last commit", kind{Kind: restore.Time, Time: tLast.Add(time.Millisecond)}},
		{"name", kind{Kind: restore.Name, Name: "between"}},
		{"lsn", kind{Kind: restore.LSN, LSN: before2}},
		{"lsn exclusive", kind{Kind: restore.LSN, LSN: before2, Exclusive: true}},
		{"lsn at the end", kind{Kind: restore.LSN, LSN: end}},
		{"lsn in mid record", kind{Kind: restore.LSN, LSN: before2 + 1, Exclusive: true}},
		{"stop of the backup", kind{Kind: restore.LSN, LSN: backup.StopLSN}},
		{"stop exclusive", kind{Kind: restore.LSN, LSN: backup.StopLSN, Exclusive: true}},
		{"immediate", kind{Kind: restore.Immediate}},
		{"latest", kind{Kind: restore.Latest}},
	} {
		w.judge(c.what, c.kind)
	}
	for range 8 {
		l := backup.StopLSN + postgres.LSN(random.Int64N(int64(end-backup.StopLSN)))
		w.judge("random lsn", kind{Kind: restore.LSN, LSN: l, Exclusive: random.IntN(2) == 0})
	}

	for _, c := range []struct {
		what string
		kind
	}{
		{"before the backup", kind{Kind: restore.Time, Time: backup.StopTime.Add(-time.Hour)}},
		{"past the archive", kind{Kind: restore.Time, Time: tLast.Add(time.Hour)}},
		{"lsn past the archive", kind{Kind: restore.LSN, LSN: end + 16<<20}},
	} {
		_, err := w.plan(c.kind)
		if unreachable, ok := errors.AsType[*restore.UnreachableError](err); !ok || len(unreachable.Nearest) == 0 {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// waitSecond waits until the server's clock is in a later second than at.
func (w *world) waitSecond(at time.Time) {
	lab.Poll(w.t, 5*time.Second, "the next second", func() error {
		var now time.Time
		w.pg.QueryRow("select clock_timestamp()", &now)
		if now.Truncate(time.Second).Before(at.Add(time.Millisecond)) {
			return fmt.Errorf("it is %s", now)
		}
		return nil
	})
}

// TestBranches makes a second timeline by a recovery and promotes it, with the
// first one going on: targets on both are reached.
func TestBranches(t *testing.T) {
	w := newWorld(t)
	w.pg.Exec("create table t (a int, b text)")
	w.take()
	shared, tShared := commit(t, w.pg, "insert into t values (1)")
	left, _ := commit(t, w.pg, "insert into t values (2)")
	commit(t, w.pg, "insert into t select g, repeat('y', 200) from generate_series(1, 10000) g")
	one, tOne := commit(t, w.pg, "insert into t values (3)")
	commit(t, w.pg, "insert into t values (4)")
	w.flush(w.pg)

	p, err := w.plan(restore.Target{Kind: restore.XID, XID: left, Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	child := w.copyOf(p, "promote", map[string]string{"archive_mode": "on"})
	child.Start()
	lab.Poll(t, 20*time.Second, "the promotion", func() error {
		var recovering bool
		child.QueryRow("select pg_is_in_recovery()", &recovering)
		if recovering {
			return errors.New("still in recovery")
		}
		return nil
	})
	if at, tli := w.fork(child); at != p.Stop.LSN || tli != p.Stop.Timeline {
		t.Errorf("timeline 2 begins at %s of %d, the plan said %s of %d", at, tli, p.Stop.LSN, p.Stop.Timeline)
	}
	two, tTwo := commit(t, child, "insert into t values (5)")
	child.Exec("insert into t select g, repeat('y', 200) from generate_series(1, 10000) g")
	commit(t, child, "insert into t values (6)")
	w.flush(child)
	child.Stop("fast")

	type kind = restore.Target
	w.judge("before the fork", kind{Kind: restore.Time, Time: tShared})
	w.judge("before the fork, xid", kind{Kind: restore.XID, XID: shared})
	w.judge("before it along the child", kind{Kind: restore.XID, XID: shared, Timeline: 2})
	w.judge("promoted before the fork", kind{Kind: restore.XID, XID: shared, Timeline: 2, Action: restore.Promote})
	w.judge("on the parent", kind{Kind: restore.Time, Time: tOne, Timeline: 1})
	w.judge("on the parent, xid", kind{Kind: restore.XID, XID: one, Timeline: 1})
	w.judge("on the child", kind{Kind: restore.Time, Time: tTwo})
	w.judge("on the child, xid", kind{Kind: restore.XID, XID: two, Exclusive: true, Timeline: 2})
	w.judge("latest is the child", kind{Kind: restore.Latest})
	w.judge("latest of the parent", kind{Kind: restore.Latest, Timeline: 1})
	w.judge("immediate", kind{Kind: restore.Immediate})
}
