// Package server talks to one running PostgreSQL server over one held connection:
// what it is, starting and ending a base backup, and what its archiver does.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Server is one session. Methods are safe for concurrent use and run one after
// another. A cancelled context ends the session, and with it a running backup.
type Server struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

// session fixes what a user's or a database's settings could change: no timeout
// may end a backup, and no parallel worker may run pg_backup_stop.
var session = map[string]string{
	"search_path":                         "pg_catalog",
	"client_encoding":                     "UTF8",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"max_parallel_workers_per_gather":     "0",
	"application_name":                    "pgha-backup",
}

var errUnreadableDSN = errors.New("the connection string of PostgreSQL cannot be parsed (not shown: it may hold a password)")

// Connect opens a session. dsn is a libpq connection string or URL; it is never
// part of an error.
func Connect(ctx context.Context, dsn string) (*Server, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errUnreadableDSN
	}
	for name, value := range session {
		config.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, failed(fmt.Sprintf("connect to PostgreSQL at %s port %d as %s", config.Host, config.Port, config.User), err)
	}
	return &Server{conn: conn}, nil
}

// Close ends the session. A backup that was started and not stopped is given up
// by the server.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// row runs a query of one row.
func (s *Server) row(ctx context.Context, what, sql string, args []any, dest ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.QueryRow(ctx, sql, args...).Scan(dest...); err != nil {
		return failed(what, err)
	}
	return nil
}

// Position is where and what the server is at this moment.
type Position struct {
	InRecovery bool
	Started    time.Time    // of the postmaster
	LSN        postgres.LSN // write position of a primary, replay position of a standby
}

// Position asks the server; a backup asks it every few seconds to know that the
// server is alive and still the same.
func (s *Server) Position(ctx context.Context) (Position, error) {
	var p Position
	var lsn string
	err := s.row(ctx, "ask the server for its position",
		`SELECT pg_is_in_recovery(), pg_postmaster_start_time(),
		        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text`,
		nil, &p.InRecovery, &p.Started, &lsn)
	if err == nil {
		p.LSN, err = postgres.ParseLSN(lsn)
	}
	return p, err
}

// Error is a failed request, with what a person can do about it.
type Error struct {
	What   string
	Err    error
	Advice string
}

func (e *Error) Error() string { return e.What + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Hint is what a person can do about the error; may be empty.
func (e *Error) Hint() string { return e.Advice }

// Gone tells that the server ended, or is not there yet: by its own last word, which
// comes or does not come before the connection breaks.
func (e *Error) Gone() bool {
	answer, ok := errors.AsType[*pgconn.PgError](e.Err)
	return ok && slices.Contains([]string{"57P01", "57P02", "57P03"}, answer.Code)
}

func failed(what string, err error) error { return failedIn(what, err, nil) }

// failedIn knows better advice for some SQLSTATEs than what holds in general.
func failedIn(what string, err error, better map[string]string) error {
	e := &Error{What: what, Err: err}
	var answer *pgconn.PgError
	switch {
	case errors.As(err, &answer):
		e.Advice = cmp.Or(better[answer.Code], advice[answer.Code], answer.Hint)
	case errors.As(err, new(*pgconn.ConnectError)):
		e.Advice = "is the server running, and are host and port those of this member?"
	}
	return e
}

// advice by SQLSTATE.
var advice = map[string]string{
	"28P01": "the password is wrong: check the role's password where the configuration takes it from",
	"28000": "pg_hba.conf has no line that lets this role connect from here",
	"3D000": "name a database that exists, postgres for example",
	"42501": "the role lacks a right: use a superuser, or GRANT pg_monitor, pg_checkpoint and EXECUTE on pg_backup_start, pg_backup_stop, pg_switch_wal and pg_create_restore_point",
	"42883": "the server is older than PostgreSQL 15, which is not supported",
	"53300": "all connections are taken: raise max_connections or superuser_reserved_connections",
	"57P03": "the server is starting up, shutting down or recovering: try again when it answers",
}
