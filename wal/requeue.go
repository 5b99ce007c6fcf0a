package wal

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// How long a promotion waits for the archive's answer and for all of it, how many marks
// are turned, and how many blindly: what is left is the daemon's.
const (
	askLimit     = 300 * time.Millisecond
	requeueLimit = 700 * time.Millisecond
	requeueMost  = 4096
	requeueBlind = 128
	scanMost     = 64 << 20 // a larger segment takes too long to be walked
	askedHistory = 4        // the newest histories
)

// Requeued tells what a promotion has put back into the archiver's queue.
type Requeued struct {
	Queued, Lacking int
	By              string // who said what is lacking
}

func (r Requeued) String() string {
	return fmt.Sprintf("%d of %d files that the archive lacks queued again, as known from %s", r.Queued, r.Lacking, r.By)
}

// Requeue turns .done into .ready for what the archive lacks of the server's own branch,
// before the server is promoted: a standby marks what it receives as archived, and
// PostgreSQL would never archive it (R14).
func Requeue(ctx context.Context, dataDir, state string, open func(postgres.SystemIdentifier) (*catalog.Repository, error)) (Requeued, error) {
	ctx, cancel := context.WithTimeout(ctx, requeueLimit)
	defer cancel()
	h, err := ReadHoldings(dataDir)
	if err != nil {
		return Requeued{}, err
	}
	if newest := slices.Max(append(slices.Collect(maps.Keys(h.Histories)), h.Timeline)); h.Histories[newest].Descends(h.Timeline) {
		h.Timeline = newest
	}
	closed := h.closed()
	if n := len(closed); n > 0 && !h.whole(closed[n-1]) {
		closed = closed[:n-1] // a primary that is shut down leaves the segment that it wrote closed, and not complete
	}
	files, by := h.lacking(ctx, closed, state, open)
	r := Requeued{Lacking: len(files), By: by}
	for _, file := range files {
		if ctx.Err() != nil || r.Queued == requeueMost {
			break
		}
		mark := filepath.Join(h.Dir, "archive_status", file.String())
		if err := os.Rename(mark+".done", mark+".ready"); err != nil {
			return r, fmt.Errorf("queue again, after %d of %d files: %w", r.Queued, r.Lacking, err)
		}
		r.Queued++
	}
	return r, nil
}

// closed are the files marked as archived of which the own branch needs all that their
// names say, as names and histories tell (R2).
func (h Holdings) closed() (found []postgres.WALFile) {
	own := h.branch()
	for f := range h.Done {
		tli := f.Segment.Timeline
		if h.Files[f] && own.Descends(tli) && (f.Kind == postgres.WALHistory || f.Segment.End(h.Size) <= h.Left(tli)) {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, h.older)
	histories := slices.IndexFunc(found, func(f postgres.WALFile) bool { return f.Kind == postgres.WALSegment })
	if histories < 0 {
		histories = len(found)
	}
	return found[max(0, histories-askedHistory):]
}

// whole walks a segment that names alone do not show to be complete.
func (h Holdings) whole(f postgres.WALFile) bool {
	if f.Kind == postgres.WALHistory {
		return true
	}
	if h.Size > scanMost {
		return false
	}
	src, err := readSource(filepath.Join(h.Dir, f.String()), nil)
	return err == nil && src.facts.Complete(h.Size)
}

// lacking picks what is not archived: by the archive's word, else by the daemon's last,
// else the newest ones.
func (h Holdings) lacking(ctx context.Context, closed []postgres.WALFile, state string, open func(postgres.SystemIdentifier) (*catalog.Repository, error)) (files []postgres.WALFile, by string) {
	if lacks, err := ask(ctx, h.System, closed, open); err == nil {
		return slices.DeleteFunc(closed, func(f postgres.WALFile) bool { return !lacks[f] }), "the archive"
	}
	if f, err := ReadFrontier(state); err == nil && f.System == h.System && h.On(f.Segment) {
		return slices.DeleteFunc(closed, func(c postgres.WALFile) bool {
			return c.Kind == postgres.WALSegment && c.Segment.Start(h.Size) < f.Segment.Start(h.Size)
		}), "the daemon at " + f.At.UTC().Format(time.RFC3339)
	}
	return closed[max(0, len(closed)-requeueBlind):], "nobody: the newest are taken"
}

// ask asks the archive, and does not wait for a call that its time limit does not end.
func ask(ctx context.Context, system postgres.SystemIdentifier, files []postgres.WALFile, open func(postgres.SystemIdentifier) (*catalog.Repository, error)) (map[postgres.WALFile]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	type answer struct {
		lacks map[postgres.WALFile]bool
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		repository, err := open(system)
		var lacks map[postgres.WALFile]bool
		if err == nil {
			lacks, err = new(Stock).Lacks(ctx, repository, files)
		}
		answered <- answer{lacks, err}
	}()
	select {
	case a := <-answered:
		return a.lacks, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
