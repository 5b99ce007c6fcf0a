package patroni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// pair is one key of etcd.
type pair struct {
	key   string
	value []byte
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

type dynamicConfig struct {
	Pause          bool           `json:"pause"`
	StandbyCluster map[string]any `json:"standby_cluster"`
}

// parseTopology reads Patroni's keys below base. The leader key alone says who
// leads: two members may call themselves primary for as long as a lease lives, and
// in a pause for as long as the operator likes.
func parseTopology(base string, pairs []pair) (cluster.Topology, error) {
	var t cluster.Topology
	var config dynamicConfig
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
			t.Leader = strings.TrimSpace(string(p.value))
		case name == "initialize":
			t.SystemIdentifier = systemIdentifier(string(p.value))
		case name == "config":
			if err := json.Unmarshal(p.value, &config); err != nil {
				return t, fmt.Errorf("%s: %w", p.key, err)
			}
		case head == "members" && rest != "" && !strings.Contains(rest, "/"):
			t.Members = append(t.Members, parseMember(rest, p.value))
		}
	}
	t.Paused = config.Pause
	slices.SortFunc(t.Members, func(a, b cluster.Member) int { return strings.Compare(a.Name, b.Name) })
	leads := cluster.Primary
	if isStandbyCluster(config.StandbyCluster) {
		leads = cluster.StandbyLeader
	}
	settleRoles(&t, leads)
	if t.Leader != "" {
		if _, ok := t.Member(t.Leader); !ok {
			err := &UnconfirmedError{t.Leader, errors.New("it has no member key")}
			t.Leader = ""
			return t, err
		}
	}
	return t, nil
}

// settleRoles gives the leader its role and takes it from whoever else claims it.
func settleRoles(t *cluster.Topology, leads cluster.Role) {
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
		Version: j.Version, Tags: j.Tags, ReplicationState: j.ReplicationState,
		Timeline: postgres.TimelineID(min(j.Timeline, math.MaxUint32)), LSN: postgres.LSN(j.Location)}
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
