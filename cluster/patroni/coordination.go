package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// Coordination is our own corner of etcd: who runs, and who does what. It saves
// double work and is never needed for correctness. It is safe for concurrent use;
// Close it after its claims were released.
type Coordination struct {
	*etcd
	base string
}

// NewCoordination checks the options, of which Endpoints are required. It asks
// nobody. Whether Patroni itself uses etcd's v3 API does not matter.
func NewCoordination(o Options) (*Coordination, error) {
	o.settle()
	if len(o.Endpoints) == 0 {
		return nil, errors.New("no etcd endpoints are known")
	}
	o.Timeout = min(o.Timeout, o.Lease/4) // a lease outlives a question without an answer
	e, err := newEtcd(o)
	return &Coordination{etcd: e, base: basePath("pgha-backup", basePath(o.Namespace, o.Scope))}, err
}

// Join shows the daemon to the others until ctx ends; then the daemon is withdrawn
// and Join returns. What it is, entry says, again after each value of changed. It goes
// on while etcd is away, and joins again when its lease was lost. Its only error is a
// name that cannot be one.
func (c *Coordination) Join(ctx context.Context, entry func() cluster.Daemon, changed <-chan struct{}) error {
	member := entry().Member
	if member == "" || strings.Contains(member, "/") {
		return fmt.Errorf("join the daemons of the cluster: %q cannot be a member's name", member)
	}
	text := func() string {
		value, _ := json.Marshal(entry()) // of strings and numbers
		return string(value)
	}
	log := c.o.Log.With("member", member)
	away := false
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, c.o.Lease/2) {
		joined, err := c.hold(ctx, "members/"+member, text())
		if err != nil {
			if !away && ctx.Err() == nil {
				log.Warn("the other daemons cannot see this one: etcd does not answer", "error", err)
			}
			away = true
			wait(ctx, pause)
			continue
		}
		log.Info("joined the daemons of the cluster", "key", joined.key)
		away, pause = false, time.Second/2
		for joined.Context().Err() == nil {
			select {
			case <-joined.Context().Done():
			case <-changed:
				for joined.put(text()) != nil && joined.Context().Err() == nil {
					wait(joined.Context(), pause) // the lease ends, or etcd answers
				}
			}
		}
		joined.Release()
		if ctx.Err() == nil {
			log.Warn("left the daemons of the cluster: the lease in etcd was lost", "key", joined.key)
		}
	}
	return nil
}

// Daemons are those that have joined, by member name.
func (c *Coordination) Daemons(ctx context.Context) ([]cluster.Daemon, error) {
	answer, err := c.get(ctx, c.base+"/members/", clientv3.WithPrefix())
	if err != nil {
		return nil, &UnreachableError{fmt.Errorf("list the daemons in etcd: %w", err)}
	}
	var all []cluster.Daemon
	for _, kv := range answer.Kvs {
		var d cluster.Daemon
		if err := json.Unmarshal(kv.Value, &d); err != nil {
			c.o.Log.Warn("a daemon's entry in etcd cannot be read", "key", string(kv.Key), "error", err)
			continue
		}
		all = append(all, d)
	}
	return all, nil
}

// ClaimedError: others have it.
type ClaimedError struct{ Key, By string }

func (e *ClaimedError) Error() string { return fmt.Sprintf("%s is claimed by %s", e.Key, e.By) }

// Claim takes key, such as runs/<BackupID>, for who, until Release, the end of ctx or
// the loss of its lease. *ClaimedError where another has it, be it the same who.
func (c *Coordination) Claim(ctx context.Context, key, who string) (*Claim, error) {
	// Most claims of a waiting daemon fail: they cost one read.
	answer, err := c.get(ctx, c.base+"/"+key)
	if err != nil {
		return nil, &UnreachableError{fmt.Errorf("claim %s in etcd: %w", key, err)}
	}
	if len(answer.Kvs) > 0 {
		return nil, &ClaimedError{key, string(answer.Kvs[0].Value)}
	}
	return c.hold(ctx, key, who, clientv3.Compare(clientv3.CreateRevision(c.base+"/"+key), "=", 0))
}

// ClaimOneOf takes one of n slots of key, so that at most n hold one in the whole
// cluster. The By of its *ClaimedError names them all.
func (c *Coordination) ClaimOneOf(ctx context.Context, key string, n int, who string) (*Claim, error) {
	var holders []string
	for i := range max(n, 1) {
		claim, err := c.Claim(ctx, path.Join(key, strconv.Itoa(i+1)), who)
		taken, ok := errors.AsType[*ClaimedError](err)
		if !ok {
			return claim, err
		}
		holders = append(holders, taken.By)
	}
	return nil, &ClaimedError{key, strings.Join(holders, ", ")}
}
