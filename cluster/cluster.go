// Package cluster holds what we know of a Patroni cluster as plain values, and
// the pure choices made from them. It talks to nobody.
package cluster

import (
	"fmt"
	"strings"
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
	LSN postgres.LSN `json:"lsn,omitempty"`
	// Replay is what a standby has applied (Patroni 4.1 and later), else 0.
	Replay  postgres.LSN   `json:"replay_lsn,omitempty"`
	ConnURL string         `json:"conn_url"`
	APIURL  string         `json:"api_url"`
	Version string         `json:"patroni_version,omitempty"`
	Tags    map[string]any `json:"tags,omitempty"`
	// ReplicationState is "streaming", "in archive recovery" or nothing (Patroni 3.0.4 and later).
	ReplicationState string `json:"replication_state,omitempty"`
	// PendingRestart tells that settings wait for a restart of its server.
	PendingRestart bool `json:"pending_restart,omitempty"`
}

// Topology is a whole cluster at one moment: a value that decisions are made from.
type Topology struct {
	Scope            string                    `json:"scope"`
	SystemIdentifier postgres.SystemIdentifier `json:"system_identifier,omitempty"`
	// Leader is the member that holds the leader key; empty when nobody does.
	Leader string `json:"leader"`
	// Term is the revision of etcd at which the leader took the key: the same leader
	// with another term has lost and regained it. 0 where only the REST API is seen.
	Term int64 `json:"term,omitempty"`
	// Position is where the leader last said to be; Patroni publishes it once a round.
	Position postgres.LSN `json:"position,omitempty"`
	Members  []Member     `json:"members"`
	// Synchronous are the members that commits wait for, sorted.
	Synchronous []string `json:"synchronous,omitempty"`
	Paused      bool     `json:"paused,omitempty"`
	// StandbyCluster: the leader is itself a standby of another cluster.
	StandbyCluster bool `json:"standby_cluster,omitempty"`
	// TTL is how long a dead member's keys live, LoopWait one round of Patroni.
	TTL      time.Duration `json:"ttl,omitempty"`
	LoopWait time.Duration `json:"loop_wait,omitempty"`
	// Revision is etcd's revision of this reading.
	Revision int64 `json:"revision"`
}

// Daemon is one pgha-backup daemon of the cluster.
type Daemon struct {
	// Member is the Patroni member whose host it runs on, else a name of its own.
	Member string `json:"member"`
	Host   string `json:"host"`
	// DataDir: the member's data directory is at hand, its files can be copied.
	DataDir bool      `json:"data_dir"`
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`
	// Failed is the task that last failed here: another member's daemon should try it.
	Failed string `json:"failed,omitempty"`
	// Running are the backups that it takes now.
	Running []string `json:"running,omitempty"`
}

// Member finds a member by name.
func (t Topology) Member(name string) (Member, bool) {
	for _, m := range t.Members {
		if m.Name == name && name != "" {
			return m, true
		}
	}
	return Member{}, false
}

// Tagged tells whether a member's tag is set to something true.
func (m Member) Tagged(tag string) bool { return True(m.Tags[tag]) }

// True is what YAML 1.1, and so Patroni, takes for true, written as a string or not.
func True(v any) bool {
	switch strings.ToLower(fmt.Sprint(v)) {
	case "true", "on", "yes", "1":
		return true
	}
	return false
}
