package patroni

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/cluster"
)

const base = "/service/main"

// keys are a healthy cluster of Patroni 3 and 4 mixed, as in the middle of an upgrade.
func keys(change ...string) []pair {
	all := map[string]string{
		"initialize": "7301234567890123456",
		"config":     `{"ttl":30,"postgresql":{"use_slots":true}}`,
		"leader":     "n1",
		"status":     `{"optime":24470704}`,
		"history":    `[[1,24470528,"no recovery target specified","2026-11-21T00:00:00+00:00","n1"]]`,
		"members/n1": `{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"master","version":"3.0.2","xlog_location":24470704,"timeline":2}`,
		"members/n2": `{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"https://10.0.0.2:8008/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":24470600,"timeline":2,"replication_state":"streaming","tags":{"clonefrom":true}}`,
		"members/n3": `{"conn_url":"postgres://10.0.0.3:5432/postgres","api_url":"http://10.0.0.3:8008/patroni","state":"stopped","role":"master","version":"3.0.2"}`,
	}
	for i := 0; i < len(change); i += 2 {
		all[change[i]] = change[i+1]
		if change[i+1] == "-" {
			delete(all, change[i])
		}
	}
	var pairs []pair
	for name, value := range all {
		pairs = append(pairs, pair{base + "/" + name, []byte(value), 7})
	}
	return pairs
}

// short writes a topology as one line.
func short(t cluster.Topology) string {
	line := fmt.Sprintf("%s leader=%s", t.SystemIdentifier, t.Leader)
	if t.Paused {
		line += " paused"
	}
	for _, m := range t.Members {
		line += fmt.Sprintf(" %s:%s:%s:%s:%s", m.Name, m.Role, m.State, m.Timeline, m.LSN)
	}
	return line
}

func TestParseTopology(t *testing.T) {
	const n1, n2, n3 = " n1:primary:running:00000002:0/17564B0", " n2:replica:running:00000002:0/1756448", " n3:unknown:stopped:00000000:0/0"
	for name, c := range map[string]struct {
		change []string
		want   string
		err    string
	}{
		"healthy, a stopped member still says master": {nil, "7301234567890123456 leader=n1" + n1 + n2 + n3, ""},
		"no leader": {[]string{"leader", "-"},
			"7301234567890123456 leader= n1:unknown:running:00000002:0/17564B0" + n2 + n3, ""},
		"leader without a member key": {[]string{"members/n1", "-"}, "7301234567890123456 leader=" + n2 + n3,
			"the leader key names n1, which does not confirm it: it has no member key"},
		"paused":            {[]string{"config", `{"pause":true}`}, "7301234567890123456 leader=n1 paused" + n1 + n2 + n3, ""},
		"standby cluster":   {[]string{"config", `{"standby_cluster":{"host":"10.1.1.1"}}`}, "7301234567890123456 leader=n1" + strings.Replace(n1, "primary", "standby_leader", 1) + n2 + n3, ""},
		"empty standby":     {[]string{"config", `{"standby_cluster":{"create_replica_methods":["x"]}}`}, "7301234567890123456 leader=n1" + n1 + n2 + n3, ""},
		"bootstrapping":     {[]string{"initialize", "", "leader", "-", "members/n1", "-", "members/n2", "-", "members/n3", "-"}, "0 leader=", ""},
		"unreadable member": {[]string{"members/n2", `{"state":`}, "7301234567890123456 leader=n1" + n1 + " n2:unknown:unreadable:00000000:0/0" + n3, ""},
		"quoted numbers":    {[]string{"members/n2", `{"role":"replica","timeline":"unknown","xlog_location":"5"}`}, "7301234567890123456 leader=n1" + n1 + " n2:replica::00000000:0/5" + n3, ""},
		"citus":             {[]string{"0/leader", "n1"}, "", ErrCitus.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTopology(base, keys(c.change...))
			if err == nil != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if line := short(got); c.want != "" && line != c.want {
				t.Errorf("\n got %s\nwant %s", line, c.want)
			}
		})
	}
}

func TestMembersKeepWhatTheySay(t *testing.T) {
	got, err := parseTopology(base, keys())
	if err != nil {
		t.Fatal(err)
	}
	m, _ := got.Member("n2")
	if m.ReplicationState != "streaming" || m.APIURL != "https://10.0.0.2:8008/patroni" || m.Version != "4.1.4" || m.Tags["clonefrom"] != true {
		t.Errorf("%+v", m)
	}
}

