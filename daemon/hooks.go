package daemon

import (
	"context"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/wal"
)

// hooks answer archive_command and restore_command, with the store of one configuration.
type hooks struct {
	push func(ctx context.Context, path string) error
	get  func(ctx context.Context, r hook.Request) error                    // puts the file at r.Aside()
	fill func(ctx context.Context, path string) (catalog.PutOutcome, error) // nobody asked for it
	// What goes on beyond the answers, if anything does.
	hits func() (pushed, fetched int64)
	end  func()
}

// Clients are the archive clients as they are without a daemon: what is not known
// before a request is not set.
type Clients struct {
	Pusher wal.Pusher
	Getter wal.Getter
}

// newHooks wires them: one store for all requests, whose connections stay warm.
func newHooks(o Options, c config.Config) (hooks, error) {
	if o.Clients == nil || c.Cluster.DataDir == "" {
		return hooks{}, nil // nobody is served
	}
	clients, err := o.Clients(c)
	if err != nil {
		return hooks{}, err
	}
	clients.Getter.DataDir = c.Cluster.DataDir
	ahead, fetcher := wal.NewAhead(clients.Pusher, c.Archive.PushAhead), wal.NewFetcher(clients.Getter)
	return hooks{
		push: func(ctx context.Context, path string) error {
			_, err := ahead.Push(ctx, path)
			return err
		},
		get:  fetcher.Get,
		hits: func() (int64, int64) { return ahead.Hits(), fetcher.Hits() },
		end: func() {
			ahead.Close()
			fetcher.Close()
		},
		fill: clients.Pusher.Fill,
	}, nil
}

// wired are the hooks in force.
func (s *service) wired() hooks {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hooks
}
