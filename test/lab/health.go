package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Status is what a member's REST interface says of itself.
type Status struct {
	State    string `json:"state"`
	Role     string `json:"role"`
	Timeline int    `json:"timeline"`
	Paused   bool   `json:"pause"`
	Standbys []struct {
		Name  string `json:"application_name"`
		State string `json:"state"`
	} `json:"replication"`
	SystemIdentifier string `json:"database_system_identifier"`
}

// Status asks the member's REST interface.
func (m *Member) Status() (Status, error) {
	var s Status
	b, err := request(http.MethodGet, m.API+"/patroni", nil, 3*time.Second)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// Key is the path of one of the cluster's keys in etcd.
func (c *Cluster) Key(name string) string { return path.Join("/", c.Namespace, c.Scope, name) }

// Leader is the member that holds the leader key and says that it leads; it waits for one.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	Poll(c.t, 60*time.Second, "a leader", func() (err error) {
		leader, err = c.leader()
		return err
	})
	return leader
}

func (c *Cluster) leader() (*Member, error) {
	name, found, err := c.Etcd.Get(c.Key("leader"))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New("no leader key")
	}
	m := c.Member(name)
	_, err = request(http.MethodGet, m.API+"/primary", nil, 3*time.Second)
	return m, err
}

// Replicas are the running members that do not lead.
func (c *Cluster) Replicas() []*Member {
	c.t.Helper()
	leader := c.Leader()
	var all []*Member
	for _, m := range c.Members {
		if m != leader && m.proc.Running() {
			all = append(all, m)
		}
	}
	return all
}

// WaitHealthy waits until there is a leader, every member whose Patroni runs follows it on its timeline
// and streams, and HAProxy passes to the leader.
func (c *Cluster) WaitHealthy(limit time.Duration) {
	c.t.Helper()
	Poll(c.t, limit, "a healthy cluster", c.healthy)
}

func (c *Cluster) healthy() error {
	leader, err := c.leader()
	if err != nil {
		return err
	}
	of, err := leader.Status()
	if err != nil {
		return err
	}
	streaming := map[string]bool{}
	for _, s := range of.Standbys {
		streaming[s.Name] = s.State == "streaming"
	}
	for _, m := range c.Members {
		if m == leader || !m.proc.Running() {
			continue
		}
		s, err := m.Status()
		if err != nil {
			return err
		}
		if s.State != "running" && s.State != "streaming" || s.Timeline != of.Timeline || !streaming[m.Name] {
			return fmt.Errorf("%s is %s on timeline %d, streaming %t; %s leads on %d", m.Name, s.State, s.Timeline, streaming[m.Name], leader.Name, of.Timeline)
		}
	}
	if c.proxy == nil {
		return nil
	}
	return c.proxied(leader)
}

func (c *Cluster) proxied(leader *Member) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.PrimaryDSN())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var at string
	if err := conn.QueryRow(ctx, "select host(inet_server_addr())").Scan(&at); err != nil {
		return err
	}
	if at != leader.Host {
		return fmt.Errorf("HAProxy passes to %s, %s leads at %s", at, leader.Name, leader.Host)
	}
	return nil
}

// Switchover hands leadership to a replica, to any when candidate is nil, and waits until all is healthy.
func (c *Cluster) Switchover(candidate *Member) *Member {
	c.t.Helper()
	old := c.Leader()
	body := map[string]string{"leader": old.Name}
	if candidate == nil {
		candidate = c.Replicas()[0]
	}
	body["candidate"] = candidate.Name
	b, _ := json.Marshal(body)
	Poll(c.t, 30*time.Second, "the switchover to be taken", func() error {
		_, err := request(http.MethodPost, old.API+"/switchover", b, 60*time.Second)
		return err
	})
	Poll(c.t, 60*time.Second, "the candidate to lead", func() error {
		if now, err := c.leader(); err != nil || now != candidate {
			return fmt.Errorf("leader is not %s: %w", candidate.Name, err)
		}
		return nil
	})
	c.WaitHealthy(60 * time.Second)
	return candidate
}

// Failover kills Patroni and PostgreSQL of the leader with SIGKILL and waits until another member leads
// and the rest is healthy. It returns the dead and the new leader; Start brings the dead one back.
func (c *Cluster) Failover() (dead, leader *Member) {
	c.t.Helper()
	dead = c.Leader()
	dead.Kill9()
	return dead, c.WaitNewLeader(dead)
}

// WaitNewLeader waits until somebody other than old leads and the cluster is healthy.
func (c *Cluster) WaitNewLeader(old *Member) *Member {
	c.t.Helper()
	var leader *Member
	Poll(c.t, 90*time.Second, "another leader", func() (err error) {
		if leader, err = c.leader(); err == nil && leader == old {
			err = fmt.Errorf("%s still leads", old.Name)
		}
		return err
	})
	c.WaitHealthy(60 * time.Second)
	return leader
}

// PatchConfig changes the dynamic configuration; body is JSON as Patroni's PATCH /config takes it.
func (c *Cluster) PatchConfig(body string) {
	c.t.Helper()
	if _, err := request(http.MethodPatch, c.Leader().API+"/config", []byte(body), 10*time.Second); err != nil {
		c.t.Fatalf("lab: %v", err)
	}
}

// Post calls a member's REST interface: "restart", "reinitialize", "reload".
func (m *Member) Post(what, body string) error {
	_, err := request(http.MethodPost, m.API+"/"+what, []byte(body), 60*time.Second)
	return err
}

// Kill9 kills the member's Patroni and PostgreSQL with SIGKILL.
func (m *Member) Kill9() {
	m.t.Helper()
	if err := m.run.killAll(m.Home, 10*time.Second); err != nil {
		m.t.Fatalf("lab: %v", err)
	}
	<-m.proc.life()
}

// Stop ends Patroni, which stops its PostgreSQL and hands leadership over.
func (m *Member) Stop() {
	m.t.Helper()
	if err := m.proc.Stop(syscall.SIGTERM, 90*time.Second); err != nil {
		m.t.Fatalf("lab: %v", err)
	}
}

// Start starts Patroni again.
func (m *Member) Start() {
	m.t.Helper()
	if err := m.proc.Restart(); err != nil {
		m.t.Fatalf("lab: %v", err)
	}
}

// Exec runs statements on the member as the superuser.
func (m *Member) Exec(sql string, args ...any) {
	m.t.Helper()
	Exec(m.t, m.DSN(), sql, args...)
}

// QueryRow runs a query of one row on the member.
func (m *Member) QueryRow(sql string, dest ...any) {
	m.t.Helper()
	QueryRow(m.t, m.DSN(), sql, dest...)
}