// The keys of one healthy cluster as each version writes them, and of the same one
// through GET /cluster, GET /config and GET /patroni.
func TestShapesOfPatronisVersions(t *testing.T) {
	const member = `"conn_url":"postgres://10.0.0.%s:5432/postgres","api_url":"http://10.0.0.%[1]s:8008/patroni","state":"running"`
	common := func(version string, extra map[string]string) (pairs []pair) {
		for name, value := range map[string]string{"initialize": "7301234567890123456", "leader": "n1", "history": `[[1,100,"no recovery target specified","2026-11-21T00:00:00+00:00","n1"]]`} {
			pairs = append(pairs, pair{base + "/" + name, []byte(value), 41})
		}
		for name, value := range extra {
			if number, ok := strings.CutPrefix(name, "members/n"); ok {
				value = "{" + fmt.Sprintf(member, number) + `,"version":"` + version + `",` + value + "}"
			}
			pairs = append(pairs, pair{base + "/" + name, []byte(value), 42})
		}
		return pairs
	}
	for name, c := range map[string]struct {
		pairs []pair
		want  string
	}{
		"3.0.2": {common("3.0.2", map[string]string{
			"config": `{"ttl":20,"loop_wait":2,"retry_timeout":3,"postgresql":{"use_pg_rewind":true}}`, "status": `{"optime":1000,"slots":{"n2":900}}`, "sync": `{"leader":"n1","sync_standby":"N2"}`,
			"members/n1": `"role":"master","xlog_location":1000,"timeline":2`,
			"members/n2": `"role":"replica","xlog_location":900,"timeline":2,"tags":{"nobackup":true}`,
			"members/n3": `"role":"replica","xlog_location":800,"timeline":2,"pending_restart":true`,
		}), "term 41 at 1000, ttl 20s, round 2s, synchronous [n2]; n1 primary 1000/0; n2 replica 900/0 nobackup; n3 replica 800/0 restarts"},
		"4.1.4": {common("4.1.4", map[string]string{
			"config": `{"synchronous_mode":"quorum","failsafe_mode":true}`, "status": `{"optime":1000,"slots":{"n2":900},"retain_slots":["n2"]}`, "sync": `{"leader":"n1","sync_standby":"n3,n2","quorum":1}`,
			"failsafe":   `{"n1":"http://10.0.0.1:8008/patroni"}`,
			"members/n1": `"role":"primary","xlog_location":1000,"timeline":2`,
			"members/n2": `"role":"replica","replication_state":"streaming","xlog_location":900,"receive_lsn":900,"replay_lsn":850,"timeline":2,"tags":{"nobackup":"yes"}`,
			"members/n3": `"role":"replica","replication_state":"in archive recovery","xlog_location":800,"replay_lsn":800,"timeline":2,"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"}}`,
		}), "term 41 at 1000, ttl 30s, round 10s, synchronous [n2 n3]; n1 primary 1000/0; n2 replica 900/850 streaming nobackup; n3 replica 800/800 in archive recovery restarts"},
		"before 2.1, with nothing synchronous": {common("2.0.2", map[string]string{
			"config": `{"ttl":"45","pause":false}`, "optime/leader": "1000", "sync": `{"leader":null,"sync_standby":null}`,
			"members/n1": `"role":"master","xlog_location":1000,"timeline":2`,
		}), "term 41 at 1000, ttl 45s, round 10s, synchronous []; n1 primary 1000/0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTopology(base, c.pairs)
			if err != nil {
				t.Fatal(err)
			}
			if line := details(got); line != c.want {
				t.Errorf("\n got %s\nwant %s", line, c.want)
			}
		})
	}
}

// details writes what a choice of the source is made from.
func details(t cluster.Topology) string {
	line := fmt.Sprintf("term %d at %d, ttl %s, round %s, synchronous %v", t.Term, uint64(t.Position), t.TTL, t.LoopWait, t.Synchronous)
	for _, m := range t.Members {
		line += strings.TrimRight(fmt.Sprintf("; %s %s %d/%d %s", m.Name, m.Role, uint64(m.LSN), uint64(m.Replay), m.ReplicationState), " ")
		if m.Tagged("nobackup") {
			line += " nobackup"
		}
		if m.PendingRestart {
			line += " restarts"
		}
	}
	return line
}

