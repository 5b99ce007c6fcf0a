package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// BaseBackup is a base backup that the server streams, over a replication session
// of its own. One goroutine uses it. Closing it gives the backup up.
type BaseBackup struct {
	// Set by Begin.
	LSN         postgres.LSN // redo point of the starting checkpoint
	Timeline    postgres.TimelineID
	Tablespaces []postgres.Tablespace
	Bytes       int64 // of all files, as the server estimates

	session *Server
	stream
}

// maxMessage is far above what the server sends at once: 32 KiB.
const maxMessage = 1 << 20

// replicationAdvice by SQLSTATE, where a replication session says something else.
var replicationAdvice = map[string]string{
	"42501": "the role may not replicate: ALTER ROLE ... REPLICATION",
	"53300": "every WAL sender or connection is taken: raise max_wal_senders (needs a restart), or wait until another base backup ends",
}

// OpenBaseBackup opens the replication session of a base backup, to the server of
// this session and with its credentials; replication=database asks for no line of
// its own in pg_hba.conf. The server's warnings go to warn while it streams.
func (s *Server) OpenBaseBackup(ctx context.Context, warn func(string)) (*BaseBackup, error) {
	config := s.conn.Config()
	config.RuntimeParams["replication"] = "database"
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // a WAL sender knows no other
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			warn("the server warns: " + n.Message)
		}
	}
	const what = "open a replication session"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, failedIn(what, err, replicationAdvice)
	}
	session := &Server{conn: conn}
	ours, err := s.Position(ctx)
	if err == nil {
		var there Position
		if there, err = session.Position(ctx); err == nil && !there.Started.Equal(ours.Started) {
			err = &Error{What: what, Err: errors.New("it reached another server than the first session"), Advice: "name one host in the connection string"}
		}
	}
	if err != nil {
		session.Close()
		return nil, err
	}
	conn.PgConn().Frontend().SetMaxBodyLen(maxMessage)
	return &BaseBackup{session: session, stream: stream{from: conn.PgConn()}}, nil
}

// Begin starts the backup, with a checkpoint at once, and returns when the server
// begins to stream. It verifies pages as it reads them, and reads a bad one again.
func (b *BaseBackup) Begin(ctx context.Context, label string) error {
	to := b.session.conn.PgConn().Frontend()
	to.SendQuery(&pgproto3.Query{String: fmt.Sprintf("BASE_BACKUP (LABEL '%s', TARGET 'client', PROGRESS, CHECKPOINT 'fast', WAIT 0, TABLESPACE_MAP, MANIFEST 'no')",
		strings.ReplaceAll(label, "'", "''"))})
	if err := to.Flush(); err != nil {
		return failed("start a base backup", err)
	}
	return b.begin(ctx)
}

// begin reads what comes before the archives.
func (b *BaseBackup) begin(ctx context.Context) error {
	const what = "start a base backup"
	var err error
	if b.LSN, b.Timeline, err = b.location(ctx, what); err != nil {
		return err
	}
	rows, err := b.rows(ctx, what, 3)
	if err != nil {
		return err
	}
	for _, row := range rows {
		kib, err := parseNumber(row[2], 53)
		if err != nil {
			return odd(what, "the size %q of tablespace %q", row[2], row[1])
		}
		b.Bytes += int64(kib) << 10
		if row[0] == "" { // PGDATA
			continue
		}
		oid, err := parseNumber(row[0], 32)
		if err != nil {
			return odd(what, "tablespace %q at %q", row[0], row[1])
		}
		if !strings.HasPrefix(row[1], "/") {
			return fmt.Errorf("tablespace %d lies inside PGDATA (%q): in-place tablespaces are not supported", oid, row[1])
		}
		b.Tablespaces = append(b.Tablespaces, postgres.Tablespace{OID: uint32(oid), Path: row[1]})
	}
	message, err := b.receive(ctx, what)
	if err != nil {
		return err
	}
	if _, ok := message.(*pgproto3.CopyOutResponse); !ok {
		return odd(what, "%T where the archives begin", message)
	}
	return nil
}

// End is where a streamed backup ended.
type End struct {
	LSN      postgres.LSN // consistent from here on
	Timeline postgres.TimelineID
	// Damaged tells that pages failed their checksum in the server's own eyes.
	Damaged bool
}

// End reads where the backup ended, after Next has returned io.EOF.
func (b *BaseBackup) End(ctx context.Context) (end End, err error) {
	const what = "end the base backup"
	if end.LSN, end.Timeline, err = b.location(ctx, what); err != nil {
		return End{}, err
	}
	message, err := b.receive(ctx, what)
	// Bad pages are the last word of a backup that is whole otherwise.
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code == "XX001" {
		end.Damaged = true
	} else if err != nil {
		return End{}, err
	} else if _, ok := message.(*pgproto3.CommandComplete); !ok {
		return End{}, odd(what, "%T", message)
	}
	if message, err = b.receive(ctx, what); err != nil {
		return End{}, err
	}
	if _, ok := message.(*pgproto3.ReadyForQuery); !ok {
		return End{}, odd(what, "%T", message)
	}
	return end, nil
}

// History is a timeline's history file as the server keeps it, after End.
func (b *BaseBackup) History(ctx context.Context, timeline postgres.TimelineID) ([]byte, error) {
	const what = "ask for a timeline's history"
	results, err := b.session.conn.PgConn().Exec(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", uint32(timeline))).ReadAll()
	if err != nil {
		return nil, failed(what, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 2 {
		return nil, odd(what, "%d results", len(results))
	}
	return results[0].Rows[0][1], nil
}

// Close ends the session.
func (b *BaseBackup) Close() { b.session.Close() }

// Pages is how the server keeps its pages, as pg_control will show it; the fields
// that tell of anything else are zero.
func (s *Server) Pages(ctx context.Context) (postgres.ControlData, error) {
	var block, blocks, checksums int64
	err := s.row(ctx, "ask how the server keeps its pages",
		`SELECT database_block_size::int8, blocks_per_segment::int8, data_page_checksum_version::int8 FROM pg_control_init()`, nil,
		&block, &blocks, &checksums)
	return postgres.ControlData{BlockSize: uint32(block), RelationBlocks: uint32(blocks), ChecksumVersion: uint32(checksums)}, err
}
