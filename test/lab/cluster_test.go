package lab_test

import (
	"errors"
	"io/fs"
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

	next := c.Replicas()[0]
	if got := c.Switchover(next); got != next || c.Leader() != next {
		t.Errorf("%s leads after a switchover to %s", c.Leader().Name, next.Name)
	}
	lab.Exec(t, c.PrimaryDSN(), "insert into t values (2)")

	begin = time.Now()
	dead, leader := c.Failover()
	t.Logf("%s leads %s after the death of %s", leader.Name, time.Since(begin), dead.Name)
	if dead != next || leader == dead {
		t.Errorf("%s was killed, %s led, %s leads", dead.Name, next.Name, leader.Name)
	}
	lab.Exec(t, c.PrimaryDSN(), "insert into t values (3)")
	dead.Start()
	c.WaitHealthy(60 * time.Second)

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
