package server

import (
	"context"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Start is the beginning of a base backup.
type Start struct {
	LSN      postgres.LSN // redo point of the starting checkpoint, on a standby of the last restartpoint
	Timeline postgres.TimelineID
	Time     time.Time // the server's clock
}

// StartBackup calls pg_backup_start, with a checkpoint at once instead of a spread
// one. The backup lives as long as this session.
func (s *Server) StartBackup(ctx context.Context, label string) (Start, error) {
	var lsn string
	var start Start
	err := s.row(ctx, "start a base backup", `SELECT pg_backup_start($1, true)::text, clock_timestamp()`,
		[]any{label}, &lsn, &start.Time)
	if err != nil {
		return Start{}, err
	}
	if start.LSN, err = postgres.ParseLSN(lsn); err != nil {
		return Start{}, err
	}
	f, err := s.Facts(ctx)
	start.Timeline = f.Timeline
	return start, err
}

// Stop is the end of a base backup.
type Stop struct {
	LSN           postgres.LSN // consistent from here on; on a standby its minimum recovery point
	Label         string       // content of backup_label
	TablespaceMap string       // content of tablespace_map; empty without tablespaces
	Time          time.Time    // the server's clock
}

// StopBackup calls pg_backup_stop and does not wait for the archiver. A primary
// switches to a new WAL segment by itself.
func (s *Server) StopBackup(ctx context.Context) (Stop, error) {
	var lsn string
	var stop Stop
	err := s.row(ctx, "stop the base backup",
		`SELECT lsn::text, labelfile, coalesce(spcmapfile, ''), clock_timestamp() FROM pg_backup_stop(wait_for_archive => false)`,
		nil, &lsn, &stop.Label, &stop.TablespaceMap, &stop.Time)
	if err != nil {
		return Stop{}, err
	}
	stop.LSN, err = postgres.ParseLSN(lsn)
	return stop, err
}

// Now is the server's clock.
func (s *Server) Now(ctx context.Context) (now time.Time, err error) {
	err = s.row(ctx, "ask the server for the time", `SELECT clock_timestamp()`, nil, &now)
	return now, err
}

// CreateRestorePoint writes a named restore point and returns the end of its record.
func (s *Server) CreateRestorePoint(ctx context.Context, name string) (postgres.LSN, error) {
	var end string
	if err := s.row(ctx, "create restore point "+name, `SELECT pg_create_restore_point($1)::text`, []any{name}, &end); err != nil {
		return 0, err
	}
	return postgres.ParseLSN(end)
}

// SwitchWAL ends the current WAL segment.
func (s *Server) SwitchWAL(ctx context.Context) error {
	return s.row(ctx, "switch to a new WAL segment", `SELECT pg_switch_wal()::text`, nil, new(string))
}

// Archiver is what the archiver did last. Empty names and zero times: never.
type Archiver struct {
	Archived     int64 // since the statistics were reset
	LastArchived string
	ArchivedAt   time.Time
	LastFailed   string
	FailedAt     time.Time
	Backlog      int // files that wait for the archiver
}

// Failing tells whether the archiver's last attempt failed.
func (a Archiver) Failing() bool { return a.FailedAt.After(a.ArchivedAt) }

// Archiver asks for the archiver's statistics and its backlog.
func (s *Server) Archiver(ctx context.Context) (Archiver, error) {
	var a Archiver
	var archived, failed *time.Time
	err := s.row(ctx, "ask what the archiver does", `
		SELECT archived_count, coalesce(last_archived_wal, ''), last_archived_time, coalesce(last_failed_wal, ''), last_failed_time,
		       (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready')::int
		FROM pg_stat_archiver`, nil, &a.Archived, &a.LastArchived, &archived, &a.LastFailed, &failed, &a.Backlog)
	if archived != nil {
		a.ArchivedAt = *archived
	}
	if failed != nil {
		a.FailedAt = *failed
	}
	return a, err
}
