package wal

import (
	"context"
	"errors"
	"fmt"
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

// Way is the way into the archive and back, walked with the server's own commands.
type Way struct {
	Server     *server.Server
	Facts      server.Facts
	Repository *catalog.Repository
	State      string // directory for a file that is brought back
}

// WayError tells that a file did not go through.
type WayError struct{ Problem, Advice string }

func (e *WayError) Error() string { return e.Problem }

// Hint says what an operator does next.
func (e *WayError) Hint() string { return e.Advice }

func lost(advice, format string, args ...any) error {
	return &WayError{fmt.Sprintf(format, args...), advice}
}

// Into proves the way into the archive, of a segment that it names. On a primary one
// is switched and waited for. A standby, which archives nothing, pushes once more what
// the archive has: that changes nothing there.
func (w Way) Into(ctx context.Context) (postgres.Segment, error) {
	if w.Facts.InRecovery {
		return w.again(ctx)
	}
	return w.forced(ctx)
}

// forced ends a segment that has something in it, and waits until it is archived.
func (w Way) forced(ctx context.Context) (postgres.Segment, error) {
	s, f := w.Server, w.Facts
	lsn, err := s.CreateRestorePoint(ctx, "pgha-backup check")
	segment := postgres.SegmentAt(f.Timeline, max(lsn, 1)-1, f.SegmentSize)
	if err == nil {
		err = s.SwitchWAL(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, wayLimit)
	defer cancel()
	for err == nil {
		_, err = w.Repository.StatWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: segment})
		if !errors.Is(err, storage.ErrNotExist) {
			break
		}
		err = nil
		select {
		case <-ctx.Done():
			err = lost("look for archive-push in the server's log", "%s was not archived within %s of its end", segment, wayLimit)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return segment, err
}

// again takes the newest segment that both the archive and this standby have, of the
// timeline of the last restartpoint. The one in which that timeline was left is valid
// here up to the fork alone, and would be taken for another content.
func (w Way) again(ctx context.Context) (found postgres.Segment, err error) {
	f := w.Facts
	p, err := w.Server.Position(ctx)
	if err != nil {
		return found, err
	}
	const back = 64 // segments that a standby surely has no more
	now := postgres.SegmentAt(f.Timeline, p.LSN, f.SegmentSize).Number(f.SegmentSize)
	from := postgres.LSN((now - min(now, back)) * uint64(f.SegmentSize))
	entries, err := w.Repository.Segments(ctx, f.Timeline, postgres.SegmentAt(f.Timeline, from, f.SegmentSize))
	if err != nil {
		return found, err
	}
	h, err := ReadHoldings(f.DataDirectory)
	if err != nil {
		return found, err
	}
	for _, e := range entries {
		if e.File.Segment.End(f.SegmentSize) > h.Left(f.Timeline) {
			break
		}
		if h.Files[e.File] && e.File.Segment.Number(f.SegmentSize) < now {
			found = e.File.Segment
		}
	}
	if found == (postgres.Segment{}) {
		return found, lost("run check on the leader first: it archives one", "the archive and this standby have no segment of timeline %d in common", uint32(f.Timeline))
	}
	if f.ArchiveCommand == "" {
		return found, lost("pgha-backup patroni setup --apply sets it", "archive_command is empty: this member would not archive as a leader")
	}
	return found, runAs(ctx, f, f.ArchiveCommand, found.Name(), "pg_wal/"+found.Name())
}

// Back brings an archived segment to a directory of ours, by restore_command.
func (w Way) Back(ctx context.Context, segment postgres.Segment) error {
	f := w.Facts
	dir, err := os.MkdirTemp(w.State, ".check-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, segment.Name())
	if err := runAs(ctx, f, f.RestoreCommand, segment.Name(), to); err != nil {
		return err
	}
	if info, err := os.Stat(to); err != nil || info.Size() != int64(f.SegmentSize) {
		return lost("", "restore_command said 0 and brought no whole segment")
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
		return lost("run it by hand, as this user", "%s: %v: %s", command, err, said[len(said)-1])
	}
	return nil
}
