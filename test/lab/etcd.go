package lab

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Etcd is an etcd cluster.
type Etcd struct {
	Members []*EtcdMember
	// CAFile, CertFile and KeyFile are what a client of a secured one needs.
	CAFile, CertFile, KeyFile string

	t       T
	run     *Run
	secured bool // users are asked for their passwords
}

// EtcdUser is a user of a secured etcd: its password is its name, and it may read and
// write below the prefixes.
type EtcdUser struct {
	Name        string
	Read, Write []string
}

// EtcdMember is one etcd server.
type EtcdMember struct {
	Name string
	// Endpoint is host:port of the client interface.
	Endpoint string
	// URL is the same with its scheme.
	URL string

	proc *Process
	t    T
}

// StartEtcd starts an etcd cluster of n members and waits until it has a leader.
func StartEtcd(t T, n int) *Etcd {
	t.Helper()
	return startEtcd(t, n, false)
}

// StartSecureEtcd starts an etcd cluster that wants a certificate of every client and
// the password of one of the users. Get, Put and DeletePrefix are not for it: use Ctl.
func StartSecureEtcd(t T, n int, users ...EtcdUser) *Etcd {
	t.Helper()
	e := startEtcd(t, n, true)
	e.Ctl("user", "add", "root:root")
	e.Ctl("user", "grant-role", "root", "root")
	for _, u := range users {
		e.Ctl("user", "add", u.Name+":"+u.Name)
		e.Ctl("role", "add", u.Name)
		e.Ctl("user", "grant-role", u.Name, u.Name)
		for _, p := range u.Read {
			e.Ctl("role", "grant-permission", u.Name, "read", "--prefix", p)
		}
		for _, p := range u.Write {
			e.Ctl("role", "grant-permission", u.Name, "readwrite", "--prefix", p)
		}
	}
	e.Ctl("auth", "enable")
	e.secured = true
	return e
}

func startEtcd(t T, n int, secure bool) *Etcd {
	t.Helper()
	run := RunOf(t)
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatalf("lab: etcd is not installed: run `make deps`")
	}
	group := run.next("etcd")
	e := &Etcd{t: t, run: run}
	scheme, argv := "http://", []string{program}
	if secure {
		scheme = "https://"
		dir := fmt.Sprintf("etcd%d-tls", group)
		run.Mkdir(UserInfra, 0o755, dir)
		ca := newAuthority(run, UserInfra, dir)
		var ips []net.IP
		for i := range n {
			ips = append(ips, net.ParseIP(e.host(run, group, i)))
		}
		cert, key := ca.issue("server", "lab", ips...)
		argv = append(argv, "--client-cert-auth", "--trusted-ca-file", ca.file, "--cert-file", cert, "--key-file", key)
		e.CAFile = ca.file
		e.CertFile, e.KeyFile = ca.issue("client", "somebody")
	}
	var peers []string
	for i := range n {
		name := fmt.Sprintf("etcd%d-%d", group, i+1)
		peers = append(peers, fmt.Sprintf("%s=http://%s", name, e.host(run, group, i)+":2380"))
	}
	for i := range n {
		name, host := fmt.Sprintf("etcd%d-%d", group, i+1), e.host(run, group, i)
		dir := run.Mkdir(UserInfra, 0o700, name)
		client, peer := scheme+host+":2379", "http://"+host+":2380"
		proc := run.Start(UserInfra, name, nil, append(slices.Clone(argv), "--name", name, "--data-dir", dir,
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-state", "new",
			"--initial-cluster-token", run.Dir, "--heartbeat-interval", "100", "--election-timeout", "1000", "--logger", "zap", "--log-level", "warn")...)
		e.Members = append(e.Members, &EtcdMember{Name: name, Endpoint: host + ":2379", URL: client, proc: proc, t: t})
	}
	e.Wait()
	return e
}

