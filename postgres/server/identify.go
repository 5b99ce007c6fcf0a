package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Identity is what a server tells a role that may do no more than replicate.
type Identity struct {
	System   postgres.SystemIdentifier
	Timeline postgres.TimelineID // of a standby: the one it replays
	LSN      postgres.LSN
}

// libpqOnly are settings of a connection string that pgx would send to the server,
// which does not know them.
var libpqOnly = []string{"gssencmode", "gssdelegation", "channel_binding", "sslcrl", "sslcrldir", "sslcompression",
	"fallback_application_name", "replication"}

// Identify opens a replication connection and asks IDENTIFY_SYSTEM. dsn is a libpq
// connection string, its password may lie in PGPASSFILE; it is never part of an error.
func Identify(ctx context.Context, dsn string) (Identity, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return Identity{}, errors.New("the connection string of the replication source cannot be parsed")
	}
	for _, name := range libpqOnly {
		delete(config.RuntimeParams, name)
	}
	config.RuntimeParams["replication"], config.RuntimeParams["application_name"] = "true", session["application_name"]
	what := fmt.Sprintf("identify the server at %s port %d as %s", config.Host, config.Port, config.User)
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return Identity{}, failed(what, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	answers, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return Identity{}, failed(what, err)
	}
	if len(answers) != 1 || len(answers[0].Rows) != 1 || len(answers[0].Rows[0]) < 3 {
		return Identity{}, fmt.Errorf("%s: it gave another answer than systemid, timeline and xlogpos", what)
	}
	row := answers[0].Rows[0]
	system, err := postgres.ParseSystemIdentifier(string(row[0]))
	timeline, timelineErr := strconv.ParseUint(string(row[1]), 10, 32)
	lsn, lsnErr := postgres.ParseLSN(string(row[2]))
	if err = errors.Join(err, timelineErr, lsnErr); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", what, err)
	}
	return Identity{system, postgres.TimelineID(timeline), lsn}, nil
}
