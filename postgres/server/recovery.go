package server

import (
	"context"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

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
