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
