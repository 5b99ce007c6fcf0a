package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/storage"
)

// wayLimit is how long a segment may take into the archive, or a command of the server.
const wayLimit = time.Minute

// checkWay proves the way into the archive and back with the server's own commands.
// On a primary a segment is switched and waited for. A standby, which archives
// nothing, pushes once more what the archive has: that changes nothing there.
func (a *app) checkWay(ctx context.Context, k *checklist, s *server.Server, f server.Facts) {
	repository, err := a.repository(f.System)
	if err != nil {
		k.trouble("way into the archive", err)
		return
	}
	if !f.InRecovery && !f.Archives() {
		return // said already
	}
	var segment postgres.Segment
	if f.InRecovery {
		segment, err = a.pushAgain(ctx, s, f, repository)
	} else {
		segment, err = forced(ctx, s, f, repository)
	}
	if err != nil {
		k.trouble("way into the archive", err)
		return
	}
	k.good("way into the archive", "%s went through", segment)
	switch {
	case f.RestoreCommand != "":
		err = fetchBack(ctx, f, segment, a.config.Cluster.StateDir)
	case f.InRecovery:
		k.say("restore_command", unwise, "pgha-backup patroni setup --apply sets it", "empty: a standby that falls behind its leader's WAL cannot catch up")
	}
	if err != nil {
		k.trouble("restore_command", err)
	} else if f.RestoreCommand != "" {
		k.good("restore_command", "%s came back", segment)
	}
}

// forced ends a segment that has something in it, and waits until it is archived.
func forced(ctx context.Context, s *server.Server, f server.Facts, repository *catalog.Repository) (postgres.Segment, error) {
	lsn, err := s.CreateRestorePoint(ctx, "pgha-backup check")
	segment := postgres.SegmentAt(f.Timeline, max(lsn, 1)-1, f.SegmentSize)
	if err == nil {
		err = s.SwitchWAL(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, wayLimit)
	defer cancel()
	for err == nil {
		_, err = repository.StatWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: segment})
		if !errors.Is(err, storage.ErrNotExist) {
			break
		}
		err = nil
		select {
		case <-ctx.Done():
			err = fail(exitDegraded, "look for archive-push in the server's log", "%s was not archived within %s of its end", segment, wayLimit)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return segment, err
}

// pushAgain takes the newest segment that both the archive and this standby have. It
// lies behind the replayed position on the timeline of the last restartpoint, so no
// fork is near.
func (a *app) pushAgain(ctx context.Context, s *server.Server, f server.Facts, repository *catalog.Repository) (found postgres.Segment, err error) {
	p, err := s.Position(ctx)
	if err != nil {
		return found, err
	}
	const back = 64 // segments that a standby surely has no more
	now := postgres.SegmentAt(f.Timeline, p.LSN, f.SegmentSize).Number(f.SegmentSize)
	from := postgres.LSN((now - min(now, back)) * uint64(f.SegmentSize))
	entries, err := repository.Segments(ctx, f.Timeline, postgres.SegmentAt(f.Timeline, from, f.SegmentSize))
	if err != nil {
		return found, err
	}
	for _, e := range entries {
		here := filepath.Join(f.DataDirectory, "pg_wal", e.File.String())
		if _, err := os.Stat(here); err == nil && e.File.Segment.Number(f.SegmentSize) < now {
			found = e.File.Segment
		}
	}
	if found == (postgres.Segment{}) {
		return found, fail(exitDegraded, "run check on the leader first: it archives one", "the archive and this standby have no segment of timeline %d in common", uint32(f.Timeline))
	}
	if f.ArchiveCommand == "" {
		return found, fail(exitDegraded, "pgha-backup patroni setup --apply sets it", "archive_command is empty: this member would not archive as a leader")
	}
	return found, runAs(ctx, f, f.ArchiveCommand, found.Name(), "pg_wal/"+found.Name())
}

// fetchBack brings a segment to a directory of ours.
func fetchBack(ctx context.Context, f server.Facts, segment postgres.Segment, state string) error {
	dir, err := os.MkdirTemp(state, ".check-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, segment.Name())
	if err := runAs(ctx, f, f.RestoreCommand, segment.Name(), to); err != nil {
		return err
	}
	if info, err := os.Stat(to); err != nil || info.Size() != int64(f.SegmentSize) {
		return fail(exitDegraded, "", "restore_command said 0 and brought no whole segment")
	}
	return nil
}

// runAs runs a command of the server's configuration as the server does.
func runAs(ctx context.Context, f server.Facts, command, file, path string) error {
	ctx, cancel := context.WithTimeout(ctx, wayLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", strings.NewReplacer("%%", "%", "%f", file, "%p", path).Replace(command))
	cmd.Dir, cmd.WaitDelay = f.DataDirectory, 5*time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		said := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fail(exitDegraded, "run it by hand, as this user", "%s: %w: %s", command, err, said[len(said)-1])
	}
	return nil
}
