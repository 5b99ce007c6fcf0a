package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Survey is a repository at one moment: what could be restored now, and what not.
type Survey struct {
	Info    Info
	Backups []Surveyed // oldest first
	Archive Archive
	// Windows are the spans of time that can be restored to, in the order of their
	// beginning. A gap ends one and a later backup begins the next.
	Windows []Window
	// Conflicts are WAL files of which two contents are kept, undecided.
	Conflicts []string
	// Unreadable are manifests, histories and resolutions that are there and say nothing.
	Unreadable []Unreadable
}

// Surveyed is a backup with what the archive lacks of it.
type Surveyed struct {
	Manifest Manifest
	State    BackupState
	Lacks    []postgres.Segment
}

// BackupState is one word for a backup.
type BackupState string

// The states. Only a backup that is OK counts as a good one.
const (
	BackupOK         BackupState = "ok"
	BackupDamaged    BackupState = "damaged"
	BackupWALMissing BackupState = "wal missing"
)

// Window is a span of time without a hole.
type Window struct {
	Backup BackupID  `json:"backup"` // the oldest one in it
	From   time.Time `json:"from"`   // when that backup became consistent
	// Last is the last segment that can be replayed, To the last commit or abort in
	// the archive up to there; zero if there is none after the backup.
	Last     postgres.Segment `json:"last_segment"`
	To       time.Time        `json:"to,omitzero"`
	Archived time.Time        `json:"archived,omitzero"` // when the store got Last, where known
}

// Survey reads manifests and lists WAL: storage.ErrNotExist if nothing was ever archived.
func (r *Repository) Survey(ctx context.Context) (Survey, error) {
	var s Survey
	var err error
	if s.Info, _, err = r.KnownInfo(ctx); err != nil {
		return s, err
	}
	backups, broken, err := r.ReadableBackups(ctx)
	if err != nil {
		return s, err
	}
	if s.Archive, err = r.Archive(ctx); err != nil {
		return s, err
	}
	var unresolved []Unreadable
	if s.Conflicts, unresolved, err = r.Conflicts(ctx); err != nil {
		return s, err
	}
	unread, err := r.readGaps(ctx, &s.Archive)
	if err != nil {
		return s, err
	}
	s.Unreadable = slices.Concat(broken, s.Archive.Unreadable, unresolved, unread)
	for _, m := range backups {
		s.Backups = append(s.Backups, s.Archive.judge(m))
	}
	s.Windows = s.Archive.windows(s.Backups)
	for i := range s.Windows {
		w := &s.Windows[i]
		w.To, err = r.lastCommit(ctx, s.Archive, w.Last)
		last := r.keys.wal(postgres.WALFile{Kind: postgres.WALSegment, Segment: w.Last})
		if err = (*unreadables)(&s.Unreadable).add("", last, err); err != nil {
			return s, err
		}
		if w.To.Before(w.From) {
			w.To = time.Time{} // older than the backup: nothing was committed since
		}
	}
	return s, nil
}

func (a Archive) judge(m Manifest) Surveyed {
	b := Surveyed{Manifest: m, State: BackupOK, Lacks: a.Lacks(m)}
	switch {
	case a.WAL(m) == nil:
		b.State = BackupWALMissing
	case m.Damaged():
		b.State = BackupDamaged
	}
	return b
}

// windows joins the good backups that reach the same end of the archive.
func (a Archive) windows(backups []Surveyed) (found []Window) {
	for _, b := range backups {
		last, ok := a.Frontier(b.Manifest)
		if b.State != BackupOK || !ok {
			continue
		}
		if !slices.ContainsFunc(found, func(w Window) bool { return w.Last == last.File.Segment }) {
			found = append(found, Window{Backup: b.Manifest.ID, From: b.Manifest.StopTime, Last: last.File.Segment, Archived: last.Archived})
		}
	}
	return found
}

// lookBack bounds the search for a commit from the end of the archive, in segments:
// an idle cluster has none for long.
const lookBack = 8

// lastCommit is the time of the newest commit or abort up to a segment, or zero.
func (r *Repository) lastCommit(ctx context.Context, a Archive, s postgres.Segment) (time.Time, error) {
	for range lookBack {
		object, err := r.StatWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: s})
		if err != nil {
			return time.Time{}, fmt.Errorf("read the header of %s: %w", s, err)
		}
		if object.Facts != nil && !object.Facts.MaxTime.IsZero() {
			return object.Facts.MaxTime, nil
		}
		h, ok := a.History(s.Timeline)
		n := s.Number(a.SegmentSize)
		if !ok || n == 0 {
			break
		}
		if s = a.segmentOn(h, n-1); !a.Has(s) {
			break
		}
	}
	return time.Time{}, nil
}

// ErrNoBackup: there is no such backup.
var ErrNoBackup = errors.New("no such backup")

// Find takes a backup's name, an unambiguous beginning of it, or "latest": the
// newest one that is OK.
func (s Survey) Find(name string) (Surveyed, error) {
	if name == "latest" {
		for _, b := range slices.Backward(s.Backups) {
			if b.State == BackupOK {
				return b, nil
			}
		}
		return Surveyed{}, fmt.Errorf("%w: the repository holds none that is whole", ErrNoBackup)
	}
	var found []Surveyed
	for _, b := range s.Backups {
		if string(b.Manifest.ID) == name {
			return b, nil
		}
		if name != "" && strings.HasPrefix(string(b.Manifest.ID), name) {
			found = append(found, b)
		}
	}
	for _, u := range s.Unreadable {
		if len(found) == 0 && name != "" && strings.HasPrefix(string(u.Backup), name) {
			return Surveyed{}, fmt.Errorf("backup %s cannot be read: %w", u.Backup, u.Err)
		}
	}
	switch len(found) {
	case 0:
		return Surveyed{}, fmt.Errorf("%w: %q", ErrNoBackup, name)
	case 1:
		return found[0], nil
	}
	return Surveyed{}, fmt.Errorf("%w: %q is the beginning of %d of them", ErrNoBackup, name, len(found))
}

// IsEmpty tells whether an error of Survey means a repository that was never used.
func IsEmpty(err error) bool { return errors.Is(err, storage.ErrNotExist) }
