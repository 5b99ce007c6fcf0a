package cluster

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// three is a healthy cluster: n1 leads, n2 and n3 stream.
func three() Topology {
	replica := func(name string) Member {
		return Member{Name: name, Role: Replica, State: "running", Timeline: 3, LSN: 0x5000000, Version: "4.1.4", ReplicationState: "streaming"}
	}
	return Topology{Scope: "main", Leader: "n1", Position: 0x5000000, Members: []Member{
		{Name: "n1", Role: Primary, State: "running", Timeline: 3, LSN: 0x5000000, Version: "4.1.4"}, replica("n2"), replica("n3"),
	}}
}

// with changes the members that are named.
func with(change func(*Member), names ...string) func(*Topology) {
	return func(t *Topology) {
		for i := range t.Members {
			if slices.Contains(names, t.Members[i].Name) {
				change(&t.Members[i])
			}
		}
	}
}

func tags(pairs ...any) func(*Member) {
	return func(m *Member) {
		m.Tags = map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			m.Tags[pairs[i].(string)] = pairs[i+1]
		}
	}
}

func state(s string) func(*Member)     { return func(m *Member) { m.State = s } }
func lsn(l postgres.LSN) func(*Member) { return func(m *Member) { m.LSN = l } }
func nobody(t *Topology)               { t.Leader = ""; t.Members[0].Role = Unknown }
func synchronous(names ...string) func(*Topology) {
	return func(t *Topology) { t.Synchronous = names }
}

func all(changes ...func(*Topology)) func(*Topology) {
	return func(t *Topology) {
		for _, c := range changes {
			c(t)
		}
	}
}

const (
	streaming = "a replica, streaming, 0 bytes behind the leader"
	noLeader  = "n1 has no leader to follow; n2 has no leader to follow; n3 has no leader to follow"
)

