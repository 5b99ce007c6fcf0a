// Package patroni sees a cluster as Patroni keeps it in etcd and shows it by its
// REST API, and keeps our own corner of etcd. It is the only importer of the etcd
// client. Patroni's keys it only reads; what it writes lies below /pgha-backup/. Patroni's
// configuration is changed by its REST API alone.
package patroni

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// Observer reads topologies. It is safe for concurrent use; Close it.
type Observer struct {
	*etcd
	base  string
	http  *http.Client
	pause time.Duration // between attempts
	grace time.Duration // in which a failover is no news yet
	told  sync.Once
	blind atomic.Bool // etcd's v3 API has shown no keys

	known struct {
		sync.Mutex
		cluster.Topology // the last one read, for when etcd or the configured member is away
	}
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
	o.settle()
	if len(o.Endpoints) == 0 && o.API == "" {
		return nil, errors.New("neither etcd endpoints nor a Patroni REST API are known")
	}
	e, err := newEtcd(o)
	if err != nil {
		return nil, err
	}
	apiTLS, err := o.APITLS.config()
	if err != nil {
		return nil, fmt.Errorf("patroni REST API: %w", err)
	}
	return &Observer{etcd: e, base: basePath(o.Namespace, o.Scope), pause: time.Second, grace: 3 * time.Second, http: &http.Client{
		Timeout:   o.Timeout,
		Transport: &http.Transport{TLSClientConfig: apiTLS, DisableKeepAlives: true},
		// A member that redirects us elsewhere does not speak for itself.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Topology reads the cluster and has its leader confirmed by the leader's own REST
// API. Without a leader, Leader is empty and that is no error: a failover or a
// pause. On an UnconfirmedError the members are as read and Leader is empty; on an
// UnreachableError all is as last read, and Leader is the member that says so
// itself, if one does. Whoever acts on the leader also asks its server (not in
// recovery, same system identifier).
func (o *Observer) Topology(ctx context.Context) (cluster.Topology, error) {
	for try := 1; ; try++ {
		t, err := o.look(ctx, nil)
		if _, unconfirmed := errors.AsType[*UnconfirmedError](err); !unconfirmed || try == attempts || !wait(ctx, o.pause) {
			return t, err
		}
	}
}

// wait tells whether all of d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// term is a leader's hold on the leader key.
type term struct {
	leader string
	began  int64
}

// look reads once. A leader of the confirmed term is not asked again; whoever
// confirms becomes it.
func (o *Observer) look(ctx context.Context, confirmed *term) (cluster.Topology, error) {
	t, err := o.read(ctx)
	if _, unreachable := errors.AsType[*UnreachableError](err); unreachable {
		return o.withoutEtcd(ctx), err
	}
	if len(t.Members) > 0 {
		o.known.Lock()
		o.known.Topology = t
		o.known.Unlock()
	}
	now := term{t.Leader, t.Term}
	if err != nil || t.Leader == "" || confirmed != nil && t.Term > 0 && *confirmed == now {
		return t, err
	}
	leader, _ := t.Member(t.Leader)
	if err := o.leads(ctx, t, leader); err != nil {
		t.Leader = ""
		return t, &UnconfirmedError{now.leader, err}
	}
	if confirmed != nil {
		*confirmed = now
	}
	return t, nil
}

func (o *Observer) lastKnown() cluster.Topology {
	o.known.Lock()
	defer o.known.Unlock()
	return o.known.Topology
}

func (o *Observer) read(ctx context.Context) (cluster.Topology, error) {
	if len(o.o.Endpoints) > 0 && !o.o.V2 {
		answer, err := o.get(ctx, o.base+"/", clientv3.WithPrefix())
		switch {
		case err != nil && !o.blind.Load():
			return cluster.Topology{}, &UnreachableError{fmt.Errorf("read %s from etcd: %w", o.base, err)}
		case err == nil && len(answer.Kvs) > 0:
			o.blind.Store(false)
			pairs := make([]pair, len(answer.Kvs))
			for i, kv := range answer.Kvs {
				pairs[i] = pair{string(kv.Key), kv.Value, kv.CreateRevision}
			}
			t, err := parseTopology(o.base, pairs)
			t.Scope, t.Revision = o.o.Scope, answer.Header.Revision
			return t, err
		}
	}
	o.told.Do(func() {
		o.o.Log.Info("etcd's v3 API shows no keys of this cluster; asking Patroni's REST API instead", "prefix", o.base+"/", "api", o.o.API)
	})
	t, err := o.readAPI(ctx)
	o.blind.Store(err == nil)
	return t, err
}
