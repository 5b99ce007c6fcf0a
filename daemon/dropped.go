package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/wal"
)

// bringDropped tells the repository what pushes on this host gave up
// (archive.on_full), and forgets it then. What cannot be told now is told later.
func (s *service) bringDropped(ctx context.Context) {
	state := s.settings().Cluster.StateDir
	drops, err := wal.Drops(state)
	var segments []wal.Drop
	for _, d := range drops {
		switch d.WAL.Kind {
		case postgres.WALSegment:
			segments = append(segments, d)
		case postgres.WALHistory:
			err = errors.Join(err, s.bringHistory(ctx, state, d))
		default: // it leaves no gap
			err = errors.Join(err, d.Forget(state))
		}
	}
	for _, run := range runs(segments) {
		if away := s.bring(ctx, state, run); away != nil {
			err = errors.Join(err, away)
			break
		}
	}
	if err != nil && s.unrecorded == nil && ctx.Err() != context.Canceled {
		s.event(slog.LevelWarn, "archive.unrecorded", "which WAL was given up cannot be told to the repository yet", "error", err)
	}
	s.unrecorded = err
}

// bring brings one run of segments.
func (s *service) bring(ctx context.Context, state string, run []wal.Drop) error {
	s.mu.Lock()
	repository := s.opener(run[0].System)
	s.mu.Unlock()
	first := run[0].WAL.Segment
	there, err := repository.Segments(ctx, first.Timeline, first)
	if err != nil {
		return err
	}
	stored := map[postgres.Segment]bool{} // by another member, or by a later push after a crash
	for _, entry := range there {
		stored[entry.File.Segment] = true
	}
	lost := slices.DeleteFunc(slices.Clone(run), func(d wal.Drop) bool { return s.storedAfterAll(ctx, d) || stored[d.WAL.Segment] }) // other content is a conflict
	for _, part := range runs(lost) {
		last := part[len(part)-1]
		g := catalog.GapRecord{First: part[0].WAL.Segment, Last: last.WAL.Segment, At: last.At, By: last.Member,
			Reason: "pg_wal was nearly full and the store did not answer"}
		if _, err := repository.RecordGap(ctx, g, catalog.GapDropped); err != nil {
			return err
		}
		s.event(slog.LevelWarn, "archive.recorded", "the repository knows now which WAL was given up", "first", g.First, "last", g.Last, "segments", len(part))
	}
	for _, d := range run {
		if err := d.Forget(state); err != nil {
			return err
		}
	}
	s.surveyAgain()
	return nil
}

// bringHistory stores a history, or finds that another member did: without it no later
// WAL can be followed, so it is not forgotten before.
func (s *service) bringHistory(ctx context.Context, state string, d wal.Drop) error {
	if !s.storedAfterAll(ctx, d) {
		s.mu.Lock()
		repository := s.opener(d.System)
		s.mu.Unlock()
		if _, err := repository.StatWAL(ctx, d.WAL); err != nil {
			return fmt.Errorf("%s is not stored yet: %w", d.File, err)
		}
	}
	return d.Forget(state)
}

// storedAfterAll stores what was given up and PostgreSQL has not removed yet.
func (s *service) storedAfterAll(ctx context.Context, d wal.Drop) bool {
	path := filepath.Join(s.settings().Cluster.DataDir, "pg_wal", d.File)
	fill := s.wired().fill
	if _, err := os.Stat(path); err != nil || fill == nil {
		return false
	}
	_, err := fill(ctx, path)
	return err == nil
}

// runs joins the records of segments that follow each other.
func runs(segments []wal.Drop) (all [][]wal.Drop) {
	var next postgres.Segment
	for i, d := range segments {
		if i == 0 || d.WAL.Segment != next || d.System != segments[i-1].System {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], d)
		next = d.WAL.Segment.Next(postgres.SegmentSize(d.Size))
	}
	return all
}
