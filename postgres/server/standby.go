package server

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// ConnectMember opens a session on another member of the cluster: with everything
// that dsn says, but at the host and port of connURL, Patroni's address of that member.
func ConnectMember(ctx context.Context, dsn, connURL string) (*Server, error) {
	dsn, err := movedTo(dsn, connURL)
	if err != nil {
		return nil, err
	}
	return Connect(ctx, dsn)
}

// movedTo is dsn with another host and port. Of a setting that stands there twice
// the last one counts.
func movedTo(dsn, connURL string) (string, error) {
	to, err := url.Parse(connURL)
	if err != nil || to.Hostname() == "" {
		return "", fmt.Errorf("the member's address %q is no connection URL", connURL)
	}
	port := cmp.Or(to.Port(), "5432")
	if !strings.Contains(dsn, "://") {
		host := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(to.Hostname()) // from etcd: it must say no more than where
		return fmt.Sprintf("%s host='%s' port='%s'", dsn, host, port), nil
	}
	from, err := url.Parse(dsn)
	if err != nil {
		return "", errUnreadableDSN
	}
	from.Host = net.JoinHostPort(to.Hostname(), port)
	query := from.Query()
	query.Del("host")
	query.Del("port")
	from.RawQuery = query.Encode()
	return from.String(), nil
}

// Standby is how a standby follows at this moment.
type Standby struct {
	Streams  bool                // its WAL receiver streams, from the primary or another standby
	Timeline postgres.TimelineID // of the WAL received last; 0 without a WAL receiver
	Paused   bool                // replay is paused, or about to be
	Delay    time.Duration       // recovery_min_apply_delay
	Replayed postgres.LSN        // end of the last record replayed
}

// Standby asks how the server, a standby, follows.
func (s *Server) Standby(ctx context.Context) (Standby, error) {
	var f Standby
	var timeline, delay int64
	var replayed string
	err := s.row(ctx, "ask how the standby follows", `
		SELECT coalesce(r.status = 'streaming', false), coalesce(r.received_tli, 0)::int8,
		       pg_get_wal_replay_pause_state() <> 'not paused',
		       (SELECT setting::int8 FROM pg_settings WHERE name = 'recovery_min_apply_delay'),
		       coalesce(pg_last_wal_replay_lsn(), '0/0')::text
		FROM (SELECT) one LEFT JOIN pg_stat_wal_receiver r ON true`, nil,
		&f.Streams, &timeline, &f.Paused, &delay, &replayed)
	if err != nil {
		return Standby{}, err
	}
	f.Timeline, f.Delay = postgres.TimelineID(timeline), time.Duration(delay)*time.Millisecond
	f.Replayed, err = postgres.ParseLSN(replayed)
	return f, err
}

// Checkpoint makes a checkpoint at once, also on an idle server, and returns a
// position behind its record up to which WAL is written.
func (s *Server) Checkpoint(ctx context.Context) (postgres.LSN, error) {
	s.mu.Lock()
	_, err := s.conn.Exec(ctx, `CHECKPOINT`)
	s.mu.Unlock()
	if err != nil {
		return 0, failed("make a checkpoint", err)
	}
	var at string
	if err := s.row(ctx, "ask for the flushed position", `SELECT pg_current_wal_flush_lsn()::text`, nil, &at); err != nil {
		return 0, err
	}
	return postgres.ParseLSN(at)
}

// Recovery is how far the server's recovery has come.
type Recovery struct {
	InRecovery bool
	Paused     bool         // replay stands still, at a target or for want of a setting
	Replayed   postgres.LSN // end of the last record replayed; 0 before the first one
	// LastCommit is the time of the last commit or abort replayed; zero if there was none.
	LastCommit time.Time
	// Timeline is what the server writes on; 0 in recovery.
	Timeline postgres.TimelineID
}

// Recovery asks how far recovery has come. It may fail in the moment in which
// recovery ends: ask again.
func (s *Server) Recovery(ctx context.Context) (Recovery, error) {
	var r Recovery
	var replayed string
	var last *time.Time
	err := s.row(ctx, "ask how far recovery has come", `
		SELECT pg_is_in_recovery(),
		       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
		       coalesce(pg_last_wal_replay_lsn(), '0/0')::text, pg_last_xact_replay_timestamp()`, nil,
		&r.InRecovery, &r.Paused, &replayed, &last)
	if err != nil {
		return Recovery{}, err
	}
	if last != nil {
		r.LastCommit = last.UTC()
	}
	if !r.InRecovery {
		if r.Timeline, err = s.timeline(ctx); err != nil {
			return Recovery{}, err
		}
	}
	r.Replayed, err = postgres.ParseLSN(replayed)
	return r, err
}

// Subscriptions counts the subscriptions of all databases.
func (s *Server) Subscriptions(ctx context.Context) (n int, err error) {
	err = s.row(ctx, "count subscriptions", `SELECT count(*) FROM pg_subscription`, nil, &n)
	return n, err
}
