package patroni

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
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
	// APIUsername and APIPassword go with what changes something.
	APIUsername, APIPassword string
	// Timeout bounds one question, 5 s if zero.
	Timeout time.Duration
	// Lease is how long claims and memberships outlive a dead daemon, 20 s if zero; whole seconds.
	Lease time.Duration
	Log   *slog.Logger // may be nil
}

func (o *Options) settle() {
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Lease = cmp.Or(o.Lease, 20*time.Second)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
}

// etcd is a client that is made at its first question.
type etcd struct {
	o   Options
	tls *tls.Config

	mu     sync.Mutex
	client *clientv3.Client
}

func newEtcd(o Options) (*etcd, error) {
	e := &etcd{o: o} // without TLS for http: the client would speak it to any endpoint
	if !slices.ContainsFunc(o.Endpoints, func(e string) bool { return strings.HasPrefix(e, "https:") }) {
		return e, nil
	}
	var err error
	if e.tls, err = o.TLS.config(); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return e, nil
}

// ask puts one question within the time for one.
func ask[T any](parent context.Context, e *etcd, question func(context.Context, *clientv3.Client) (T, error)) (answer T, err error) {
	ctx, cancel := context.WithTimeout(parent, e.o.Timeout)
	defer cancel()
	client, err := e.connect(ctx)
	if err != nil {
		return answer, err
	}
	if answer, err = question(ctx, client); err != nil && ctx.Err() != nil && parent.Err() == nil {
		e.drop(client)
	}
	return answer, err
}

// drop gives up a client that got no answer. One with a token that its etcd has
// forgotten, as it does when it starts again, asks for a new token with the old one
// and is refused for ever (etcd before 3.5); one whose etcd was long away waits up
// to two minutes before it tries again. A new one does neither.
func (e *etcd) drop(client *clientv3.Client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client == client {
		e.client = nil
		time.AfterFunc(e.o.Timeout, func() { _ = client.Close() }) // when other questions to it have ended
	}
}

// get is a linearizable read.
func (e *etcd) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return ask(ctx, e, func(ctx context.Context, client *clientv3.Client) (*clientv3.GetResponse, error) {
		return client.Get(ctx, key, options...)
	})
}

// connect waits for the first use because with a user name the making of a client
// already talks to etcd.
func (e *etcd) connect(ctx context.Context) (*clientv3.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: e.o.Endpoints, TLS: e.tls, Username: e.o.Username, Password: e.o.Password,
		DialTimeout: e.o.Timeout, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: e.o.Timeout,
		Logger: clientv3.NewCtxClient(ctx).GetLogger(), // of a client without configuration: it is silent
	})
	if err == nil {
		e.client = client
	}
	return client, err
}

// Close ends the connection to etcd.
func (e *etcd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client == nil {
		return nil
	}
	client := e.client
	e.client = nil
	return client.Close()
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
	return slashes.ReplaceAllString("/"+cmp.Or(namespace, "service")+"/"+scope, "/")
}
