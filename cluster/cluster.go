// Package cluster holds what we know of a Patroni cluster as plain values, and
// the pure choices made from them. It talks to nobody.
package cluster

import (
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Role is what a member is in the cluster, whatever Patroni's version calls it.
type Role string

// The roles. A member's own word is never authoritative: two members may say
// primary for as long as a lease lives. Topology.Leader is.
const (
	Primary       Role = "primary" // "master" before Patroni 4
	StandbyLeader Role = "standby_leader"
	Replica       Role = "replica"
	Unknown       Role = "unknown"
)

// Member is one Patroni node as its member key and its REST API show it.
type Member struct {
	Name     string              `json:"name"`
	Role     Role                `json:"role"`
	State    string              `json:"state"`
	Timeline postgres.TimelineID `json:"timeline,omitempty"`
	// LSN is the write position of a primary, the larger of received and replayed of a standby.
	LSN     postgres.LSN   `json:"lsn,omitempty"`
	ConnURL string         `json:"conn_url"`
	APIURL  string         `json:"api_url"`
	Version string         `json:"patroni_version,omitempty"`
	Tags    map[string]any `json:"tags,omitempty"`
	// Streaming is Patroni's replication_state "streaming" (Patroni 3.0.4 and later).
	ReplicationState string `json:"replication_state,omitempty"`
}

// Topology is a whole cluster at one moment: a value that decisions are made from.
type Topology struct {
	Scope            string                    `json:"scope"`
	Namespace        string                    `json:"namespace"`
	SystemIdentifier postgres.SystemIdentifier `json:"system_identifier,omitempty"`
	// Leader is the member that holds the leader key; empty when nobody does.
	Leader  string    `json:"leader"`
	Members []Member  `json:"members"`
	Paused  bool      `json:"paused,omitempty"`
	Seen    time.Time `json:"seen"`
	// Revision is etcd's revision of this reading.
	Revision int64 `json:"revision"`
}

// Member finds a member by name.
func (t Topology) Member(name string) (Member, bool) {
	for _, m := range t.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}
