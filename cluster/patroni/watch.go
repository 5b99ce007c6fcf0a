package patroni

import (
	"context"
	"errors"
	"reflect"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// Watch calls each with every change of the topology and with every new failure,
// until ctx ends; calls do not overlap. What comes with a failure is as Topology
// says. The same leader with another term is a change; a leader that is replaced
// within seconds is one change, not two.
func (o *Observer) Watch(ctx context.Context, each func(cluster.Topology, error)) {
	w := watcher{Observer: o, each: each, pause: o.pause}
	for again := o.pause; ctx.Err() == nil; {
		t, _ := w.see(ctx)
		if t.Revision == 0 {
			wait(ctx, w.pause)
			continue
		}
		began := time.Now()
		w.follow(ctx, t)
		if again = min(2*again, longestRound); time.Since(began) > longestRound {
			again = o.pause
		}
		wait(ctx, again)
	}
}

// watcher is one Watch.
type watcher struct {
	*Observer
	each      func(cluster.Topology, error)
	confirmed term
	troubled  time.Time // since when nobody leads or nobody answers; zero while all is well

	began bool // something was told
	told  cluster.Topology
	fault string
	pause time.Duration // before the next look, when there is no event to wait for
}

// The bounds of a pause. No event tells of a lease that is kept alive, nor of an
// etcd that is gone: between events we look by ourselves.
const (
	shortestRound = time.Second
	longestRound  = 10 * time.Second
)

// round is how often to look without being told to: well within the time in which
// the keys of a dead member last.
func round(t cluster.Topology) time.Duration {
	return min(max(min(t.TTL/3, t.LoopWait), shortestRound), longestRound)
}

// follow waits for events after the reading t. It returns when the watch has ended,
// whatever ended it: what was missed is seen by reading everything again.
func (w *watcher) follow(ctx context.Context, t cluster.Topology) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	client, err := w.connect(ctx)
	if err != nil {
		return
	}
	watching := make(chan clientv3.WatchChan, 1)
	go func() { // it returns when etcd has answered, which may be never
		watching <- client.Watch(ctx, w.base+"/", clientv3.WithPrefix(), clientv3.WithRev(t.Revision+1))
	}()
	var events clientv3.WatchChan
	for {
		select {
		case <-ctx.Done():
			return
		case events = <-watching:
			continue
		case answer, open := <-events:
			if !open || answer.Err() != nil { // compacted, cancelled, or a member without a leader
				return
			}
			if answer.Header.GetRevision() <= t.Revision {
				continue // a later reading has it
			}
		case <-time.After(w.pause):
		}
		seen, err := w.see(ctx)
		if err == nil && seen.Revision == 0 {
			return // the keys are gone
		}
		t.Revision = max(t.Revision, seen.Revision)
	}
}

// see looks once, tells what is new, and sets the pause before the next look.
func (w *watcher) see(ctx context.Context) (cluster.Topology, error) {
	t, err := w.look(ctx, &w.confirmed)
	if ctx.Err() != nil {
		return t, ctx.Err()
	}
	switch {
	case err == nil && t.Leader != "":
		w.troubled, w.pause = time.Time{}, round(t)
	case w.troubled.IsZero():
		w.troubled, w.pause = time.Now(), w.Observer.pause
	default:
		w.pause = min(2*w.pause, round(w.lastKnown()))
	}
	if _, unreachable := errors.AsType[*UnreachableError](err); !unreachable && !w.troubled.IsZero() && time.Since(w.troubled) < w.grace {
		w.pause = w.Observer.pause
		return t, err // a failover: not news before it is over or drags on
	}
	w.tell(t, err)
	return t, err
}

// tell calls each unless it would say the same again.
func (w *watcher) tell(t cluster.Topology, err error) {
	now, fault := t, faultOf(err)
	now.Revision = 0
	if w.began && fault == w.fault && reflect.DeepEqual(now, w.told) {
		return
	}
	w.began, w.told, w.fault = true, now, fault
	w.each(t, err)
}

// faultOf names a kind of failure: the words of one, with their addresses and
// attempts, differ from time to time.
func faultOf(err error) string {
	if err == nil {
		return ""
	}
	if _, unreachable := errors.AsType[*UnreachableError](err); unreachable {
		return "unreachable"
	}
	if e, unconfirmed := errors.AsType[*UnconfirmedError](err); unconfirmed {
		return "unconfirmed " + e.Leader
	}
	return err.Error()
}
