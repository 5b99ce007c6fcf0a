// Package patroni sees a cluster as Patroni keeps it in etcd and shows it by its
// REST API. It is the only importer of the etcd client, and it only reads.
package patroni

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// TLS is what to trust and whom to be. Zero is the system's authorities and nobody.
type TLS struct {
	CAFile, CertFile, KeyFile string
	NoVerify                  bool // as Patroni does where its file names no authority
}

// Options say which cluster is meant and how to reach those who know it.
type Options struct {
	Scope, Namespace string
	// Endpoints are etcd's URLs. Without any, or with V2, only the REST API is asked.
	Endpoints          []string
	V2                 bool // Patroni uses etcd's v2 API, whose keys v3 does not show
	Username, Password string
	TLS                TLS
	// API is the URL of one member's REST API; it is asked where etcd's v3 API shows nothing.
	API    string
	APITLS TLS
	// Timeout bounds one question, 5 s if zero.
	Timeout time.Duration
	Log     *slog.Logger // may be nil
}

// Observer reads topologies. It is safe for concurrent use; Close it.
type Observer struct {
	o       Options
	base    string
	etcdTLS *tls.Config
	http    *http.Client
	pause   time.Duration // between attempts
	told    sync.Once

	mu     sync.Mutex
	client *clientv3.Client
}

// attempts are made while a failover is under way: the leader key and its member,
// or the key and the REST API, may disagree for a moment.
const attempts = 4

// UnconfirmedError: etcd names a leader that does not say so itself, or that has
// no member key. Nobody may be taken for the primary then.
type UnconfirmedError struct {
	Leader string
	Err    error
}

func (e *UnconfirmedError) Error() string {
	return fmt.Sprintf("the leader key names %s, which does not confirm it: %v", e.Leader, e.Err)
}

func (e *UnconfirmedError) Unwrap() error { return e.Err }

// Hint is what a person can do about it.
func (e *UnconfirmedError) Hint() string {
	return "a failover may be under way: look at patronictl list, then try again"
}

// UnreachableError: neither etcd nor the REST API answered.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint is what a person can do about it.
func (e *UnreachableError) Hint() string {
	return "check that etcd and Patroni run and that patroni.etcd.endpoints is right"
}

// New checks the options and reads the certificates. It asks nobody.
func New(o Options) (*Observer, error) {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Endpoints) == 0 && o.API == "" {
		return nil, errors.New("neither etcd endpoints nor a Patroni REST API are known")
	}
	var etcdTLS *tls.Config // stays nil for http: the client would speak TLS to any endpoint
	if slices.ContainsFunc(o.Endpoints, func(e string) bool { return strings.HasPrefix(e, "https:") }) {
		var err error
		if etcdTLS, err = o.TLS.config(); err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
	}
	apiTLS, err := o.APITLS.config()
	if err != nil {
		return nil, fmt.Errorf("patroni REST API: %w", err)
	}
	return &Observer{o: o, base: basePath(o.Namespace, o.Scope), etcdTLS: etcdTLS, pause: time.Second, http: &http.Client{
		Timeout:   o.Timeout,
		Transport: &http.Transport{TLSClientConfig: apiTLS, DisableKeepAlives: true},
		// A member that redirects us elsewhere does not speak for itself.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.NoVerify}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

var slashes = regexp.MustCompile(`/+`)

// basePath is the prefix of Patroni's keys as Patroni itself makes it: "service",
// "/service/" and "//service" are one namespace.
func basePath(namespace, scope string) string {
	if namespace == "" {
		namespace = "service"
	}
	return slashes.ReplaceAllString("/"+namespace+"/"+scope, "/")
}

// Topology reads the cluster and has its leader confirmed by the leader's own REST
// API. Without a leader, Leader is empty and that is no error: a failover or a
// pause. On an UnconfirmedError the members are as read and Leader is empty.
// Whoever acts on the leader also asks its server (not in recovery, same system
// identifier).
func (o *Observer) Topology(ctx context.Context) (cluster.Topology, error) {
	for try := 1; ; try++ {
		t, err := o.read(ctx)
		if err == nil && t.Leader != "" {
			if err = o.confirm(ctx, t); err != nil {
				err = &UnconfirmedError{t.Leader, err}
				t.Leader = ""
			}
		}
		if _, unconfirmed := errors.AsType[*UnconfirmedError](err); !unconfirmed || try == attempts {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, err
		case <-time.After(o.pause):
		}
	}
}

func (o *Observer) read(ctx context.Context) (cluster.Topology, error) {
	if len(o.o.Endpoints) > 0 && !o.o.V2 {
		pairs, revision, err := o.pairs(ctx)
		if err != nil {
			return cluster.Topology{}, &UnreachableError{fmt.Errorf("read %s from etcd: %w", o.base, err)}
		}
		if len(pairs) > 0 {
			t, err := parseTopology(o.base, pairs)
			t.Scope, t.Namespace, t.Revision, t.Seen = o.o.Scope, o.o.Namespace, revision, time.Now()
			return t, err
		}
	}
	o.told.Do(func() {
		o.o.Log.Info("etcd's v3 API shows no keys of this cluster; asking Patroni's REST API instead", "prefix", o.base+"/", "api", o.o.API)
	})
	return o.readAPI(ctx)
}

// pairs is one linearizable read of everything under the base.
func (o *Observer) pairs(ctx context.Context) ([]pair, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, o.o.Timeout)
	defer cancel()
	client, err := o.connect(ctx)
	if err != nil {
		return nil, 0, err
	}
	answer, err := client.Get(ctx, o.base+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	pairs := make([]pair, len(answer.Kvs))
	for i, kv := range answer.Kvs {
		pairs[i] = pair{string(kv.Key), kv.Value}
	}
	return pairs, answer.Header.Revision, nil
}

// connect makes the client at the first question: with a user name its making
// already talks to etcd.
func (o *Observer) connect(ctx context.Context) (*clientv3.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.client != nil {
		return o.client, nil
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: o.o.Endpoints, TLS: o.etcdTLS, Username: o.o.Username, Password: o.o.Password,
		DialTimeout: o.o.Timeout, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: o.o.Timeout,
		Logger: clientv3.NewCtxClient(ctx).GetLogger(), // of a client without configuration: it is silent
	})
	if err == nil {
		o.client = client
	}
	return client, err
}

// Close ends the connection to etcd.
func (o *Observer) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.client == nil {
		return nil
	}
	client := o.client
	o.client = nil
	return client.Close()
}
