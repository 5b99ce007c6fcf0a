package daemon

import (
	"context"

	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/wal"
)

// hooks answer archive_command and restore_command, with the store of one configuration.
type hooks struct {
	push func(ctx context.Context, path string) error
	get  func(ctx context.Context, file, dest string, mode hook.Mode) error
}

// Clients are the archive clients as they are without a daemon: what is not known
// before a request is not set.
type Clients struct {
	Pusher wal.Pusher
	Getter wal.Getter
}

// newHooks wires them: one store for all requests, whose connections stay warm.
func newHooks(o Options, c config.Config) (hooks, error) {
	if o.Clients == nil || c.Daemon.Socket == "" || c.Cluster.DataDir == "" {
		return hooks{}, nil // nobody is served
	}
	clients, err := o.Clients(c)
	return hooks{
		push: func(ctx context.Context, path string) error {
			_, err := clients.Pusher.Push(ctx, path)
			return err
		},
		get: func(ctx context.Context, file, dest string, mode hook.Mode) error {
			getter := clients.Getter
			getter.DataDir, getter.Mode = c.Cluster.DataDir, mode
			return getter.Get(ctx, file, dest)
		},
	}, err
}
