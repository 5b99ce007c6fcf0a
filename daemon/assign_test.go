package daemon

import (
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// three is a healthy cluster that n1 leads.
func three() cluster.Topology {
	replica := func(name string) cluster.Member {
		return cluster.Member{Name: name, Role: cluster.Replica, State: "running", ReplicationState: "streaming", Timeline: 1, LSN: 100}
	}
	return cluster.Topology{Scope: "main", SystemIdentifier: 7, Leader: "n1", Members: []cluster.Member{
		{Name: "n1", Role: cluster.Primary, State: "running", Timeline: 1, LSN: 100}, replica("n2"), replica("n3")}}
}

func beside(names ...string) (all []cluster.Daemon) {
	for _, name := range names {
		host, remote := strings.CutPrefix(name, "remote:")
		all = append(all, cluster.Daemon{Member: host, DataDir: !remote})
	}
	return all
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		name     string
		policy   cluster.SourcePolicy
		waited   bool
		daemons  []cluster.Daemon
		me       int
		emulated bool
		change   func(*cluster.Topology)
		member   string // whom to copy; "" nobody
		remote   bool
		mine     bool
		why      string
	}{
		{name: "its own member", policy: cluster.PreferReplica, daemons: beside("n1", "n2", "n3"), me: 1, member: "n2", mine: true, why: "a replica"},
		{name: "another's member", policy: cluster.PreferReplica, daemons: beside("n1", "n2", "n3"), me: 2, member: "n2", why: "the daemon of n2 takes it"},
		{name: "the leader's", policy: cluster.FromLeader, daemons: beside("n1", "n2", "n3"), member: "n1", mine: true, why: "the leader"},
		{name: "a replica without a daemon is passed over", policy: cluster.PreferReplica, daemons: beside("n1", "n3"), me: 1, member: "n3", mine: true},
		{name: "no replica has a daemon", policy: cluster.PreferReplica, daemons: beside("n1"), why: "leads, and a replica is waited for; no daemon runs on n2, n3"},
		{name: "and the wait is over", policy: cluster.PreferReplica, waited: true, daemons: beside("n1"), member: "n1", mine: true},
		{name: "nobody has the leader's files", policy: cluster.FromLeader, daemons: beside("n2", "n3"), me: 1, member: "n1", remote: true, why: "no daemon runs there"},
		{name: "a backup host takes who has no daemon", policy: cluster.PreferReplica, daemons: beside("n1", "n3", "remote:bk"), me: 2, member: "n2", remote: true, mine: true},
		{name: "and leaves the others alone", policy: cluster.PreferReplica, daemons: beside("n1", "n2", "n3", "remote:bk"), me: 3, member: "n2", why: "the daemon of n2"},
		{name: "and nobody else takes its part", policy: cluster.PreferReplica, daemons: beside("n1", "n3", "remote:bk"), me: 1, member: "n2", remote: true, why: "one on a backup host"},
		{name: "emulated, two daemons", policy: cluster.PreferReplica, daemons: beside("n1", "n2"), me: 1, emulated: true, why: "refused: create-once writes are emulated, and 2 daemons are registered"},
		{name: "emulated, one daemon", policy: cluster.FromLeader, daemons: beside("n1"), emulated: true, member: "n1", mine: true},
		{name: "nobody leads", policy: cluster.PreferReplica, waited: true, daemons: beside("n1", "n2", "n3"), change: func(t *cluster.Topology) { t.Leader = "" }, why: "has no leader to follow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := situation{Topology: three(), Want: cluster.SourceWant{Policy: c.policy, Waited: c.waited}, Daemons: c.daemons, Me: c.daemons[c.me], Emulated: c.emulated}
			if c.change != nil {
				c.change(&s.Topology)
			}
			from, mine, why := assign(s)
			if from.Member != c.member || from.Remote != c.remote || mine != c.mine || !strings.Contains(why, c.why) {
				t.Errorf("%+v, mine %v, %q", from, mine, why)
			}
		})
	}
}

// One actor at most: among daemons with files exactly one of those that see the same.
func TestAssignAgrees(t *testing.T) {
	for _, names := range [][]string{{"n1", "n2", "n3"}, {"n1", "n3"}, {"n2"}, {"n1", "n2", "n3", "remote:bk"}, {"n3", "remote:bk"}} {
		for _, policy := range []cluster.SourcePolicy{cluster.FromLeader, cluster.PreferReplica, cluster.FromReplica} {
			all, actors := beside(names...), 0
			for _, me := range all {
				if _, mine, _ := assign(situation{Topology: three(), Want: cluster.SourceWant{Policy: policy, Waited: true}, Daemons: all, Me: me}); mine {
					actors++
				}
			}
			if actors > 1 {
				t.Errorf("%v %s: %d act", names, policy, actors)
			}
		}
	}
}

func TestAssignSparesTheBusy(t *testing.T) {
	all := beside("n1", "n2", "n3")
	all[1].Running = []string{"20261121T020000Z-nightly"}
	from, mine, why := assign(situation{Task: "20261121T030000Z-hourly", Topology: three(), Want: cluster.SourceWant{Policy: cluster.PreferReplica}, Daemons: all, Me: all[2]})
	if !mine || from.Member != "n3" {
		t.Errorf("%+v %v %q: n2 takes a backup already", from, mine, why)
	}
	from, mine, why = assign(situation{Task: "20261121T020000Z-nightly", Topology: three(), Want: cluster.SourceWant{Policy: cluster.PreferReplica}, Daemons: all, Me: all[2]})
	if mine || from.Member != "n2" {
		t.Errorf("%+v %v %q: it is this one that n2 takes", from, mine, why)
	}
}

func TestSingleTakesItsOwn(t *testing.T) {
	me := beside("n1")[0]
	from, mine, why := assign(situation{Topology: three(), Want: cluster.SourceWant{Policy: cluster.PreferReplica}, Daemons: []cluster.Daemon{me}, Me: me, Single: true})
	if !mine || from.Member != "n1" {
		t.Errorf("%+v %v %q: no replica's daemon will ever come", from, mine, why)
	}
}

func TestStillRight(t *testing.T) {
	leads := func(name string) cluster.Topology { return cluster.Topology{Leader: name} }
	for _, c := range []struct {
		from source
		t    cluster.Topology
		want string
	}{
		{source{Member: "n1", Leader: true}, leads("n1"), ""},
		{source{Member: "n1", Leader: true}, leads(""), ""},
		{source{Member: "n1", Leader: true}, leads("n2"), "the leader changed from n1 to n2 during its backup"},
		{source{Member: "n2"}, leads("n3"), ""},
		{source{Member: "n2"}, leads("n2"), "the standby n2 was promoted during its backup"},
	} {
		got := ""
		if err := c.from.stillRight(c.t); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v under %q: %q, want %q", c.from, c.t.Leader, got, c.want)
		}
	}
}