func (e *Etcd) host(run *Run, group, i int) string {
	return run.Prefix + strconv.Itoa(10+10*group+i+1)
}

// Endpoints are host:port of every member's client interface.
func (e *Etcd) Endpoints() []string {
	var all []string
	for _, m := range e.Members {
		all = append(all, m.Endpoint)
	}
	return all
}

// Wait waits until the cluster answers a linearizable read.
func (e *Etcd) Wait() {
	e.t.Helper()
	Poll(e.t, 30*time.Second, "etcd", func() error {
		if e.CAFile != "" {
			_, err := e.ctl("get", "health")
			return err
		}
		_, _, err := e.Get("health")
		return err
	})
}

// Ctl runs etcdctl as root, and fails the test if it does not succeed.
func (e *Etcd) Ctl(args ...string) string {
	e.t.Helper()
	out, err := e.ctl(args...)
	if err != nil {
		e.t.Fatalf("lab: etcdctl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (e *Etcd) ctl(args ...string) (string, error) {
	var urls []string
	for _, m := range e.Members {
		if m.proc.Running() {
			urls = append(urls, m.URL)
		}
	}
	env := []string{"ETCDCTL_API=3", "ETCDCTL_ENDPOINTS=" + strings.Join(urls, ",")}
	if e.CAFile != "" {
		env = append(env, "ETCDCTL_CACERT="+e.CAFile, "ETCDCTL_CERT="+e.CertFile, "ETCDCTL_KEY="+e.KeyFile)
		if e.secured { // until then there is nobody to be
			env = append(env, "ETCDCTL_USER=root:root")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	out, err := e.run.Command(ctx, UserInfra, env, append([]string{"etcdctl"}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// Get reads a key with a linearizable read from whichever member answers.
func (e *Etcd) Get(key string) (value string, found bool, err error) {
	var answer struct {
		KVs []struct{ Value []byte } `json:"kvs"`
	}
	if err := e.call("range", map[string]any{"key": encode(key)}, &answer); err != nil {
		return "", false, err
	}
	if len(answer.KVs) == 0 {
		return "", false, nil
	}
	return string(answer.KVs[0].Value), true, nil
}

// Put writes a key.
func (e *Etcd) Put(key, value string) error {
	return e.call("put", map[string]any{"key": encode(key), "value": encode(value)}, nil)
}

// DeletePrefix deletes every key that begins with prefix.
func (e *Etcd) DeletePrefix(prefix string) error {
	end := []byte(prefix)
	end[len(end)-1]++
	return e.call("deleterange", map[string]any{"key": encode(prefix), "range_end": encode(string(end))}, nil)
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (e *Etcd) call(what string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	for _, m := range e.Members {
		if !m.proc.Running() {
			continue
		}
		var out []byte
		if out, err = request(http.MethodPost, "http://"+m.Endpoint+"/v3/kv/"+what, b, 3*time.Second); err != nil {
			continue
		}
		if answer == nil {
			return nil
		}
		return json.Unmarshal(out, answer)
	}
	if err == nil {
		err = fmt.Errorf("no etcd member is running")
	}
	return err
}

// request does one HTTP request and takes anything but 2xx for an error.
func request(method, url string, body []byte, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, bytes.TrimSpace(b))
	}
	return b, err
}

// Kill9 kills the member.
func (m *EtcdMember) Kill9() { m.proc.Kill9() }

// Stop stops the member.
func (m *EtcdMember) Stop() {
	m.t.Helper()
	if err := m.proc.Stop(syscall.SIGTERM, 15*time.Second); err != nil {
		m.t.Logf("lab: %v", err)
	}
}

// Process is the member's server.
func (m *EtcdMember) Process() *Process { return m.proc }

// Start starts a stopped or killed member again.
func (m *EtcdMember) Start() {
	m.t.Helper()
	if err := m.proc.Restart(); err != nil {
		m.t.Fatalf("lab: %v", err)
	}
}
