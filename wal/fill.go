package wal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Stock remembers what the archive has, so that each file is asked for until it is
// there, and no longer.
type Stock struct{ has map[postgres.WALFile]bool }

// Lacks tells what of the wanted files the archive lacks: one LIST for a timeline of
// which anything is not known to be there.
func (s *Stock) Lacks(ctx context.Context, r *catalog.Repository, wanted []postgres.WALFile) (lacks map[postgres.WALFile]bool, err error) {
	lacks = map[postgres.WALFile]bool{}
	lowest := map[postgres.TimelineID]postgres.Segment{}
	for _, f := range wanted {
		if s.has[f] || lacks[f] {
			continue
		}
		lacks[f] = true
		if f.Kind == postgres.WALHistory {
			_, err := r.StatWAL(ctx, f)
			if err == nil {
				delete(lacks, f)
			} else if !errors.Is(err, storage.ErrNotExist) {
				return nil, err
			}
			continue
		}
		low, ok := lowest[f.Segment.Timeline]
		if !ok || f.Segment.Log < low.Log || f.Segment.Log == low.Log && f.Segment.Seg < low.Seg {
			lowest[f.Segment.Timeline] = f.Segment
		}
	}
	for tli, from := range lowest {
		entries, err := r.Segments(ctx, tli, from)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			delete(lacks, e.File)
		}
	}
	s.has = map[postgres.WALFile]bool{}
	for _, f := range wanted {
		s.has[f] = !lacks[f]
	}
	return lacks, nil
}

// IncompleteError refuses to fill a hole with a file that does not hold all that its
// name says.
type IncompleteError struct {
	File postgres.WALFile
	Err  error
}

func (e *IncompleteError) Error() string { return fmt.Sprintf("%s is not complete: %v", e.File, e.Err) }

func (e *IncompleteError) Unwrap() error { return e.Err }

// Fill is Push of a file that PostgreSQL has not handed over: it must be complete (R2).
func (p *Pusher) Fill(ctx context.Context, path string) (catalog.PutOutcome, error) {
	file, err := postgres.ParseWALFile(filepath.Base(path))
	if err != nil {
		return "", err
	}
	src, err := readSource(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", err
	case err == nil && src.unread != nil:
		err = src.unread
	case err == nil && src.facts != nil && !src.facts.Complete(src.size):
		err = errors.New(src.facts.Stop)
	}
	if err != nil { // a damaged one too: it must not hold up those behind it
		src.close()
		return "", &IncompleteError{file, err}
	}
	return p.store(ctx, path, src, nil)
}

// Frontier is what a daemon writes down for pre-promote: all of the server's branch
// below this segment is archived.
type Frontier struct {
	System  postgres.SystemIdentifier `json:"system_identifier"`
	Segment postgres.Segment          `json:"segment"`
	At      time.Time                 `json:"at"`
}

func frontierFile(state string) string { return filepath.Join(state, "frontier.json") }

// ReadFrontier reads what Write wrote.
func ReadFrontier(state string) (f Frontier, err error) {
	b, err := os.ReadFile(frontierFile(state))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	return f, err
}

// Write replaces what was there.
func (f Frontier) Write(state string) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return atomicfile.Write(frontierFile(state), append(b, '\n'), 0o600)
}
