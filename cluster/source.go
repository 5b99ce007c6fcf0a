package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// SourcePolicy says whom a backup may be taken from.
type SourcePolicy string

// The policies.
const (
	FromLeader    SourcePolicy = "leader"
	PreferReplica SourcePolicy = "prefer-replica" // the leader after a wait
	FromReplica   SourcePolicy = "replica"
)

// SourceWant is what is asked of a source.
type SourceWant struct {
	Policy SourcePolicy
	Tag    string         // only members with this tag true; "" is any
	MaxLag int64          // bytes behind the leader; 0 is no limit
	Waited bool           // prefer-replica: the wait for a replica is over, the leader may serve
	Busy   map[string]int // jobs that run on a member
}

// SourceChoice is the member to back up and why it is the one.
type SourceChoice struct {
	Member  string
	Reason  string
	Leader  bool
	Refused map[string]string // the members that cannot serve, and why not
}

// NoSourceError: no member can serve.
type NoSourceError struct {
	Policy  SourcePolicy
	Refused map[string]string // every member, and why not
}

func (e *NoSourceError) Error() string {
	return fmt.Sprintf("no member can be the source of a backup by policy %s: %s", e.Policy, reasons(e.Refused, "the cluster has no members"))
}

// Hint is what a person can do about it.
func (e *NoSourceError) Hint() string {
	return "look at patronictl list; the policy prefer-replica takes the leader after a wait"
}

func reasons(refused map[string]string, nobody string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		all = append(all, name+" "+refused[name])
	}
	return cmp.Or(strings.Join(all, "; "), nobody)
}

// coarse is the unit in which members' lags are compared, in bytes: the lag of a
// healthy replica changes with every look, and the choice should not.
const coarse = 16 << 20

// ChooseSource picks the member to back up: where a replica may and can serve, an
// asynchronous one before a synchronous one, then one that its tags keep free of
// other duties, then the least busy, the least behind, the first by name. The order
// of the members does not matter. *NoSourceError where none can serve.
func ChooseSource(t Topology, want SourceWant) (SourceChoice, error) {
	if !slices.Contains([]SourcePolicy{FromLeader, PreferReplica, FromReplica}, want.Policy) {
		return SourceChoice{}, fmt.Errorf("source policy %q is not leader, prefer-replica or replica", want.Policy)
	}
	s := sources{want: want, t: t, refused: map[string]string{}}
	s.leader, s.led = t.Member(t.Leader)
	var able []Member
	for _, m := range t.Members {
		if why := s.refuse(m); why != "" {
			s.refused[m.Name] = why
			continue
		}
		able = append(able, m)
	}
	if len(able) == 0 {
		return SourceChoice{}, &NoSourceError{want.Policy, s.refused}
	}
	best := slices.MinFunc(able, s.compare)
	return SourceChoice{best.Name, s.reason(best), s.leads(best), s.refused}, nil
}

// sources is one choice in the making.
type sources struct {
	want    SourceWant
	t       Topology
	leader  Member
	led     bool
	refused map[string]string
}

func (s sources) leads(m Member) bool { return s.led && m.Name == s.leader.Name }

// refuse says why a member cannot serve, as a phrase that follows its name.
func (s sources) refuse(m Member) string {
	lag, known := s.lag(m)
	switch {
	case !s.led:
		return "has no leader to follow"
	case s.leads(m) && s.want.Policy == FromReplica:
		return "leads"
	case s.leads(m) && s.want.Policy == PreferReplica && !s.want.Waited:
		return "leads, and a replica is waited for"
	case !s.leads(m) && s.want.Policy == FromLeader:
		return "does not lead"
	case m.State != "running":
		return "is not running: " + cmp.Or(m.State, "state unknown")
	case s.want.Tag != "" && !m.Tagged(s.want.Tag):
		return "is not tagged " + s.want.Tag
	case m.Tagged("nobackup"):
		return "is tagged nobackup"
	case s.leads(m):
		return ""
	case m.Role != Replica:
		return "is no replica"
	case m.Tagged("nostream"):
		return "is tagged nostream"
	case !streams(m):
		return "does not stream" + strings.TrimSuffix(": "+m.ReplicationState, ": ")
	case m.Timeline == 0 || m.Timeline != s.leader.Timeline:
		return fmt.Sprintf("is on timeline %d, the leader on %d", m.Timeline, s.leader.Timeline)
	case s.want.MaxLag > 0 && !known:
		return "does not say how far it is"
	case s.want.MaxLag > 0 && lag > s.want.MaxLag:
		return fmt.Sprintf("is %d bytes behind the leader, more than %d", lag, s.want.MaxLag)
	}
	return ""
}

// streams trusts the silence of Patroni before 3.0.4 alone, which never says.
func streams(m Member) bool {
	var major, minor, patch int
	_, err := fmt.Sscanf(m.Version, "%d.%d.%d", &major, &minor, &patch)
	silent := err != nil || slices.Compare([]int{major, minor, patch}, []int{3, 0, 4}) < 0
	return m.ReplicationState == "streaming" || m.ReplicationState == "" && silent
}

// lag is how many bytes a member is behind the leader. What is received but not
// replayed is not in its files.
func (s sources) lag(m Member) (bytes int64, known bool) {
	ahead, at := max(s.t.Position, s.leader.LSN), cmp.Or(m.Replay, m.LSN)
	if at == 0 || ahead == 0 {
		return math.MaxInt64, false
	}
	return int64(min(ahead-min(at, ahead), math.MaxInt64)), true
}

func (s sources) compare(a, b Member) int {
	last := func(m Member, is func(Member) bool) int {
		if is(m) {
			return 1
		}
		return 0
	}
	inUse := func(m Member) bool { return !spared(m) }
	lag := func(m Member) int64 { n, _ := s.lag(m); return n / coarse }
	return cmp.Or(
		last(a, s.leads)-last(b, s.leads),
		last(a, s.synchronous)-last(b, s.synchronous),
		last(a, inUse)-last(b, inUse),
		cmp.Compare(s.want.Busy[a.Name], s.want.Busy[b.Name]),
		cmp.Compare(lag(a), lag(b)),
		strings.Compare(a.Name, b.Name),
	)
}

func (s sources) synchronous(m Member) bool { return slices.Contains(s.t.Synchronous, m.Name) }

// spared members serve no clients or are never promoted: a backup disturbs least there.
func spared(m Member) bool { return m.Tagged("nofailover") || m.Tagged("noloadbalance") }

func (s sources) reason(m Member) string {
	if s.leads(m) {
		leader := "the leader"
		if m.Role == StandbyLeader {
			leader = "the standby leader"
		}
		if s.want.Policy == FromLeader {
			return leader + ", as the policy says"
		}
		return leader + ", because no replica can serve: " + reasons(s.refused, "there is none")
	}
	words := []string{"a replica"}
	if m.ReplicationState != "" {
		words = append(words, m.ReplicationState)
	}
	if s.synchronous(m) {
		words = append(words, "synchronous")
	}
	if spared(m) {
		words = append(words, "spared by its tags")
	}
	if n := s.want.Busy[m.Name]; n > 0 {
		words = append(words, fmt.Sprintf("busy with %d", n))
	}
	if lag, known := s.lag(m); known {
		words = append(words, fmt.Sprintf("%d bytes behind the leader", lag))
	}
	return strings.Join(words, ", ")
}
