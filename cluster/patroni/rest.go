package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 1 << 20

// confirm asks the leader itself: it answers 200 only while it holds the lock, by
// its own clock.
func (o *Observer) confirm(ctx context.Context, t cluster.Topology) error {
	leader, _ := t.Member(t.Leader)
	question := "/primary"
	if leader.Role == cluster.StandbyLeader {
		question = "/standby-leader"
	}
	return o.get(ctx, leader.APIURL, question, nil)
}

// clusterJSON is the answer of GET /cluster.
type clusterJSON struct {
	Members []struct {
		Name string `json:"name"`
		Host string `json:"host"`
		Port int    `json:"port"`
		memberJSON
	} `json:"members"`
	Pause bool `json:"pause"`
}

// statusJSON is what we use of GET /patroni.
type statusJSON struct {
	System  string `json:"database_system_identifier"`
	Patroni struct {
		Scope string `json:"scope"`
	} `json:"patroni"`
}

// readAPI builds the topology from one member's REST API.
func (o *Observer) readAPI(ctx context.Context) (cluster.Topology, error) {
	t := cluster.Topology{Scope: o.o.Scope, Namespace: o.o.Namespace, Seen: time.Now()}
	if o.o.API == "" {
		return t, &UnreachableError{fmt.Errorf("etcd holds nothing below %s/, and no address of a Patroni REST API is known", o.base)}
	}
	var all clusterJSON
	var own statusJSON
	if err := errors.Join(o.get(ctx, o.o.API, "/cluster", &all), o.get(ctx, o.o.API, "/patroni", &own)); err != nil {
		return t, &UnreachableError{err}
	}
	if s := own.Patroni.Scope; s != "" && s != o.o.Scope {
		return t, fmt.Errorf("%s belongs to cluster %s, not to %s", o.o.API, s, o.o.Scope)
	}
	return topologyOfAPI(t, all, own), nil
}

func topologyOfAPI(t cluster.Topology, all clusterJSON, own statusJSON) cluster.Topology {
	t.SystemIdentifier, t.Paused = systemIdentifier(own.System), all.Pause
	leads := cluster.Primary
	for _, m := range all.Members {
		member := m.member(m.Name)
		if member.ConnURL == "" && m.Host != "" {
			member.ConnURL = fmt.Sprintf("postgres://%s:%d/postgres", m.Host, m.Port)
		}
		if member.Role == cluster.Primary || member.Role == cluster.StandbyLeader {
			t.Leader, leads = m.Name, member.Role
		}
		t.Members = append(t.Members, member)
	}
	slices.SortFunc(t.Members, func(a, b cluster.Member) int { return strings.Compare(a.Name, b.Name) })
	settleRoles(&t, leads)
	return t
}

// get asks one question of the API that an URL such as http://host:8008/patroni
// belongs to, and decodes the answer into v unless that is nil.
func (o *Observer) get(ctx context.Context, api, question string, v any) error {
	u, err := url.Parse(api)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("REST API %q is not an address", api)
	}
	u.Path, u.RawQuery, u.Fragment, u.User = question, "", "", nil
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	answer, err := o.http.Do(request)
	if err != nil {
		return err // names the address
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", u, answer.Status)
	}
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("GET %s: %w", u, err)
	}
	return nil
}
