package server

import (
	"context"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Stand is where a server stands on its own branch of the cluster's history.
type Stand struct {
	InRecovery bool
	// Timeline is what a primary writes on, and of a standby the newest that it has
	// received, replayed up to, or made a restartpoint on.
	Timeline postgres.TimelineID
	// LSN is up to where its pg_wal holds the WAL of its branch: what a primary wrote, what
	// a standby received or, from an archive, replayed.
	LSN postgres.LSN
}

// Stand asks the server. It may fail in the moment of a promotion: ask again.
func (s *Server) Stand(ctx context.Context) (Stand, error) {
	var f Stand
	var lsn string
	var timeline int64
	err := s.row(ctx, "ask the server where it stands", `
		SELECT pg_is_in_recovery(),
		       CASE WHEN pg_is_in_recovery() THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0') ELSE pg_current_wal_lsn() END::text,
		       greatest((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
		                (SELECT timeline_id FROM pg_control_checkpoint()))::int8`, nil, &f.InRecovery, &lsn, &timeline)
	if err == nil {
		f.LSN, err = postgres.ParseLSN(lsn)
	}
	if f.Timeline = postgres.TimelineID(timeline); err == nil && !f.InRecovery {
		f.Timeline, err = s.timeline(ctx)
	}
	return f, err
}

// CreateKeepSlot makes a slot that ends with this session, on a standby too, and keeps
// WAL from the last checkpoint's or restartpoint's redo position on, which it returns.
func (s *Server) CreateKeepSlot(ctx context.Context, name string) (postgres.LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lsn string
	if err := s.conn.QueryRow(ctx, `SELECT lsn::text FROM pg_create_physical_replication_slot($1, true, true)`, name).Scan(&lsn); err != nil {
		return 0, failedIn("make a temporary replication slot", err, map[string]string{
			"42501": "ALTER ROLE ... REPLICATION for the role of cluster.dsn, or use a superuser",
			"53400": "raise max_replication_slots: each member needs one more", "55000": "wal_level must be replica or logical, and max_replication_slots above 0"})
	}
	return postgres.ParseLSN(lsn)
}

// KeepFrom moves the slot forward, never back. An error also tells that it is lost:
// the server went beyond max_slot_wal_keep_size.
func (s *Server) KeepFrom(ctx context.Context, name string, from postgres.LSN) error {
	var end string
	return s.row(ctx, "advance the slot "+name, `
		SELECT (SELECT end_lsn FROM pg_replication_slot_advance(slot_name, greatest($2::pg_lsn, restart_lsn)))::text
		FROM pg_replication_slots WHERE slot_name = $1 AND wal_status <> 'lost'`, []any{name, from.String()}, &end)
}

// DropSlot gives the WAL free.
func (s *Server) DropSlot(ctx context.Context, name string) error {
	var none string
	return s.row(ctx, "drop the slot "+name, `SELECT pg_drop_replication_slot($1)::text`, []any{name}, &none)
}
