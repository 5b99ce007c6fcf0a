package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Facts are what a server says about itself; they do not change while it runs,
// but for InRecovery, Timeline and what a reload changes.
type Facts struct {
	Version        postgres.Version
	System         postgres.SystemIdentifier
	SegmentSize    postgres.SegmentSize
	Timeline       postgres.TimelineID // written on; of the last checkpoint in recovery
	InRecovery     bool
	DataDirectory  string
	ConfigFile     string
	ArchiveMode    string
	ArchiveCommand string
	ArchiveLibrary string
	RestoreCommand string
	FullPageWrites bool
	Started        time.Time // of the postmaster
}

// Archives tells whether the server archives WAL on its own timeline.
func (f Facts) Archives() bool {
	return (f.ArchiveMode == "on" || f.ArchiveMode == "always") && (f.ArchiveCommand != "" || f.ArchiveLibrary != "")
}

// Facts asks the server what it is.
func (s *Server) Facts(ctx context.Context) (Facts, error) {
	var f Facts
	var version, segment, timeline, system int64
	err := s.row(ctx, "ask the server what it is", `
		SELECT current_setting('server_version_num')::int8, (SELECT system_identifier FROM pg_control_system()),
		       (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'),
		       (SELECT timeline_id FROM pg_control_checkpoint())::int8, pg_is_in_recovery(),
		       current_setting('data_directory'), current_setting('config_file'), current_setting('archive_mode'),
		       current_setting('archive_command'), coalesce(current_setting('archive_library', true), ''), current_setting('restore_command'),
		       current_setting('full_page_writes')::bool, pg_postmaster_start_time()`, nil,
		&version, &system, &segment, &timeline, &f.InRecovery, &f.DataDirectory, &f.ConfigFile, &f.ArchiveMode,
		&f.ArchiveCommand, &f.ArchiveLibrary, &f.RestoreCommand, &f.FullPageWrites, &f.Started)
	if err != nil {
		return Facts{}, err
	}
	f.Version, f.System = postgres.Version(version), postgres.SystemIdentifier(system)
	f.SegmentSize, f.Timeline = postgres.SegmentSize(segment), postgres.TimelineID(timeline)
	if f.ArchiveCommand == "(disabled)" {
		f.ArchiveCommand = ""
	}
	if !f.InRecovery { // the checkpoint may still be of the timeline before a promotion
		f.Timeline, err = s.timeline(ctx)
	}
	return f, err
}

// timeline is the one that a primary writes on.
func (s *Server) timeline(ctx context.Context) (postgres.TimelineID, error) {
	var name string
	if err := s.row(ctx, "ask for the timeline", `SELECT pg_walfile_name(pg_current_wal_insert_lsn())`, nil, &name); err != nil {
		return 0, err
	}
	file, err := postgres.ParseWALFile(name)
	return file.Segment.Timeline, err
}

// Tablespaces lists the tablespaces outside PGDATA. One inside it
// (allow_in_place_tablespaces) is refused: it is for developers' tests.
func (s *Server) Tablespaces(ctx context.Context) ([]postgres.Tablespace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.conn.Query(ctx, `SELECT oid::int8, spcname, pg_tablespace_location(oid) FROM pg_tablespace
		WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid`)
	if err != nil {
		return nil, failed("list tablespaces", err)
	}
	var oid int64
	var name, location string
	var found []postgres.Tablespace
	_, err = pgx.ForEachRow(rows, []any{&oid, &name, &location}, func() error {
		if !strings.HasPrefix(location, "/") {
			return fmt.Errorf("tablespace %s lies inside PGDATA (%q): in-place tablespaces are not supported", name, location)
		}
		found = append(found, postgres.Tablespace{OID: uint32(oid), Path: location})
		return nil
	})
	if err != nil {
		return nil, failed("list tablespaces", err)
	}
	return found, nil
}
