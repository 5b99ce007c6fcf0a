package lab_test

import (
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestSeventeen(t *testing.T) {
	pg := lab.StartPostgres(t, lab.PGOptions{Major: 17})
	pg.Exec("create table t as select 1")
	c := lab.StartCluster(t, lab.ClusterOptions{Major: 17, Etcd: 1, Members: 2, HAProxy: true})
	var version string
	lab.QueryRow(t, c.PrimaryDSN(), "show server_version", &version)
	if !strings.HasPrefix(version, "17.") {
		t.Errorf("server version %s", version)
	}
	c.Switchover(nil)
}
