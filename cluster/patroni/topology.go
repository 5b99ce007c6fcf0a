package patroni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// pair is one key of etcd.
type pair struct {
	key     string
	value   []byte
	created int64 // the revision at which the key was made
}

// ErrCitus refuses a cluster of clusters.
var ErrCitus = errors.New("the cluster is run by Patroni with Citus, which pgha-backup does not back up as a whole")

// memberJSON is a member key's value. Patroni adds fields from version to version;
// none is required.
type memberJSON struct {
	ConnURL          string         `json:"conn_url"`
	APIURL           string         `json:"api_url"`
	State            string         `json:"state"`
	Role             string         `json:"role"`
	Version          string         `json:"version"`
	Timeline         number         `json:"timeline"`
	Location         number         `json:"xlog_location"`
	ReplicationState string         `json:"replication_state"`
	Tags             map[string]any `json:"tags"`
	Replay           number         `json:"replay_lsn"`
	PendingRestart   any            `json:"pending_restart"`
}

// number is 0 where Patroni says "unknown" or anything else that is no number.
type number uint64

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 64)
	if err == nil {
		*n = number(v)
	}
	return nil
}

// dynamicConfig is the value of the key config and of GET /config.
type dynamicConfig struct {
	Pause          any            `json:"pause"`
	TTL            number         `json:"ttl"`       // seconds
	LoopWait       number         `json:"loop_wait"` // seconds
	StandbyCluster map[string]any `json:"standby_cluster"`
}

// apply sets what the configuration says, with Patroni's own defaults.
func (c dynamicConfig) apply(t *cluster.Topology) {
	seconds := func(n number, otherwise time.Duration) time.Duration {
		if n == 0 || n > 1<<20 {
			return otherwise
		}
		return time.Duration(n) * time.Second
	}
	t.Paused = cluster.True(c.Pause)
	t.TTL, t.LoopWait = seconds(c.TTL, 30*time.Second), seconds(c.LoopWait, 10*time.Second)
	t.StandbyCluster = isStandbyCluster(c.StandbyCluster)
}

// parseTopology reads Patroni's keys below base. The leader key alone says who
// leads: two members may call themselves primary for as long as a lease lives, and
// in a pause for as long as the operator likes.
func parseTopology(base string, pairs []pair) (cluster.Topology, error) {
	var t cluster.Topology
	var config dynamicConfig
	var synchronous string
	for _, p := range pairs {
		name, ok := strings.CutPrefix(p.key, base+"/")
		if !ok {
			continue
		}
		head, rest, below := strings.Cut(name, "/")
		switch {
		case below && isNumber(head):
			return t, fmt.Errorf("%s: %w", p.key, ErrCitus)
		case name == "leader":
			t.Leader, t.Term = strings.TrimSpace(string(p.value)), p.created
		case name == "initialize":
			t.SystemIdentifier = systemIdentifier(string(p.value))
		case name == "config":
			if err := json.Unmarshal(p.value, &config); err != nil {
				return t, fmt.Errorf("%s: %w", p.key, err)
			}
		case name == "status" || name == "optime/leader":
			t.Position = max(t.Position, parsePosition(p.value))
		case name == "sync":
			var sync struct {
				Standby string `json:"sync_standby"`
			}
			_ = json.Unmarshal(p.value, &sync) // an unreadable one only costs us a preference
			synchronous = sync.Standby
		case head == "members" && rest != "" && !strings.Contains(rest, "/"):
			t.Members = append(t.Members, parseMember(rest, p.value))
		}
	}
	config.apply(&t)
	slices.SortFunc(t.Members, func(a, b cluster.Member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range t.Members {
		if slices.ContainsFunc(strings.Split(synchronous, ","), func(name string) bool { return strings.EqualFold(name, m.Name) }) {
			t.Synchronous = append(t.Synchronous, m.Name)
		}
	}
	settleRoles(&t)
	if t.Leader != "" {
		if _, ok := t.Member(t.Leader); !ok {
			err := &UnconfirmedError{t.Leader, errors.New("it has no member key")}
			t.Leader = ""
			return t, err
		}
	}
	return t, nil
}

// parsePosition reads {"optime":1} and, of Patroni before 2.1, a bare 1.
func parsePosition(value []byte) postgres.LSN {
	var status struct {
		Optime number `json:"optime"`
	}
	if json.Unmarshal(value, &status) != nil {
		_ = status.Optime.UnmarshalJSON(value)
	}
	return postgres.LSN(status.Optime)
}

// settleRoles gives the leader its role and takes it from whoever else claims it.
func settleRoles(t *cluster.Topology) {
	leads := cluster.Primary
	if t.StandbyCluster {
		leads = cluster.StandbyLeader
	}
	for i := range t.Members {
		m := &t.Members[i]
		switch {
		case m.Name == t.Leader:
			m.Role = leads
		case m.Role == cluster.Primary || m.Role == cluster.StandbyLeader:
			m.Role = cluster.Unknown
		}
	}
}

// parseMember never fails: a member whose key cannot be read is still a member.
func parseMember(name string, value []byte) cluster.Member {
	var j memberJSON
	if err := json.Unmarshal(value, &j); err != nil {
		return cluster.Member{Name: name, Role: cluster.Unknown, State: "unreadable"}
	}
	return j.member(name)
}

func (j memberJSON) member(name string) cluster.Member {
	return cluster.Member{Name: name, Role: parseRole(j.Role), State: j.State, ConnURL: j.ConnURL, APIURL: j.APIURL,
		Version: j.Version, Tags: j.Tags, ReplicationState: j.ReplicationState, PendingRestart: cluster.True(j.PendingRestart),
		Timeline: postgres.TimelineID(min(j.Timeline, math.MaxUint32)), LSN: postgres.LSN(j.Location), Replay: postgres.LSN(j.Replay)}
}

// parseRole knows the words of all versions, of member keys and of GET /cluster.
func parseRole(word string) cluster.Role {
	switch word {
	case "primary", "master", "promoted", "leader":
		return cluster.Primary
	case "standby_leader":
		return cluster.StandbyLeader
	case "replica", "sync_standby", "quorum_standby":
		return cluster.Replica
	}
	return cluster.Unknown
}

// isStandbyCluster is Patroni's own rule.
func isStandbyCluster(section map[string]any) bool {
	for _, key := range []string{"host", "port", "restore_command"} {
		if v := section[key]; v != nil && v != "" {
			return true
		}
	}
	return false
}

// systemIdentifier is 0 while the first node still bootstraps.
func systemIdentifier(text string) postgres.SystemIdentifier {
	id, err := postgres.ParseSystemIdentifier(strings.TrimSpace(text))
	if err != nil {
		return 0
	}
	return id
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}
