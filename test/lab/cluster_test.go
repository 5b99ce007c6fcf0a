package lab_test

import (
	"context"
	"errors"
	"github.com/jackc/pgx/v5"
	"github.com/pgha-backup/pgha-backup/test/ledger"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestCluster(t *testing.T) {
	begin := time.Now()
	c := lab.StartCluster(t, lab.ClusterOptions{HAProxy: true})
	t.Logf("cluster up after %s", time.Since(begin))
	for _, a := range c.Members {
		for _, b := range c.Members {
			err := a.Run().Command(t.Context(), a.User, nil, "/bin/cat", b.DataDir+"/PG_VERSION", b.ConfigFile).Run()
			if (err == nil) != (a == b) {
				t.Errorf("%s reads the files of %s: %v", a.User, b.Name, err)
			}
		}
	}
	lab.Exec(t, c.PrimaryDSN(), "create table t as select 1 as a")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	journals := t.TempDir()
	work, err := ledger.Start(t.Context(), c.PrimaryDSN(), ledger.Options{Dir: journals, Seed: seed, Pause: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	progress := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := work.WaitAcked(ctx, 50); err != nil {
			t.Error(err)
		}
	}
	progress()

	next := c.Replicas()[0]
	if got := c.Switchover(next); got != next || c.Leader() != next {
		t.Errorf("%s leads after a switchover to %s", c.Leader().Name, next.Name)
	}
	lab.Exec(t, c.PrimaryDSN(), "insert into t values (2)")
	progress()

	begin = time.Now()
	dead, leader := c.Failover()
	t.Logf("%s leads %s after the death of %s", leader.Name, time.Since(begin), dead.Name)
	if dead != next || leader == dead {
		t.Errorf("%s was killed, %s led, %s leads", dead.Name, next.Name, leader.Name)
	}
	lab.Exec(t, c.PrimaryDSN(), "insert into t values (3)")
	progress()
	dead.Start()
	c.WaitHealthy(60 * time.Second)
	stats, err := work.Stop()
	if err != nil {
		t.Error(err)
	}
	verify(t, c.PrimaryDSN(), journals, stats)

	var sum, timeline int
	lab.QueryRow(t, c.PrimaryDSN(), "select sum(a) from t", &sum)
	lab.QueryRow(t, c.PrimaryDSN(), "select timeline_id from pg_control_checkpoint()", &timeline)
	if sum != 6 || timeline < 3 {
		t.Errorf("sum is %d on timeline %d", sum, timeline)
	}
	c.PatchConfig(`{"postgresql":{"parameters":{"work_mem":"7MB"}}}`)
	lab.Poll(t, 20*time.Second, "the new setting", func() error {
		var mem string
		leader.QueryRow("show work_mem", &mem)
		if mem != "7MB" {
			return errors.New(mem)
		}
		return nil
	})
	if _, err := os.Stat(c.Members[0].Log); errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
}

// verify judges what the cluster holds now by the journals.
func verify(t *testing.T, dsn, journals string, stats ledger.Stats) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	journal, err := ledger.ReadJournal(journals)
	if err != nil {
		t.Fatal(err)
	}
	spans, err := ledger.ServerLineage(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	report, err := ledger.Verify(t.Context(), conn, journal, ledger.Cut{Lineage: spans})
	if err != nil {
		t.Errorf("ledger: %v", err)
	}
	t.Logf("%+v, lineage %v, %+v", stats, spans, report)
	if report.Expected < 100 {
		t.Errorf("only %d transactions had to be there", report.Expected)
	}
	if _, err := conn.Exec(t.Context(), "delete from ledger.entries where (client, seq) = (select client, seq from ledger.entries order by at desc limit 1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Verify(t.Context(), conn, journal, ledger.Cut{Lineage: spans}); err == nil {
		t.Error("a deleted row was not missed")
	}
}