func TestChooseSource(t *testing.T) {
	leader, prefer, replica := SourceWant{Policy: FromLeader}, SourceWant{Policy: PreferReplica}, SourceWant{Policy: FromReplica}
	waited := SourceWant{Policy: PreferReplica, Waited: true}
	behind := func(max int64) SourceWant { return SourceWant{Policy: FromReplica, MaxLag: max} }
	tagged := func(p SourcePolicy) SourceWant { return SourceWant{Policy: p, Tag: "backup", Waited: true} }
	for name, c := range map[string]struct {
		change  func(*Topology)
		want    SourceWant
		member  string // "": none, and reason is the error's list
		reason  string
		refused string
	}{
		"leader":                             {nil, leader, "n1", "the leader, as the policy says", "n2 does not lead; n3 does not lead"},
		"prefer-replica":                     {nil, prefer, "n2", streaming, "n1 leads, and a replica is waited for"},
		"replica":                            {nil, replica, "n2", streaming, "n1 leads"},
		"waited, though a replica can serve": {nil, waited, "n2", streaming, ""},
		"waited, and none can": {with(state("stopped"), "n2", "n3"), waited, "n1",
			"the leader, because no replica can serve: n2 is not running: stopped; n3 is not running: stopped", "n2 is not running: stopped; n3 is not running: stopped"},
		"waited, and there is none": {func(t *Topology) { t.Members = t.Members[:1] }, waited, "n1", "the leader, because no replica can serve: there is none", ""},
		"none can, still waiting": {with(state("stopped"), "n2", "n3"), prefer, "",
			"n1 leads, and a replica is waited for; n2 is not running: stopped; n3 is not running: stopped", ""},
		"none can, replicas only": {with(state(""), "n2", "n3"), replica, "",
			"n1 leads; n2 is not running: state unknown; n3 is not running: state unknown", ""},
		"no members": {func(t *Topology) { *t = Topology{} }, waited, "", "the cluster has no members", ""},

		"no leader, leader wanted":         {nobody, leader, "", noLeader, ""},
		"no leader, replica wanted":        {nobody, replica, "", noLeader, ""},
		"no leader, waited":                {nobody, waited, "", noLeader, ""},
		"no leader in a pause":             {all(nobody, func(t *Topology) { t.Paused = true }), waited, "", noLeader, ""},
		"paused":                           {func(t *Topology) { t.Paused = true }, prefer, "n2", streaming, "n1 leads, and a replica is waited for"},
		"leader stopped in a pause":        {all(with(state("stopped"), "n1"), func(t *Topology) { t.Paused = true }), leader, "", "n1 is not running: stopped; n2 does not lead; n3 does not lead", ""},
		"a second one says primary":        {with(func(m *Member) { m.Role = Unknown }, "n2"), replica, "n3", streaming, "n1 leads; n2 is no replica"},
		"leader with nobackup":             {with(tags("nobackup", true), "n1"), leader, "", "n1 is tagged nobackup; n2 does not lead; n3 does not lead", ""},
		"leader with nostream is a leader": {with(tags("nostream", true), "n1"), leader, "n1", "the leader, as the policy says", "n2 does not lead; n3 does not lead"},

		"standby cluster, leader": {with(func(m *Member) { m.Role = StandbyLeader }, "n1"), leader, "n1", "the standby leader, as the policy says", "n2 does not lead; n3 does not lead"},
		"standby cluster, waited": {all(with(func(m *Member) { m.Role = StandbyLeader }, "n1"), with(state("starting"), "n2", "n3")), waited, "n1",
			"the standby leader, because no replica can serve: n2 is not running: starting; n3 is not running: starting", "n2 is not running: starting; n3 is not running: starting"},
		"standby cluster, replica": {with(func(m *Member) { m.Role = StandbyLeader }, "n1"), replica, "n2", streaming, "n1 leads"},

		"nobackup as a boolean":      {with(tags("nobackup", true), "n2"), replica, "n3", streaming, "n1 leads; n2 is tagged nobackup"},
		"nobackup as a word":         {with(tags("nobackup", "Yes"), "n2"), replica, "n3", streaming, "n1 leads; n2 is tagged nobackup"},
		"nobackup as a number":       {with(tags("nobackup", float64(1)), "n2"), replica, "n3", streaming, "n1 leads; n2 is tagged nobackup"},
		"nobackup false":             {with(tags("nobackup", false), "n2"), replica, "n2", streaming, "n1 leads"},
		"nobackup false, as a word":  {with(tags("nobackup", "off"), "n2"), replica, "n2", streaming, "n1 leads"},
		"nobackup null":              {with(tags("nobackup", nil), "n2"), replica, "n2", streaming, "n1 leads"},
		"nostream":                   {with(tags("nostream", "true"), "n2"), replica, "n3", streaming, "n1 leads; n2 is tagged nostream"},
		"wanted tag":                 {with(tags("backup", "on"), "n3"), tagged(FromReplica), "n3", streaming, "n1 leads; n2 is not tagged backup"},
		"wanted tag on nobody":       {nil, tagged(PreferReplica), "", "n1 is not tagged backup; n2 is not tagged backup; n3 is not tagged backup", ""},
		"wanted tag, only on leader": {with(tags("backup", true), "n1"), tagged(PreferReplica), "n1", "the leader, because no replica can serve: n2 is not tagged backup; n3 is not tagged backup", "n2 is not tagged backup; n3 is not tagged backup"},

		"archive recovery":                  {with(func(m *Member) { m.ReplicationState = "in archive recovery" }, "n2"), replica, "n3", streaming, "n1 leads; n2 does not stream: in archive recovery"},
		"archive recovery, version unknown": {with(func(m *Member) { m.ReplicationState, m.Version = "in archive recovery", "" }, "n2"), replica, "n3", streaming, "n1 leads; n2 does not stream: in archive recovery"},
		"does not stream":                   {with(func(m *Member) { m.ReplicationState = "" }, "n2"), replica, "n3", streaming, "n1 leads; n2 does not stream"},
		"3.0.4 would say":                   {with(func(m *Member) { m.ReplicationState, m.Version = "", "3.0.4" }, "n2"), replica, "n3", streaming, "n1 leads; n2 does not stream"},
		"3.0.3 never says":                  {with(func(m *Member) { m.ReplicationState, m.Version = "", "3.0.3" }, "n2"), replica, "n2", "a replica, 0 bytes behind the leader", "n1 leads"},
		"version unknown":                   {with(func(m *Member) { m.ReplicationState, m.Version = "", "" }, "n2"), replica, "n2", "a replica, 0 bytes behind the leader", "n1 leads"},

		"old timeline":            {with(func(m *Member) { m.Timeline = 2 }, "n2"), replica, "n3", streaming, "n1 leads; n2 is on timeline 2, the leader on 3"},
		"timeline unknown":        {with(func(m *Member) { m.Timeline = 0 }, "n2"), replica, "n3", streaming, "n1 leads; n2 is on timeline 0, the leader on 3"},
		"nobody knows a timeline": {with(func(m *Member) { m.Timeline = 0 }, "n1", "n2", "n3"), replica, "", "n1 leads; n2 is on timeline 0, the leader on 0; n3 is on timeline 0, the leader on 0", ""},
		"lag at the limit":        {with(lsn(0x4FFFF00), "n2", "n3"), behind(256), "n2", "a replica, streaming, 256 bytes behind the leader", "n1 leads"},
		"lag above the limit":     {with(lsn(0x4FFFF00), "n2"), behind(255), "n3", streaming, "n1 leads; n2 is 256 bytes behind the leader, more than 255"},
		"ahead of what was said":  {with(lsn(0x6000000), "n2"), behind(1), "n2", streaming, "n1 leads"},
		"leader's own key is ahead": {all(with(lsn(0x5000100), "n1"), with(lsn(0), "n3")), behind(1), "",
			"n1 leads; n2 is 256 bytes behind the leader, more than 1; n3 does not say how far it is", ""},
		"position unknown, no limit": {with(lsn(0), "n2", "n3"), replica, "n2", "a replica, streaming", "n1 leads"},
		"received, not replayed":     {with(func(m *Member) { m.Replay = 0x4000000 }, "n2"), behind(1 << 20), "n3", streaming, "n1 leads; n2 is 16777216 bytes behind the leader, more than 1048576"},

		"synchronous last":                  {synchronous("n2"), replica, "n3", streaming, "n1 leads"},
		"synchronous, if no other":          {all(synchronous("n2"), with(state("stopped"), "n3")), replica, "n2", "a replica, streaming, synchronous, 0 bytes behind the leader", "n1 leads; n3 is not running: stopped"},
		"all synchronous":                   {synchronous("n2", "n3"), replica, "n2", "a replica, streaming, synchronous, 0 bytes behind the leader", "n1 leads"},
		"asynchronous before spared":        {all(synchronous("n2"), with(tags("noloadbalance", true), "n2")), replica, "n3", streaming, "n1 leads"},
		"nofailover first":                  {with(tags("nofailover", true), "n3"), replica, "n3", "a replica, streaming, spared by its tags, 0 bytes behind the leader", "n1 leads"},
		"noloadbalance first":               {with(tags("noloadbalance", "yes"), "n3"), replica, "n3", "a replica, streaming, spared by its tags, 0 bytes behind the leader", "n1 leads"},
		"spared before idle":                {with(tags("nofailover", true), "n3"), SourceWant{Policy: FromReplica, Busy: map[string]int{"n3": 2}}, "n3", "a replica, streaming, spared by its tags, busy with 2, 0 bytes behind the leader", "n1 leads"},
		"least busy":                        {nil, SourceWant{Policy: FromReplica, Busy: map[string]int{"n2": 2, "n3": 1}}, "n3", "a replica, streaming, busy with 1, 0 bytes behind the leader", "n1 leads"},
		"idle before close":                 {with(lsn(0x1000000), "n3"), SourceWant{Policy: FromReplica, Busy: map[string]int{"n2": 1}}, "n3", "a replica, streaming, 67108864 bytes behind the leader", "n1 leads"},
		"least behind":                      {with(lsn(0x1000000), "n2"), replica, "n3", streaming, "n1 leads"},
		"a known position before none":      {with(lsn(0), "n2"), replica, "n3", streaming, "n1 leads"},
		"a little behind is not behind":     {with(lsn(0x4000001), "n2"), replica, "n2", "a replica, streaming, 16777215 bytes behind the leader", "n1 leads"},
		"the first of two with one segment": {with(lsn(0x4000000), "n2"), replica, "n3", streaming, "n1 leads"},
	} {
		t.Run(name, func(t *testing.T) {
			before := three()
			if c.change != nil {
				c.change(&before)
			}
			got, err := ChooseSource(before, c.want)
			if c.member == "" {
				none, ok := errors.AsType[*NoSourceError](err)
				if want := "no member can be the source of a backup by policy " + string(c.want.Policy) + ": " + c.reason; !ok || none.Error() != want || none.Hint() == "" {
					t.Fatalf("\n got %v\nwant %s", err, want)
				}
				if len(none.Refused) != len(before.Members) {
					t.Errorf("not every member is refused: %v", none.Refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if refused := reasons(got.Refused, ""); got.Member != c.member || got.Reason != c.reason || refused != c.refused || got.Leader != (got.Member == "n1") {
				t.Errorf("\n got %s, %s; refused: %s\nwant %s, %s; refused: %s", got.Member, got.Reason, refused, c.member, c.reason, c.refused)
			}
		})
	}
}

func TestChooseSourceKnowsItsPolicies(t *testing.T) {
	_, err := ChooseSource(three(), SourceWant{Policy: "any"})
	if err == nil || err.Error() != `source policy "any" is not leader, prefer-replica or replica` {
		t.Error(err)
	}
}

// Every daemon arrives at the same choice, and the choice keeps the rules, whatever
// the cluster looks like and in whatever order its members are listed.
func TestAllDaemonsChooseTheSame(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	for range 20_000 {
		top := Topology{Leader: pick("", "n1", "n1", "n1", "n2"), Position: postgres.LSN(r.Uint64N(1 << 27))}
		want := SourceWant{Policy: SourcePolicy(pick("leader", "prefer-replica", "replica")), Tag: pick("", "", "x"),
			MaxLag: r.Int64N(1 << 26), Waited: r.IntN(2) == 0, Busy: map[string]int{}}
		for _, name := range strings.Fields("n1 n2 n3 n4 n5")[:1+r.IntN(5)] {
			m := Member{Name: name, Role: Role(pick("replica", "replica", "primary", "unknown")), State: pick("running", "running", "running", "stopped"),
				Timeline: postgres.TimelineID(2 + r.IntN(4)/3), LSN: postgres.LSN(r.Uint64N(1 << 27)), Version: pick("3.0.2", "4.1.4"),
				ReplicationState: pick("streaming", "streaming", ""), Tags: map[string]any{pick("nobackup", "x", "nofailover", "y"): pick("true", "false")}}
			top.Members = append(top.Members, m)
			want.Busy[name] = r.IntN(2)
			if r.IntN(3) == 0 {
				top.Synchronous = append(top.Synchronous, name)
			}
		}
		first, firstErr := ChooseSource(top, want)
		other := top
		other.Members = slices.Clone(top.Members)
		r.Shuffle(len(other.Members), func(i, j int) { other.Members[i], other.Members[j] = other.Members[j], other.Members[i] })
		second, secondErr := ChooseSource(other, want)
		if first.Member != second.Member || first.Reason != second.Reason || !maps.Equal(first.Refused, second.Refused) ||
			(firstErr == nil) != (secondErr == nil) || firstErr != nil && firstErr.Error() != secondErr.Error() {
			t.Fatalf("seed %d: %+v, %v and %+v, %v of %+v, %+v", seed, first, firstErr, second, secondErr, top, want)
		}
		if firstErr != nil {
			continue
		}
		m, _ := top.Member(first.Member)
		leader, led := top.Member(top.Leader)
		if !led || m.State != "running" || m.Tagged("nobackup") || want.Tag != "" && !m.Tagged(want.Tag) || first.Leader != (m.Name == top.Leader) ||
			first.Leader && (want.Policy == FromReplica || want.Policy == PreferReplica && !want.Waited) ||
			!first.Leader && (want.Policy == FromLeader || m.Role != Replica || m.Timeline != leader.Timeline) {
			t.Fatalf("seed %d: %+v of %+v, %+v", seed, first, top, want)
		}
	}
}
