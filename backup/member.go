package backup

import (
	"context"
	"errors"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

// Member is the cluster member on this host, or, streamed, any other, as a command or
// the daemon knows it.
type Member struct {
	Name   string // Patroni's name
	DSN    string // of its server, as a superuser; also that of the others, but for host and port
	PGDATA string // empty: where the server says

	// Streamed takes the backup over the replication protocol, from the server at
	// ConnURL, Patroni's address of the member, or where DSN leads if that is empty.
	Streamed bool
	ConnURL  string

	// Topology is the cluster of now, its leader confirmed. Without it nobody says who
	// leads, and only a primary is backed up.
	Topology func(context.Context) (cluster.Topology, error)
	// Repository is that of the system that the server turns out to be.
	Repository func(postgres.SystemIdentifier) (*catalog.Repository, error)
}

// Backup opens the sessions that a backup of this member needs and takes it, of a
// primary or of a standby, whichever the server is. reason goes into the manifest.
// Errors are those of Take.
func (m Member) Backup(ctx context.Context, reason string, o Options) (catalog.Manifest, error) {
	s, err := m.connect(ctx)
	if err != nil {
		return catalog.Manifest{}, &PreflightError{Reason: "the member's server cannot be asked", Err: err}
	}
	defer s.Close()
	facts, err := s.Facts(ctx)
	if err != nil {
		return catalog.Manifest{}, &PreflightError{Reason: "the member's server cannot be asked", Err: err}
	}
	repository, err := m.Repository(facts.System)
	if err != nil {
		return catalog.Manifest{}, err
	}
	source := Source{Server: s, Streamed: m.Streamed, PGDATA: m.PGDATA, Member: m.Name, Reason: reason}
	if m.Topology != nil {
		source.Leader = m.leader
	}
	return Take(ctx, source, repository, o)
}

func (m Member) connect(ctx context.Context) (*server.Server, error) {
	if m.Streamed && m.ConnURL != "" {
		return server.ConnectMember(ctx, m.DSN, m.ConnURL)
	}
	return server.Connect(ctx, m.DSN)
}

func (m Member) leader(ctx context.Context) (*server.Server, error) {
	t, err := m.Topology(ctx)
	if err != nil {
		return nil, err
	}
	leader, ok := t.Member(t.Leader)
	if !ok {
		return nil, errors.New("nobody leads " + t.Scope)
	}
	return server.ConnectMember(ctx, m.DSN, leader.ConnURL)
}
