// Package patroni_test sees a real Patroni cluster through our eyes.
package patroni_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) {
	if endpoint := os.Getenv("PGHA_TEST_HOLDER"); endpoint != "" {
		holder(endpoint)
		return
	}
	os.Exit(lab.Main(m))
}

// observe makes an observer from nothing but the path of a member's patroni.yml.
func observe(t *testing.T, m *lab.Member, change func(*patroni.Options)) *patroni.Observer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	text := fmt.Sprintf("patroni: {config: %s}\nrepositories: [{name: r, type: file, file: {path: /nonexistent/r}}]\n", m.ConfigFile)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Cluster.Member != m.Name || c.Cluster.DataDir != m.DataDir || c.Cluster.BinDir != m.BinDir {
		t.Fatalf("patroni.yml was read as %+v", c.Cluster)
	}
	o := patroni.Options{Scope: c.Cluster.Scope, Namespace: c.Patroni.Namespace, Endpoints: c.Patroni.Etcd.Endpoints, API: c.Patroni.API.URL}
	if change != nil {
		change(&o)
	}
	observer, err := patroni.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := observer.Close(); err != nil {
			t.Error(err)
		}
	})
	return observer
}

func topology(t *testing.T, o *patroni.Observer) cluster.Topology {
	t.Helper()
	got, err := o.Topology(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRealCluster(t *testing.T) {
	c := lab.StartCluster(t, lab.ClusterOptions{Etcd: 3})
	first := c.Members[0]
	o := observe(t, first, nil)
	w := follow(t, o)
	blind := observe(t, first, func(o *patroni.Options) { o.Endpoints, o.V2 = nil, true })

	t.Run("healthy", func(t *testing.T) {
		control, err := os.ReadFile(filepath.Join(first.DataDir, "global", "pg_control"))
		if err != nil {
			t.Fatal(err)
		}
		facts, err := postgres.ParseControlData(control)
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range map[string]*patroni.Observer{"etcd": o, "REST API": blind} {
			// The member keys follow the servers by one round of Patroni.
			lab.Poll(t, 30*time.Second, "every member's key to show it running", func() error {
				for _, m := range topology(t, o).Members {
					if m.Timeline == 0 {
						return fmt.Errorf("%s: %+v", name, m)
					}
				}
				return nil
			})
			got := topology(t, o)
			if got.Leader != c.Leader().Name || got.SystemIdentifier != facts.System || got.Paused || len(got.Members) != 3 {
				t.Errorf("%s: %+v", name, got)
			}
			if (got.Revision > 0) != (name == "etcd") {
				t.Errorf("%s: revision %d", name, got.Revision)
			}
			for _, m := range got.Members {
				real := c.Member(m.Name)
				want := cluster.Replica
				if m.Name == got.Leader {
					want = cluster.Primary
				}
				if m.Role != want || m.Timeline == 0 || m.APIURL != real.API+"/patroni" {
					t.Errorf("%s: %+v", name, m)
				}
			}
		}
	})
	t.Run("watched", func(t *testing.T) {
		w.until(t, "what the keys say", func(got cluster.Topology, err error) bool {
			return err == nil && got.Leader == c.Leader().Name && len(got.Members) == 3 && got.TTL == 20*time.Second && got.LoopWait == 2*time.Second && got.Position > 0
		})
		for name, o := range map[string]*patroni.Observer{"etcd": o, "REST API": blind} {
			got := topology(t, o)
			source, err := cluster.ChooseSource(got, cluster.SourceWant{Policy: cluster.FromReplica, MaxLag: 1 << 20})
			if err != nil || source.Leader || source.Member == got.Leader || source.Reason != "a replica, 0 bytes behind the leader" {
				t.Errorf("%s: %+v, %v of %+v", name, source, err, got)
			}
		}
	})
	t.Run("another scope", func(t *testing.T) {
		other := observe(t, first, func(o *patroni.Options) { o.Scope, o.API = "nobody", "" })
		_, err := other.Topology(t.Context())
		if _, ok := errors.AsType[*patroni.UnreachableError](err); !ok {
			t.Error(err)
		}
	})
	t.Run("paused", func(t *testing.T) {
		c.PatchConfig(`{"pause": true}`)
		t.Cleanup(func() { c.PatchConfig(`{"pause": null}`) })
		if got := topology(t, o); !got.Paused {
			t.Errorf("%+v", got)
		}
		w.until(t, "the pause", func(got cluster.Topology, err error) bool { return err == nil && got.Paused })
	})
	t.Run("one etcd down", func(t *testing.T) {
		dead := c.Etcd.Members[0]
		dead.Kill9()
		if got := topology(t, o); got.Leader != c.Leader().Name {
			t.Errorf("%+v", got)
		}
		dead.Start()
		c.Etcd.Wait()
	})
	// While a failover runs, nobody or the right one leads: never the dead one, once
	// somebody else has confirmed, and never one who is not in the end.
	t.Run("failover", func(t *testing.T) {
		old := c.Leader()
		old.Kill9()
		t.Cleanup(old.Start)
		var seen []string
		lab.Poll(t, 90*time.Second, "a new leader", func() error {
			got, err := o.Topology(t.Context())
			if err == nil && got.Leader != "" && !slices.Contains(seen, got.Leader) {
				seen = append(seen, got.Leader)
			}
			if got.Leader == "" || got.Leader == old.Name {
				return fmt.Errorf("leader %q, %v", got.Leader, err)
			}
			return nil
		})
		now := c.WaitNewLeader(old)
		w.until(t, "the new leader", func(got cluster.Topology, err error) bool { return err == nil && got.Leader == now.Name })
		if told := slices.DeleteFunc(w.leaders(), func(name string) bool { return name == "" }); !slices.Equal(told, []string{old.Name, now.Name}) {
			t.Errorf("told of the leaders %v, want %s and %s", told, old.Name, now.Name)
		}
		if want := []string{now.Name}; !slices.Equal(seen, want) {
			t.Errorf("seen as leaders: %v, want %v", seen, want)
		}
	})
}

// Patroni with etcd's v2 API leaves nothing for v3 to see.
func TestKeysOfV3Only(t *testing.T) {
	e := lab.StartEtcd(t, 1)
	o, err := patroni.New(patroni.Options{Scope: "main", Endpoints: e.Endpoints(), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.Close() }()
	const member = `{"api_url":"http://127.0.0.1:1/patroni","role":"master","state":"running"}`
	for key, value := range map[string]string{"main/leader": "n1", "main/members/n1": member, "mainly/leader": "n2", "main/initialize": "7301234567890123456"} {
		if err := e.Put("/service/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	got, err := o.Topology(t.Context())
	unconfirmed, ok := errors.AsType[*patroni.UnconfirmedError](err)
	if !ok || unconfirmed.Leader != "n1" || got.Leader != "" || got.SystemIdentifier != 7301234567890123456 || len(got.Members) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := e.DeletePrefix("/service/main/"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Topology(t.Context()); err == nil {
		t.Error("an empty prefix is a cluster")
	}
}
