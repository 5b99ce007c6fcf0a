package patroni

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrClaimLost is the cause of the end of a Claim's context when the claim was lost:
// its lease ran out, or its key was removed.
var ErrClaimLost = errors.New("the claim in etcd was lost")

// Claim is a key that is held under a lease of its own. Release it.
type Claim struct {
	c     *Coordination
	key   string
	lease clientv3.LeaseID
	ctx   context.Context
	end   context.CancelCauseFunc
	over  chan struct{} // closed when the lease was given back
}

// Context ends when the claim is no longer held, and with the context that it was
// made under.
func (k *Claim) Context() context.Context { return k.ctx }

// Release gives the claim back, and waits for etcd's answer at most the time for one
// question. It may be called again.
func (k *Claim) Release() {
	k.end(context.Canceled)
	<-k.over
}

// hold writes key under a new lease and keeps it, unless the conditions fail.
func (c *Coordination) hold(ctx context.Context, key, value string, conditions ...clientv3.Cmp) (*Claim, error) {
	asked := time.Now()
	k := &Claim{c: c, key: c.base + "/" + key, over: make(chan struct{})}
	granted, err := ask(ctx, c.etcd, func(ctx context.Context, client *clientv3.Client) (*clientv3.LeaseGrantResponse, error) {
		return client.Grant(ctx, int64(c.o.Lease/time.Second))
	})
	if err != nil {
		return nil, &UnreachableError{fmt.Errorf("ask etcd for a lease for %s: %w", k.key, err)}
	}
	k.lease = granted.ID
	answer, err := ask(ctx, c.etcd, func(ctx context.Context, client *clientv3.Client) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).If(conditions...).
			Then(clientv3.OpPut(k.key, value, clientv3.WithLease(k.lease))).
			Else(clientv3.OpGet(k.key)).Commit()
	})
	switch {
	case err != nil:
		err = &UnreachableError{fmt.Errorf("write %s to etcd: %w", k.key, err)}
	case !answer.Succeeded:
		err = &ClaimedError{key, string(answer.Responses[0].GetResponseRange().Kvs[0].Value)}
	default:
		k.ctx, k.end = context.WithCancelCause(ctx)
		go k.keep(asked)
		return k, nil
	}
	k.revoke(ctx)
	return nil, err
}

// keep renews the lease until the claim ends. The lease counts from the moment
// before the question that got it: etcd cannot end it before we do.
func (k *Claim) keep(renewed time.Time) {
	defer close(k.over)
	defer k.revoke(k.ctx)
	lease := k.c.o.Lease
	tick := time.NewTicker(lease / 20)
	defer tick.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-tick.C:
		}
		// After a pause of this process the first thing to run may be this.
		if elapsed(renewed) < lease/3 {
			continue
		}
		now := time.Now()
		held, kept := k.renew(renewed.Add(lease))
		if kept {
			renewed = now
		}
		if !held || elapsed(renewed) >= lease {
			k.end(ErrClaimLost)
			return
		}
	}
}

// elapsed is the time since then by whichever clock shows more: the monotonic one
// stands still while the machine sleeps.
func elapsed(then time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// renew keeps the lease alive. The key is no longer held where it is seen to be gone
// or to be another's.
func (k *Claim) renew(until time.Time) (held, kept bool) {
	ctx, cancel := context.WithDeadline(k.ctx, until)
	defer cancel()
	_, err := ask(ctx, k.c.etcd, func(ctx context.Context, client *clientv3.Client) (*clientv3.LeaseKeepAliveResponse, error) {
		return client.KeepAliveOnce(clientv3.WithRequireLeader(ctx), k.lease)
	})
	seen, unseen := k.c.get(ctx, k.key)
	held = unseen != nil || len(seen.Kvs) > 0 && seen.Kvs[0].Lease == int64(k.lease)
	return held, err == nil
}

// put changes what the key says.
func (k *Claim) put(value string) error {
	_, err := ask(k.ctx, k.c.etcd, func(ctx context.Context, client *clientv3.Client) (*clientv3.PutResponse, error) {
		return client.Put(ctx, k.key, value, clientv3.WithLease(k.lease))
	})
	return err
}

// revoke ends the lease and with it removes the key, also after ctx has ended. What
// fails here the lease's own end will do.
func (k *Claim) revoke(ctx context.Context) {
	_, _ = ask(context.WithoutCancel(ctx), k.c.etcd, func(ctx context.Context, client *clientv3.Client) (*clientv3.LeaseRevokeResponse, error) {
		return client.Revoke(ctx, k.lease)
	})
}
