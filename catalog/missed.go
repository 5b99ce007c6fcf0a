package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Missed is report/missed/<BackupID>: a scheduled time that went by without a
// backup. Whoever sees it first writes it, and its word stays. A manifest of the
// same name outranks it.
type Missed struct {
	Format int       `json:"format"`
	Backup BackupID  `json:"backup"` // the one that was not taken
	Reason string    `json:"reason"`
	By     string    `json:"by"` // the member that saw it
	At     time.Time `json:"at"` // when it saw it
}

func (l layout) missed(id BackupID) storage.Key { return l.key("report", "missed", string(id)) }

// Taken tells whether a backup was committed, be it expired since.
func (r *Repository) Taken(ctx context.Context, id BackupID) (bool, error) {
	for _, name := range []string{manifestName, expiredName} {
		switch _, err := r.bucket.Head(ctx, r.keys.backup(id, name)); {
		case err == nil:
			return true, nil
		case !errors.Is(err, storage.ErrNotExist):
			return false, fmt.Errorf("look for backup %s: %w", id, err)
		}
	}
	return false, nil
}

// ReportMissed records that a scheduled time was missed, unless that is known.
func (r *Repository) ReportMissed(ctx context.Context, m Missed) error {
	if _, err := ParseBackupID(string(m.Backup)); err != nil {
		return err
	}
	m.Format, m.At = Format, m.At.UTC().Truncate(time.Second)
	if err := r.createDocument(ctx, r.keys.missed(m.Backup), m); err != nil && !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("report %s as missed: %w", m.Backup, err)
	}
	return nil
}

// MissedIDs names what was reported as missed, oldest first.
func (r *Repository) MissedIDs(ctx context.Context) (found []BackupID, err error) {
	root := r.keys.missed("")
	for object, err := range r.bucket.List(ctx, root, "") {
		if err != nil {
			return nil, fmt.Errorf("list missed backups: %w", err)
		}
		if id, err := ParseBackupID(strings.TrimPrefix(string(object.Key), string(root))); err == nil {
			found = append(found, id)
		}
	}
	return found, nil
}

// Missed reads one report: storage.ErrNotExist if there is none.
func (r *Repository) Missed(ctx context.Context, id BackupID) (Missed, error) {
	var m Missed
	key := r.keys.missed(id)
	if err := r.readDocument(ctx, key, 1<<16, &m); err != nil {
		return Missed{}, err
	}
	if m.Backup != id {
		return Missed{}, fmt.Errorf("%s: %w: names backup %q", key, codec.ErrCorrupt, m.Backup)
	}
	return m, nil
}
