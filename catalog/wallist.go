package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// WALEntry is one name in the archive.
type WALEntry struct {
	File postgres.WALFile
	Size int64 // as stored
	// Archived is when the store got it, by the store's clock.
	Archived time.Time
	key      storage.Key
}

// ListWAL yields a timeline's segments, partials and backup history files in
// order, beginning after the file `after` (zero: from the first).
func (r *Repository) ListWAL(ctx context.Context, tli postgres.TimelineID, after postgres.WALFile) iter.Seq2[WALEntry, error] {
	if after.Kind == 0 {
		return r.listWAL(ctx, tli, "")
	}
	return r.listWAL(ctx, tli, r.keys.wal(after))
}

func (r *Repository) listWAL(ctx context.Context, tli postgres.TimelineID, from storage.Key) iter.Seq2[WALEntry, error] {
	return func(yield func(WALEntry, error) bool) {
		resolved, err := r.resolutions(ctx)
		if err != nil {
			yield(WALEntry{}, err)
			return
		}
		for object, err := range r.bucket.List(ctx, r.keys.walTimeline(tli), from) {
			if err != nil {
				yield(WALEntry{}, fmt.Errorf("list WAL of timeline %s: %w", tli, err))
				return
			}
			name := string(object.Key)[strings.LastIndexByte(string(object.Key), '/')+1:]
			file, err := postgres.ParseWALFile(name)
			if err != nil || r.keys.wal(file) != object.Key {
				continue // not one of ours: never read, never counted
			}
			entry := WALEntry{File: file, Size: object.Size, Archived: object.Modified, key: object.Key}
			if _, ok := resolved[name]; ok {
				entry.key = "" // StatWALEntry looks where the resolution points
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// Segments lists the whole segments of a timeline from `from` on (zero: all).
func (r *Repository) Segments(ctx context.Context, tli postgres.TimelineID, from postgres.Segment) ([]WALEntry, error) {
	// The name without its last eight digits sorts before every segment of its log.
	first := r.keys.wal(postgres.WALFile{Kind: postgres.WALSegment, Segment: from.On(tli)})
	var found []WALEntry
	for entry, err := range r.listWAL(ctx, tli, first[:len(first)-8]) {
		if err != nil {
			return nil, err
		}
		s := entry.File.Segment
		if entry.File.Kind == postgres.WALSegment && (s.Log > from.Log || s.Log == from.Log && s.Seg >= from.Seg) {
			found = append(found, entry)
		}
	}
	return found, nil
}

// AnyAfter tells whether the archive goes on behind a file (R9): with WAL of its
// timeline, or with a timeline that left this one at or behind the segment's end;
// for a history file, with anything of its timeline or a later one.
func (r *Repository) AnyAfter(ctx context.Context, file postgres.WALFile) (bool, error) {
	if file.Kind != postgres.WALHistory {
		for entry, err := range r.ListWAL(ctx, file.Segment.Timeline, file) {
			if err != nil {
				return false, err
			}
			s, of := entry.File.Segment, file.Segment
			if s.Log > of.Log || s.Log == of.Log && s.Seg > of.Seg {
				return true, nil
			}
		}
		return r.leftBehind(ctx, file.Segment)
	}
	// "wal/00000002" sorts before its history file and its segments.
	after := storage.Key(string(r.keys.walRoot()) + file.Segment.Timeline.String())
	for _, err := range names(ctx, r.bucket, r.keys.walRoot(), after) {
		return err == nil, err
	}
	return false, nil
}

// leftBehind tells whether the end of a segment, as its own timeline wrote it, lies
// on the way to a later timeline. A fork within the segment leaves that to the
// child, which begins with a segment of this number.
func (r *Repository) leftBehind(ctx context.Context, s postgres.Segment) (bool, error) {
	after := storage.Key(string(r.keys.walRoot()) + s.Timeline.String() + "0") // '0' follows '/'
	for name, err := range names(ctx, r.bucket, r.keys.walRoot(), after) {
		if err != nil {
			return false, err
		}
		file, err := postgres.ParseWALFile(name)
		if err != nil || file.Kind != postgres.WALHistory {
			continue
		}
		history, err := r.history(ctx, file.Segment.Timeline)
		if err != nil {
			return false, err
		}
		info, _, err := r.KnownInfo(ctx)
		if err != nil {
			return false, err
		}
		if history.Contains(s.Timeline, s.End(info.SegmentSize)-1) {
			return true, nil
		}
	}
	return false, nil
}

func (r *Repository) history(ctx context.Context, tli postgres.TimelineID) (postgres.TimelineHistory, error) {
	var h postgres.TimelineHistory
	err := Twice(func() error {
		var text bytes.Buffer
		_, err := r.GetWAL(ctx, postgres.HistoryFile(tli), &text)
		if err != nil {
			return err
		}
		if h, err = postgres.ParseTimelineHistory(tli, text.Bytes()); err != nil {
			err = fmt.Errorf("%w: %w", codec.ErrCorrupt, err)
		}
		return err
	})
	return h, err
}

// Timelines lists every timeline of which the archive holds a segment or a history.
func (r *Repository) Timelines(ctx context.Context) ([]postgres.TimelineID, error) {
	var found []postgres.TimelineID
	for name, err := range names(ctx, r.bucket, r.keys.walRoot(), "") {
		if err != nil {
			return nil, err
		}
		digits, _, _ := strings.Cut(name, ".")
		file, err := postgres.ParseWALFile(digits + ".history")
		if tli := file.Segment.Timeline; err == nil && (len(found) == 0 || found[len(found)-1] != tli) { // listed in order
			found = append(found, tli)
		}
	}
	return found, nil
}

// maxAllForks is what all histories of a cluster with 2,000 failovers hold.
const maxAllForks = 2_000_000

// Histories reads every timeline history in the archive. Timeline 1 has none; where
// another's is missing or unreadable, a planner refuses.
func (r *Repository) Histories(ctx context.Context) (found map[postgres.TimelineID]postgres.TimelineHistory, broken []Unreadable, err error) {
	timelines, err := r.Timelines(ctx)
	if err != nil {
		return nil, nil, err
	}
	found = map[postgres.TimelineID]postgres.TimelineHistory{}
	forks := 0
	for _, tli := range timelines {
		h, err := r.history(ctx, tli)
		if forks += len(h.Entries); forks > maxAllForks {
			err = fmt.Errorf("%w: all histories together have more than %d entries", codec.ErrCorrupt, maxAllForks)
		}
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err == nil {
			found[tli] = h
		} else if err := (*unreadables)(&broken).add("", r.keys.wal(postgres.HistoryFile(tli)), err); err != nil {
			return nil, nil, err
		}
	}
	return found, broken, nil
}
