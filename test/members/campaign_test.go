//go:build campaign

package members

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

var (
	majors  = flag.String("majors", "17,18", "PostgreSQL's versions, each with the Patroni of its suite")
	results = flag.String("results", "", "file that each version's outcome is appended to; .cache/campaign-members.jsonl")
)

// outcome is one line of the results.
type outcome struct {
	Major    int           `json:"major"`
	Server   string        `json:"server"`
	Patroni  string        `json:"patroni"`
	At       string        `json:"at"`
	Backups  []string      `json:"backups"` // judged by pg_verifybackup
	Amchecks []string      `json:"amchecks"`
	Ledger   ledger.Report `json:"ledger"`
	Seconds  float64       `json:"seconds"`
	Passed   bool          `json:"passed"`
}

// TestCampaignMembers is the story of TestMembers on the versions of PostgreSQL and
// Patroni to come, with backups of a standby by both ways as what members are made of.
func TestCampaignMembers(t *testing.T) {
	if *results == "" {
		root, err := lab.Root()
		if err != nil {
			t.Fatal(err)
		}
		*results = filepath.Join(root, ".cache", "campaign-members.jsonl")
	}
	for text := range strings.SplitSeq(*majors, ",") {
		var major int
		if _, err := fmt.Sscan(text, &major); err != nil {
			t.Fatalf("-majors %s: %v", *majors, err)
		}
		t.Run("pg"+text, func(t *testing.T) {
			began := time.Now()
			o := outcome{Major: major, At: began.UTC().Format(time.RFC3339)}
			t.Cleanup(func() {
				o.Passed, o.Seconds = !t.Failed(), time.Since(began).Seconds()
				o.append(t)
			})
			o.story(t)
		})
	}
}

func (o *outcome) append(t *testing.T) {
	line, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(*results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil || f.Close() != nil {
		t.Errorf("the results were not written: %v", err)
	}
}

func (o *outcome) story(t *testing.T) {
	w := newWorld(t)
	w.major = o.Major
	w.cluster = w.start(lab.ClusterOptions{Etcd: 1, HAProxy: true, Parameters: map[string]string{"archive_mode": "off", "log_replication_commands": "on"}})
	leader := w.cluster.Leader()
	leader.QueryRow("show server_version", &o.Server)
	var member struct {
		Version string `json:"version"`
		Role    string `json:"role"`
	}
	text, _, err := w.cluster.Etcd.Get(w.cluster.Key("members/" + leader.Name))
	if err != nil || json.Unmarshal([]byte(text), &member) != nil || !strings.HasPrefix(member.Version, "4.") || member.Role != "primary" {
		t.Fatalf("the leader's key is %s: %v", text, err)
	}
	o.Patroni = member.Version
	w.setUp(leader)
	n := w.cluster.Replicas()[0]
	w.madeBy(n, w.rebuilt(n), "basebackup") // there is nothing else yet

	journal := t.TempDir()
	work, err := ledger.Start(t.Context(), w.cluster.PrimaryDSN(), ledger.Options{Dir: journal, Pause: 5 * time.Millisecond, Seed: uint64(o.Major)})
	if err != nil {
		t.Fatal(err)
	}
	leader.Exec("create table filler as select g, repeat(md5(g::text), 20) from generate_series(1, 60000) g")
	leader.Exec("create table marks (name text)")
	o.backup(w, n, n, "file-copy")
	w.fromTheRepository(leader, n)
	o.backup(w, leader, n, "base-backup")
	w.afterFailover()

	leader = w.cluster.Leader()
	leader.Exec("insert into marks values ('before')")
	var at time.Time
	leader.QueryRow("select clock_timestamp()", &at)
	leader.Exec("insert into marks values ('after')")
	if _, err := work.Stop(); err != nil {
		t.Fatal(err)
	}
	w.must(leader, nil, "check") // and archives all of that
	o.amcheck(w, leader, "--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend")
	n = w.cluster.Replicas()[0]
	lab.Poll(t, 30*time.Second, "amcheck on the member", func() error {
		var there bool
		if n.QueryRow("select exists (select from pg_extension where extname = 'amcheck')", &there); !there {
			return errNotYet
		}
		return nil
	})
	o.amcheck(w, n, "--database", "postgres", "--heapallindexed") // no stronger locks in recovery

	target := at.UTC().Format("2006-01-02T15:04:05.000000Z")
	var clone *lab.Member
	clone, o.Ledger = w.newCluster(leader, target, journal)
	if o.Ledger.Expected < 100 || o.Ledger.Excluded == 0 || o.Ledger.Open > 8 {
		t.Errorf("a ledger that proves little: %+v", o.Ledger)
	}
	o.amcheck(w, clone, "--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend")
	w.killedBootstrap(leader, target)
}

// backup takes one of a replica and has pg_verifybackup look at what it restores to.
func (o *outcome) backup(w *world, by, owner *lab.Member, method string) {
	w.Helper()
	var m catalog.Manifest
	w.must(by, &m, "backup", "--source", "replica", "--method", method)
	if m.Version.Major() != o.Major || m.Role != "replica" || m.Source != method {
		w.Errorf("the backup by %s: %+v", method, m)
	}
	dir := filepath.Join(owner.Home, "verified-"+method)
	w.must(owner, nil, "restore", "--pgdata", dir, "--backup", string(m.ID), "--target-immediate")
	lab.JudgeFiles(w.T, o.Major, owner.User, dir)
	if err := os.RemoveAll(dir); err != nil {
		w.Error(err)
	}
	o.Backups = append(o.Backups, fmt.Sprintf("%s of %s by %s", m.ID, m.Member, method))
}

func (o *outcome) amcheck(w *world, m *lab.Member, args ...string) {
	w.Helper()
	argv := append([]string{filepath.Join(m.BinDir, "pg_amcheck"), "-h", m.Host, "-p", fmt.Sprint(m.Port), "-U", "postgres"}, args...)
	if out, err := w.run.Command(w.Context(), m.User, []string{"PGPASSWORD=" + lab.Password}, argv...).CombinedOutput(); err != nil {
		w.Fatalf("pg_amcheck of %s: %v\n%s", m.Name, err, out)
	}
	o.Amchecks = append(o.Amchecks, filepath.Base(m.Home))
}
