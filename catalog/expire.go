package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Expired is expired.json, the tombstone: its presence hides the backup. It stays
// when the data is gone, so that a late run of the same ID is not taken for new.
type Expired struct {
	Format int       `json:"format"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Stored time.Time `json:"-"` // when the store got it
}

// Removal is removal.json: from here on the backup's data is being deleted and
// nothing brings it back. It is the last object that goes.
type Removal struct {
	Format int       `json:"format"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Run    RunID     `json:"run"`
}

// ErrExpired: expiry has taken the backup, or what it stands on.
var ErrExpired = errors.New("the backup has expired")

// Expire hides a backup. One that is hidden already stays so.
func (r *Repository) Expire(ctx context.Context, id BackupID, e Expired) error {
	e.Format = Format
	return r.once(ctx, r.keys.backup(id, expiredName), e)
}

// BeginRemoval says that a hidden backup's data is being deleted.
func (r *Repository) BeginRemoval(ctx context.Context, id BackupID, e Removal) error {
	e.Format = Format
	return r.once(ctx, r.keys.backup(id, removalName), e)
}

// once stores a record of which any content says the same.
func (r *Repository) once(ctx context.Context, key storage.Key, v any) error {
	err := r.createDocument(ctx, key, v)
	if errors.Is(err, storage.ErrExist) {
		return nil
	}
	return err
}

// Unexpire shows a hidden backup again. Its manifest must be there.
func (r *Repository) Unexpire(ctx context.Context, id BackupID) error {
	return r.remove(ctx, r.keys.backup(id, removalName), r.keys.backup(id, expiredName))
}

func (r *Repository) remove(ctx context.Context, keys ...storage.Key) error {
	for _, key := range keys {
		if err := r.bucket.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove %s: %w", key, err)
		}
	}
	return nil
}

// Remove deletes a backup whose removal has begun: the manifest, the packs, its
// holds and the record of the removal, in this order. The tombstone stays.
func (r *Repository) Remove(ctx context.Context, id BackupID, run RunID) error {
	if err := r.remove(ctx, r.keys.backup(id, manifestName)); err != nil {
		return err
	}
	if err := r.removeBelow(ctx, r.keys.run(id, run, "")); err != nil {
		return err
	}
	if err := r.removeBelow(ctx, r.keys.holds(id)); err != nil {
		return err
	}
	return r.remove(ctx, r.keys.backup(id, removalName))
}

// RemoveRun deletes what an unfinished run has left. First its started record, which
// a committer looks for after its manifest, then, if there is still no manifest that
// names it, the rest: so either the run commits or it goes, never both.
func (r *Repository) RemoveRun(ctx context.Context, id BackupID, run RunID) error {
	if err := r.remove(ctx, r.keys.run(id, run, startedName)); err != nil {
		return err
	}
	m, err := r.Manifest(ctx, id)
	switch {
	case err == nil && m.Run == run:
		return fmt.Errorf("remove run %s of backup %s: it has committed meanwhile", run, id)
	case err != nil && !errors.Is(err, storage.ErrNotExist):
		return err
	}
	return r.removeBelow(ctx, r.keys.run(id, run, ""))
}

// Forget deletes a tombstone that is all that is left of a backup.
func (r *Repository) Forget(ctx context.Context, id BackupID) error {
	return r.remove(ctx, r.keys.backup(id, expiredName))
}

func (r *Repository) removeBelow(ctx context.Context, prefix storage.Key) error {
	return r.removeListed(ctx, func(yield func(storage.Key, error) bool) {
		for object, err := range r.bucket.List(ctx, prefix, "") {
			if !yield(object.Key, err) {
				return
			}
		}
	})
}

// removers bound the deletions in flight.
const removers = 8

func (r *Repository) removeListed(ctx context.Context, keys func(func(storage.Key, error) bool)) error {
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(removers)
	var failed error
	for key, err := range keys {
		if failed = err; err != nil || within.Err() != nil {
			break
		}
		group.Go(func() error { return r.remove(within, key) })
	}
	return errors.Join(failed, group.Wait())
}

// RemoveWAL deletes the segments, partial segments, backup history files and
// conflicts of the timelines that gone tells to, oldest first, and returns how many
// objects. Timeline histories stay for ever (R4).
func (r *Repository) RemoveWAL(ctx context.Context, timelines []postgres.TimelineID, gone func(postgres.Segment) bool) (n int, err error) {
	for _, tli := range timelines {
		err := r.removeListed(ctx, func(yield func(storage.Key, error) bool) {
			for entry, err := range r.ListWAL(ctx, tli, postgres.WALFile{}) {
				if err == nil && !gone(entry.File.Segment) {
					continue
				}
				n++
				if !yield(r.keys.wal(entry.File), err) {
					return
				}
			}
		})
		if err != nil {
			return n, err
		}
	}
	// A resolution sorts after the contents that it judges, and goes after them.
	for object, err := range r.bucket.List(ctx, r.keys.conflicts(), "") {
		if err != nil {
			return n, fmt.Errorf("list WAL conflicts: %w", err)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(r.keys.conflicts())), "/")
		file, err := postgres.ParseWALFile(name)
		if err != nil || file.Kind == postgres.WALHistory || !gone(file.Segment) {
			continue
		}
		if err := r.remove(ctx, object.Key); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
