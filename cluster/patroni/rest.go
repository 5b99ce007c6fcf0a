package patroni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 1 << 20

// leads asks a member itself: a leader answers 200 only while it holds the lock, by
// its own clock.
func (o *Observer) leads(ctx context.Context, t cluster.Topology, m cluster.Member) error {
	question := "/primary"
	if t.StandbyCluster {
		question = "/standby-leader"
	}
	return o.ask(ctx, m.APIURL, question, nil)
}

// withoutEtcd is what was last known, led by the one member that says that it
// leads: in failsafe mode a leader goes on without etcd.
func (o *Observer) withoutEtcd(ctx context.Context) cluster.Topology {
	t := o.lastKnown()
	t.Leader, t.Term, t.Members = "", 0, slices.Clone(t.Members)
	led := make([]bool, len(t.Members))
	var asking sync.WaitGroup
	for i, m := range t.Members {
		asking.Go(func() { led[i] = o.leads(ctx, t, m) == nil })
	}
	asking.Wait()
	if i := slices.Index(led, true); i >= 0 && !slices.Contains(led[i+1:], true) {
		t.Leader = t.Members[i].Name
	}
	settleRoles(&t)
	return t
}

// clusterJSON is the answer of GET /cluster.
type clusterJSON struct {
	Members []struct {
		Name string `json:"name"`
		Host string `json:"host"`
		Port int    `json:"port"`
		Lag  any    `json:"lag"` // bytes, or "unknown"
		memberJSON
	} `json:"members"`
	Pause any `json:"pause"`
}

// statusJSON is what we use of GET /patroni.
type statusJSON struct {
	System  string `json:"database_system_identifier"`
	Patroni struct {
		Version string `json:"version"`
		Scope   string `json:"scope"`
	} `json:"patroni"`
	XLog struct {
		Location number `json:"location"`
	} `json:"xlog"`
}

// readAPI builds the topology from the first member's REST API that answers: the
// configured one, or another that was seen before.
func (o *Observer) readAPI(ctx context.Context) (cluster.Topology, error) {
	apis := []string{o.o.API}
	for _, m := range o.lastKnown().Members {
		apis = append(apis, m.APIURL)
	}
	apis = slices.DeleteFunc(apis, func(api string) bool { return api == "" })
	if len(apis) == 0 {
		return cluster.Topology{}, &UnreachableError{fmt.Errorf("etcd holds nothing below %s/, and no address of a Patroni REST API is known", o.base)}
	}
	var failed []error
	for _, api := range apis {
		t, err := o.readMember(ctx, api)
		if _, unreachable := errors.AsType[*UnreachableError](err); !unreachable {
			return t, err
		}
		failed = append(failed, err)
	}
	return cluster.Topology{}, &UnreachableError{errors.Join(failed...)}
}

func (o *Observer) readMember(ctx context.Context, api string) (cluster.Topology, error) {
	t := cluster.Topology{Scope: o.o.Scope}
	var all clusterJSON
	var own, leader statusJSON
	var config dynamicConfig
	if err := errors.Join(o.ask(ctx, api, "/cluster", &all), o.ask(ctx, api, "/patroni", &own)); err != nil {
		return t, &UnreachableError{err}
	}
	if s := own.Patroni.Scope; s != "" && s != o.o.Scope {
		return t, fmt.Errorf("%s belongs to cluster %s, not to %s", api, s, o.o.Scope)
	}
	// What neither of these says costs us preferences, not the topology.
	_ = o.ask(ctx, api, "/config", &config)
	config.apply(&t)
	for _, m := range all.Members {
		if role := parseRole(m.Role); role == cluster.Primary || role == cluster.StandbyLeader {
			_ = o.ask(ctx, m.APIURL, "/patroni", &leader)
			t.Position = postgres.LSN(leader.XLog.Location)
		}
	}
	return topologyOfAPI(t, all, own), nil
}

// topologyOfAPI completes t, whose Position is the leader's.
func topologyOfAPI(t cluster.Topology, all clusterJSON, own statusJSON) cluster.Topology {
	t.SystemIdentifier, t.Paused = systemIdentifier(own.System), cluster.True(all.Pause)
	for _, m := range all.Members {
		member := m.member(m.Name)
		if member.ConnURL == "" && m.Host != "" {
			member.ConnURL = fmt.Sprintf("postgres://%s:%d/postgres", m.Host, m.Port)
		}
		if member.Version == "" {
			member.Version = own.Patroni.Version
		}
		if s := member.State; s == "streaming" || s == "in archive recovery" { // Patroni 3.0.4 shows the one for the other
			member.State, member.ReplicationState = "running", s
		}
		if lag, known := m.Lag.(float64); known && t.Position > 0 {
			member.LSN = t.Position - min(t.Position, postgres.LSN(lag))
		}
		switch {
		case member.Role == cluster.Primary || member.Role == cluster.StandbyLeader:
			t.Leader, t.StandbyCluster, member.LSN = m.Name, member.Role == cluster.StandbyLeader, t.Position
		case m.Role == "sync_standby" || m.Role == "quorum_standby":
			t.Synchronous = append(t.Synchronous, m.Name)
		}
		t.Members = append(t.Members, member)
	}
	slices.SortFunc(t.Members, func(a, b cluster.Member) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(t.Synchronous)
	settleRoles(&t)
	return t
}

// ask puts one question of the API that an URL such as http://host:8008/patroni
// belongs to, and decodes the answer into v unless that is nil.
func (o *Observer) ask(ctx context.Context, api, question string, v any) error {
	return o.call(ctx, http.MethodGet, api, question, nil, v)
}

// statusError is an answer other than 200.
type statusError struct {
	request string
	status  string
	code    int
}

func (e *statusError) Error() string { return e.request + ": " + e.status }

// Hint is what a person can do about it.
func (e *statusError) Hint() string {
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "set patroni.api.username and password, as in restapi.authentication of patroni.yml; or restapi.allowlist does not name this host"
	}
	return ""
}

// call makes one request. Only what changes something carries the password.
func (o *Observer) call(ctx context.Context, method, api, path string, body []byte, v any) error {
	u, err := url.Parse(api)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("REST API %q is not an address", api)
	}
	u.Path, u.RawQuery, u.Fragment, u.User = path, "", "", nil
	request, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	if method != http.MethodGet && o.o.APIUsername != "" {
		request.SetBasicAuth(o.o.APIUsername, o.o.APIPassword)
	}
	answer, err := o.http.Do(request)
	if err != nil {
		return err // names the address
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return &statusError{method + " " + u.String(), answer.Status, answer.StatusCode}
	}
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("%s %s: %w", method, u, err)
	}
	return nil
}
