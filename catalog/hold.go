package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Hold is hold/<BackupID>/<name>: while it is there and not over, the backup is not
// removed. It is never changed; to release it is to delete it.
type Hold struct {
	Format int       `json:"format"`
	Backup BackupID  `json:"backup"`
	Name   string    `json:"name"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is released
	// Restore is set by a running restore: WAL from the backup on stays too.
	Restore bool `json:"restore,omitempty"`
}

// Active tells whether the hold still counts.
func (h Hold) Active(now time.Time) bool { return h.Until.IsZero() || now.Before(h.Until) }

// Hold writes a hold, and shows the backup again if it was hidden. ErrNoBackup if
// there is no such backup, ErrExpired if its data is being removed already,
// storage.ErrExist if it has another hold of that name.
func (r *Repository) Hold(ctx context.Context, h Hold) error {
	if err := r.hold(ctx, h); err != nil || h.Restore {
		return err
	}
	return r.Unexpire(ctx, h.Backup)
}

// hold writes first and looks then; a remover does it the other way round, so one
// of them sees the other.
func (r *Repository) hold(ctx context.Context, h Hold) error {
	if _, err := ParseBackupID(string(h.Backup)); err != nil {
		return err
	}
	if len(h.Name) > 63 || !wordPattern.MatchString(h.Name) {
		return fmt.Errorf("hold %q: want lower-case letters, digits and single '-', at most 63", h.Name)
	}
	h.Format = Format
	key := r.keys.hold(h.Backup, h.Name)
	if err := r.createDocument(ctx, key, h); err != nil {
		return fmt.Errorf("hold backup %s: %w", h.Backup, err)
	}
	_, err := r.bucket.Head(ctx, r.keys.backup(h.Backup, manifestName))
	if err == nil {
		switch _, err = r.bucket.Head(ctx, r.keys.backup(h.Backup, removalName)); {
		case errors.Is(err, storage.ErrNotExist):
			return nil
		case err == nil:
			err = fmt.Errorf("hold backup %s: %w and is being removed", h.Backup, ErrExpired)
		}
	} else if errors.Is(err, storage.ErrNotExist) {
		err = fmt.Errorf("%w: %q", ErrNoBackup, h.Backup)
	}
	return errors.Join(err, r.remove(context.WithoutCancel(ctx), key))
}

// Release deletes a hold.
func (r *Repository) Release(ctx context.Context, id BackupID, name string) error {
	return r.remove(ctx, r.keys.hold(id, name))
}

// Holds reads every hold, also those that are over.
func (r *Repository) Holds(ctx context.Context) ([]Hold, error) {
	root := r.keys.key("hold") + "/"
	objects, err := r.listTwice(ctx, root)
	if err != nil {
		return nil, err
	}
	var found []Hold
	for _, object := range objects {
		id, name, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(root)), "/")
		var h Hold
		if err := r.readDocument(ctx, object.Key, 1<<16, &h); err != nil {
			return nil, err
		}
		if string(h.Backup) != id || h.Name != name {
			return nil, fmt.Errorf("%s: %w: names hold %q of backup %q", object.Key, codec.ErrCorrupt, h.Name, h.Backup)
		}
		found = append(found, h)
	}
	return found, nil
}

// restoreHold is longer than any restore; a killed one leaves its hold for so long.
const restoreHold = 72 * time.Hour

// HoldForRestore keeps a backup and the WAL after it until release is called. One
// that cannot be written is a warning: reading needs no right to write.
func (r *Repository) HoldForRestore(ctx context.Context, id BackupID, by string, log *slog.Logger) (release func()) {
	now := time.Now().UTC().Truncate(time.Second)
	h := Hold{Backup: id, Name: "restore-" + randomHex(4), Reason: "a restore is running", By: by, At: now, Until: now.Add(restoreHold), Restore: true}
	if err := r.Hold(ctx, h); err != nil {
		log.Warn("the repository does not know of this restore: expiry may remove the backup under it", "backup", id, "why", err)
		return func() {}
	}
	return func() {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := r.Release(within, id, h.Name); err != nil {
			log.Warn("the hold of this restore is left, and ends by itself", "backup", id, "hold", h.Name, "why", err)
		}
	}
}
