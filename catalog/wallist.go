package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

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

// AnyAfter tells whether the archive holds WAL of the file's timeline that comes
// after it, or, for a history file, anything of its timeline or a later one (R9).
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
		return false, nil
	}
	// "wal/00000002" sorts before its history file and its segments.
	after := storage.Key(string(r.keys.walRoot()) + file.Segment.Timeline.String())
	name, err := firstName(ctx, r.bucket, r.keys.walRoot(), after)
	return name != "", err
}

// Timelines lists every timeline of which the archive holds a segment or a history.
func (r *Repository) Timelines(ctx context.Context) ([]postgres.TimelineID, error) {
	var found []postgres.TimelineID
	root := r.keys.walRoot()
	for after := storage.Key(""); ; {
		name, err := firstName(ctx, r.bucket, root, after)
		if err != nil || name == "" {
			return found, err
		}
		digits, _, _ := strings.Cut(name, ".")
		file, err := postgres.ParseWALFile(digits + ".history")
		after = root + storage.Key(name) + "0"
		if err != nil {
			continue
		}
		tli := file.Segment.Timeline
		if n := len(found); n == 0 || found[n-1] != tli {
			found = append(found, tli)
		}
		if !strings.Contains(name, ".") {
			continue
		}
		after = root + storage.Key(name) // the segments follow right behind the history
	}
}

// Histories reads every timeline history in the archive.
func (r *Repository) Histories(ctx context.Context) (map[postgres.TimelineID]postgres.TimelineHistory, error) {
	timelines, err := r.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	found := map[postgres.TimelineID]postgres.TimelineHistory{}
	for _, tli := range timelines {
		history, err := r.History(ctx, tli)
		if err != nil {
			if errors.Is(err, storage.ErrNotExist) {
				continue // timeline 1 has none; for others the planner refuses
			}
			return nil, err
		}
		found[tli] = history
	}
	return found, nil
}

// History reads one timeline's history: storage.ErrNotExist if it is not archived.
func (r *Repository) History(ctx context.Context, tli postgres.TimelineID) (postgres.TimelineHistory, error) {
	var text bytes.Buffer
	if _, err := r.GetWAL(ctx, postgres.HistoryFile(tli), &text); err != nil {
		return postgres.TimelineHistory{}, err
	}
	return postgres.ParseTimelineHistory(tli, text.Bytes())
}