func TestShapesOfTheAPI(t *testing.T) {
	for name, c := range map[string]struct{ version, cluster, config, want string }{
		"3.0.2": {"3.0.2", `{"members":[{"name":"n1","role":"leader","state":"running","api_url":"http://10.0.0.1:8008/patroni","host":"10.0.0.1","port":5432,"timeline":2},
			{"name":"n2","role":"sync_standby","state":"running","timeline":2,"tags":{"nobackup":true},"lag":100},
			{"name":"n3","role":"replica","state":"stopped","pending_restart":true,"lag":"unknown"}]}`, `{"ttl":20,"loop_wait":2}`,
			"term 0 at 1000, ttl 20s, round 2s, synchronous [n2]; n1 primary 1000/0; n2 replica 900/0 nobackup; n3 replica 0/0 restarts"},
		"4.1.4": {"4.1.4", `{"members":[{"name":"n1","role":"standby_leader","state":"streaming","timeline":2},
			{"name":"n2","role":"quorum_standby","state":"streaming","timeline":2,"lag":0,"receive_lsn":"0/3E8","replay_lsn":"0/3E8","receive_lag":0},
			{"name":"n3","role":"replica","state":"in archive recovery","timeline":2,"lag":5000}],"scope":"main"}`, `{"failsafe_mode":"on","standby_cluster":{"host":"h"}}`,
			"term 0 at 1000, ttl 30s, round 10s, synchronous [n2]; n1 standby_leader 1000/0 streaming; n2 replica 1000/0 streaming; n3 replica 0/0 in archive recovery"},
	} {
		t.Run(name, func(t *testing.T) {
			var all clusterJSON
			var own statusJSON
			var config dynamicConfig
			if err := errors.Join(json.Unmarshal([]byte(c.cluster), &all), json.Unmarshal([]byte(c.config), &config),
				json.Unmarshal([]byte(`{"database_system_identifier":"7301234567890123456","patroni":{"scope":"main","version":"`+c.version+`"}}`), &own)); err != nil {
				t.Fatal(err)
			}
			got := cluster.Topology{Position: 1000}
			config.apply(&got)
			got = topologyOfAPI(got, all, own)
			if line := details(got); line != c.want {
				t.Errorf("\n got %s\nwant %s", line, c.want)
			}
			if n2, _ := got.Member("n2"); n2.State != "running" || n2.Version != c.version || got.Leader != "n1" {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestBasePath(t *testing.T) {
	for namespace, want := range map[string]string{
		"": "/service/x", "service": "/service/x", "/service/": "/service/x", "//service//": "/service/x", "/": "/x", "/a//b/": "/a/b/x",
	} {
		if got := basePath(namespace, "x"); got != want {
			t.Errorf("namespace %q: %s, want %s", namespace, got, want)
		}
	}
}

func FuzzParseTopology(f *testing.F) {
	for _, p := range keys() {
		f.Add(p.key, p.value)
	}
	f.Add(base+"/members/", []byte(`{"timeline":99999999999999}`))
	f.Add(base+"/0/leader", []byte("n1"))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		got, err := parseTopology(base, append(keys("leader", "n2"), pair{key, value, 8}))
		_, unconfirmed := errors.AsType[*UnconfirmedError](err)
		if err != nil && !unconfirmed {
			return
		}
		if _, ok := got.Member(got.Leader); got.Leader != "" && !ok {
			t.Fatalf("leader %q is no member", got.Leader)
		}
		for _, m := range got.Members {
			if m.Name != got.Leader && (m.Role == cluster.Primary || m.Role == cluster.StandbyLeader) {
				t.Fatalf("%s does not lead and is %s", m.Name, m.Role)
			}
		}
		if _, err := json.Marshal(got); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzTopologyOfAPI(f *testing.F) {
	f.Add([]byte(two), []byte(`{"ttl":20,"loop_wait":2,"standby_cluster":{"port":5432}}`))
	f.Add([]byte(`{"members":[{"name":"","role":"leader","lag":-1},{"name":"a","role":"master","lag":1e300},{"name":"a","role":"sync_standby"}]}`), []byte(`{"ttl":-1,"pause":[]}`))
	f.Fuzz(func(t *testing.T, members, settings []byte) {
		var all clusterJSON
		var config dynamicConfig
		if json.Unmarshal(members, &all) != nil || json.Unmarshal(settings, &config) != nil {
			return
		}
		got := cluster.Topology{Position: 1000}
		config.apply(&got)
		got = topologyOfAPI(got, all, statusJSON{})
		for _, m := range got.Members {
			if m.Name != got.Leader && (m.Role == cluster.Primary || m.Role == cluster.StandbyLeader) {
				t.Fatalf("%+v", got)
			}
		}
		if got.TTL <= 0 || got.LoopWait <= 0 || round(got) < shortestRound || round(got) > longestRound {
			t.Fatalf("%s and %s", got.TTL, got.LoopWait)
		}
		for _, policy := range []cluster.SourcePolicy{cluster.FromLeader, cluster.PreferReplica, cluster.FromReplica} {
			choice, err := cluster.ChooseSource(got, cluster.SourceWant{Policy: policy, Waited: true})
			if _, none := errors.AsType[*cluster.NoSourceError](err); err != nil && !none || err == nil && choice.Member == "" {
				t.Fatalf("%+v, %v of %+v", choice, err, got)
			}
		}
	})
}
