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

// ErrShown: the backup is not to be removed any more.
var ErrShown = errors.New("the backup was shown again")

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
// holds and the record of the removal, in this order. The tombstone stays. Without
// that record it is ErrShown, and nothing is deleted.
func (r *Repository) Remove(ctx context.Context, id BackupID, run RunID) error {
	// Another expiry, by another policy, may have shown it again while this one stood still.
	_, err := r.bucket.Head(ctx, r.keys.backup(id, removalName))
	if errors.Is(err, storage.ErrNotExist) {
		err = ErrShown
	}
	if err != nil {
		return fmt.Errorf("remove backup %s: %w", id, err)
	}
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
	_, err := r.removeListed(ctx, prefix, func(storage.Object) bool { return true })
	return err
}

// removers bound the deletions in flight.
const removers = 8

// removeListed deletes what gone tells to, in the order of the list.
func (r *Repository) removeListed(ctx context.Context, prefix storage.Key, gone func(storage.Object) bool) (n int, failed error) {
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(removers)
	for object, err := range r.bucket.List(within, prefix, "") {
		if failed = err; err != nil || within.Err() != nil {
			break
		}
		if gone(object) {
			n++
			group.Go(func() error { return r.remove(within, object.Key) })
		}
	}
	return n, errors.Join(group.Wait(), failed)
}

// RemoveWAL deletes the segments, partial segments, backup history files and
// conflicts of the timelines that gone tells to, oldest first, and returns how many
// objects. Timeline histories stay for ever (R4).
func (r *Repository) RemoveWAL(ctx context.Context, timelines []postgres.TimelineID, gone func(postgres.Segment) bool) (n int, err error) {
	for _, tli := range timelines {
		removed, err := r.removeListed(ctx, r.keys.walTimeline(tli), func(o storage.Object) bool {
			file, err := postgres.ParseWALFile(string(o.Key)[strings.LastIndexByte(string(o.Key), '/')+1:])
			return err == nil && r.keys.wal(file) == o.Key && gone(file.Segment)
		})
		if n += removed; err != nil {
			return n, fmt.Errorf("remove WAL of timeline %s: %w", tli, err)
		}
	}
	removed, err := r.removeListed(ctx, r.keys.conflicts(), func(o storage.Object) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(string(o.Key), string(r.keys.conflicts())), "/")
		file, err := postgres.ParseWALFile(name)
		return err == nil && file.Kind != postgres.WALHistory && gone(file.Segment)
	})
	if err != nil {
		err = fmt.Errorf("remove conflicts of WAL: %w", err)
	}
	return n + removed, err
}
