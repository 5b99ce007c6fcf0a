package cluster

import "errors"

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
	Refused map[string]string
}

func (e *NoSourceError) Error() string { return "no member can be the source" }

// ChooseSource picks the member to back up.
func ChooseSource(t Topology, want SourceWant) (SourceChoice, error) {
	return SourceChoice{}, errors.New("not made yet")
}
