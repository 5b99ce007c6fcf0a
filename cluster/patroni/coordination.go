package patroni

import (
	"context"
	"errors"

	"github.com/pgha-backup/pgha-backup/cluster"
)

var errSkeleton = errors.New("not made yet")

// Coordination is our own corner of etcd: who runs, and who does what. It saves
// double work and is never needed for correctness. Safe for concurrent use; Close it.
type Coordination struct{}

// NewCoordination checks the options, of which Endpoints are required. It asks nobody.
func NewCoordination(o Options) (*Coordination, error) { return nil, errSkeleton }

// Close ends the connection to etcd.
func (c *Coordination) Close() error { return nil }

// Join shows the daemon to the others until ctx ends, and returns then. It goes on
// while etcd is away and joins again after its lease was lost.
func (c *Coordination) Join(ctx context.Context, d cluster.Daemon) error { return errSkeleton }

// Daemons are those that have joined, by member name.
func (c *Coordination) Daemons(ctx context.Context) ([]cluster.Daemon, error) {
	return nil, errSkeleton
}

// ClaimedError: somebody else has it.
type ClaimedError struct{ Key, By string }

func (e *ClaimedError) Error() string { return e.Key + " is claimed by " + e.By }

// Claim takes key, such as runs/<BackupID>, for who, until Release, the end of ctx
// or the loss of its lease. *ClaimedError where another has it.
func (c *Coordination) Claim(ctx context.Context, key, who string) (*Claim, error) {
	return nil, errSkeleton
}

// ClaimOneOf takes one of n slots of key: at most n hold one over the whole cluster.
func (c *Coordination) ClaimOneOf(ctx context.Context, key string, n int, who string) (*Claim, error) {
	return nil, errSkeleton
}

// ErrClaimLost is the cause of the end of a Claim's context when its lease is lost.
var ErrClaimLost = errors.New("the claim was lost: its lease in etcd ran out")

// Claim is something that only its holder does.
type Claim struct{ ctx context.Context }

// Context ends when the claim is no longer held; its cause says why.
func (c *Claim) Context() context.Context { return c.ctx }

// Release gives the claim back. It may be called again.
func (c *Claim) Release() {}
