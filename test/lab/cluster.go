package lab

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// ClusterOptions says what Patroni cluster to start.
type ClusterOptions struct {
	// Members is how many; 3 when zero, which is also the most.
	Members int
	// Major is PostgreSQL's major version; 15 when zero.
	Major int
	// Etcd is how many etcd members; 3 when zero.
	Etcd    int
	HAProxy bool
	// SynchronousMode turns Patroni's synchronous_mode on.
	SynchronousMode bool
	// Parameters are PostgreSQL parameters in the dynamic configuration.
	Parameters map[string]string
	// ArchiveCommand and RestoreCommand may name {member} and {home}. Then they go into each member's own
	// patroni.yml, else into the dynamic configuration. /bin/true and none when empty.
	ArchiveCommand, RestoreCommand string
	// Scope and Namespace; "lab" and "/service/" when empty.
	Scope, Namespace string
	// Extra is merged over each member's patroni.yml; it may name {member} and {home} too.
	Extra map[string]any
	// Prepare is called for each member before anything of it starts, when its paths and addresses are known.
	Prepare func(*Member)
}

// Cluster is a Patroni cluster with its etcd and, if asked for, its HAProxy.
type Cluster struct {
	Scope, Namespace string
	Major            int
	Etcd             *Etcd
	Members          []*Member

	t     T
	run   *Run
	proxy *Process
	vip   string
}

// Member is one node: a Patroni and its PostgreSQL.
type Member struct {
	Name string
	// User owns the data directory and runs Patroni and PostgreSQL.
	User string
	// Home holds everything of the member.
	Home string
	// ConfigFile is its patroni.yml, which only User can read.
	ConfigFile string
	DataDir    string
	BinDir     string
	SocketDir  string
	Host       string
	Port       int
	// API is the URL of Patroni's REST interface.
	API string
	// Log holds what Patroni and PostgreSQL print.
	Log string

	t    T
	run  *Run
	proc *Process
}

// StartCluster starts etcd, Patroni and HAProxy and waits until every member is healthy.
func StartCluster(t T, o ClusterOptions) *Cluster {
	t.Helper()
	run := RunOf(t)
	c := &Cluster{Scope: or(o.Scope, "lab"), Namespace: or(o.Namespace, "/service/"), Major: or(o.Major, 15), t: t, run: run}
	program, env := patroniOf(t, c.Major)
	users := []string{User1, User2, User3}
	n := or(o.Members, len(users))
	if n > len(users) {
		t.Fatalf("lab: a cluster has at most %d members", len(users))
	}
	c.Etcd = StartEtcd(t, or(o.Etcd, 3))
	group := run.next("cluster")
	for i := range n {
		m := &Member{
			Name: fmt.Sprintf("n%d", i+1), User: users[i], BinDir: BinDir(t, c.Major), t: t, run: run,
			Host: run.Prefix + strconv.Itoa(100+10*group+i+1), Port: 5432,
		}
		name := fmt.Sprintf("%s-%s", c.Scope, m.Name)
		m.Home = run.Mkdir(m.User, 0o755, name)
		m.DataDir, m.SocketDir = filepath.Join(m.Home, "data"), run.Mkdir(m.User, 0o755, name, "socket")
		m.API, m.Log = "http://"+m.Host+":8008", run.Path(name+".log")
		m.ConfigFile = filepath.Join(m.Home, "patroni.yml")
		c.Members = append(c.Members, m)
	}
	for _, m := range c.Members {
		run.WriteFile(m.User, 0o600, c.patroniYAML(m, o), filepath.Base(m.Home), "patroni.yml")
		if o.Prepare != nil {
			o.Prepare(m)
		}
	}
	for _, m := range c.Members {
		m.proc = run.Start(m.User, filepath.Base(m.Home), append(env, "HOME="+m.Home), "/usr/bin/python3", program, m.ConfigFile)
	}
	if o.HAProxy {
		c.startProxy(group)
	}
	c.WaitHealthy(90 * time.Second)
	return c
}

// patroniOf finds Patroni for a major version: the host's, or the one beside the prefix's PostgreSQL,
// which runs on the host's Python.
func patroniOf(t T, major int) (program string, env []string) {
	t.Helper()
	if major != 15 {
		return filepath.Join(prefix(major), "usr/bin/patroni"),
			[]string{"PYTHONPATH=" + filepath.Join(prefix(major), "usr/lib/python3/dist-packages")}
	}
	program, err := exec.LookPath("patroni")
	if err != nil {
		t.Fatalf("lab: patroni is not installed: run `make deps`")
	}
	return program, nil
}

// Member finds a member by name.
func (c *Cluster) Member(name string) *Member {
	c.t.Helper()
	for _, m := range c.Members {
		if m.Name == name {
			return m
		}
	}
	c.t.Fatalf("lab: no member %q", name)
	return nil
}

// PrimaryDSN connects through HAProxy to whoever leads.
func (c *Cluster) PrimaryDSN() string { return dsn(c.vip, 5000, "postgres", Password) }

// ReplicaDSN connects through HAProxy to some replica.
func (c *Cluster) ReplicaDSN() string { return dsn(c.vip, 5001, "postgres", Password) }

// DSN connects to the member over TCP as the superuser.
func (m *Member) DSN() string { return dsn(m.Host, m.Port, "postgres", Password) }

// Run is the run the member belongs to.
func (m *Member) Run() *Run { return m.run }

// Process is the member's Patroni.
func (m *Member) Process() *Process { return m.proc }
