package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// StoredBackup is all that lies under one BackupID, whatever its state.
type StoredBackup struct {
	ID       BackupID
	Manifest *Manifest     // nil: never committed, or removed
	Expired  *Expired      // the tombstone; nil: not hidden
	Removal  *Removal      // its data is being deleted
	Runs     []StoredRun   // the committed one among them
	missing  []storage.Key // named by the manifest and not listed
	spoiled  []storage.Key // listed with another size
}

// StoredRun is what the store holds of one attempt at a backup.
type StoredRun struct {
	Run     RunID
	Started *Started  // nil if its record is gone
	Newest  time.Time // when the store got its newest object
	Objects int
	Size    int64 // bytes stored
}

// Inventory is everything that expiry judges by. Both lists come from two
// listings that agree: what only the first one has is an *UnsteadyError.
type Inventory struct {
	Backups []StoredBackup // by ID
	Holds   []Hold
}

// UnsteadyError says that two listings contradict each other: somebody removes
// objects at this moment, or the store gave a short list.
type UnsteadyError struct{ Lost storage.Key }

func (e *UnsteadyError) Error() string {
	return fmt.Sprintf("the store listed %s at first and not again: nothing is decided by such a list", e.Lost)
}

// Hint says what to do.
func (e *UnsteadyError) Hint() string {
	return "run it again when nobody else removes backups; if it stays, the store does not list reliably"
}

// listTwice lists a prefix and believes it only if it lists no less again.
func (r *Repository) listTwice(ctx context.Context, prefix storage.Key) ([]storage.Object, error) {
	first := map[storage.Key]bool{}
	for object, err := range r.bucket.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		first[object.Key] = true
	}
	var found []storage.Object
	for object, err := range r.bucket.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		delete(first, object.Key)
		found = append(found, object)
	}
	if len(first) > 0 {
		return nil, &UnsteadyError{Lost: slices.Min(slices.Collect(maps.Keys(first)))}
	}
	return found, nil
}

// Inventory lists and reads what is below backup/ and hold/, hidden and unfinished
// backups too. One document that cannot be read is an error.
func (r *Repository) Inventory(ctx context.Context) (Inventory, error) {
	objects, err := r.listTwice(ctx, r.keys.backups())
	if err != nil {
		return Inventory{}, err
	}
	byID := map[BackupID]*StoredBackup{}
	sizes := map[storage.Key]int64{}
	for _, object := range objects {
		name, rest, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(r.keys.backups())), "/")
		id, err := ParseBackupID(name)
		if err != nil {
			continue // not one of ours: never read, never counted
		}
		s := byID[id]
		if s == nil {
			s = &StoredBackup{ID: id}
			byID[id] = s
		}
		sizes[object.Key] = object.Size
		if err := r.take(ctx, s, object, rest); err != nil {
			return Inventory{}, err
		}
	}
	var all Inventory
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		s := byID[id]
		if s.Manifest != nil {
			want := s.Manifest.objectSizes()
			for _, name := range slices.Sorted(maps.Keys(want)) {
				key := r.keys.run(id, s.Manifest.Run, name)
				if size, ok := sizes[key]; !ok {
					s.missing = append(s.missing, key)
				} else if size != want[name] {
					s.spoiled = append(s.spoiled, key)
				}
			}
		}
		all.Backups = append(all.Backups, *s)
	}
	all.Holds, err = r.Holds(ctx)
	return all, err
}

// take puts one object in its place.
func (r *Repository) take(ctx context.Context, s *StoredBackup, object storage.Object, rest string) (err error) {
	switch rest {
	case manifestName:
		m, err := r.Manifest(ctx, s.ID)
		s.Manifest = &m
		return err
	case expiredName:
		s.Expired = &Expired{}
		err = r.readDocument(ctx, object.Key, 1<<16, s.Expired)
		s.Expired.Stored = object.Modified
		return err
	case removalName:
		s.Removal = &Removal{}
		if err = r.readDocument(ctx, object.Key, 1<<16, s.Removal); err == nil && !runPattern.MatchString(string(s.Removal.Run)) {
			err = fmt.Errorf("%s: %w: names run %q", object.Key, codec.ErrCorrupt, s.Removal.Run)
		}
		return err
	}
	run, name, _ := strings.Cut(rest, "/")
	if !runPattern.MatchString(run) {
		return nil
	}
	if n := len(s.Runs); n == 0 || s.Runs[n-1].Run != RunID(run) { // listed in order: a run's objects stand together
		s.Runs = append(s.Runs, StoredRun{Run: RunID(run)})
	}
	u := &s.Runs[len(s.Runs)-1]
	u.Objects, u.Size = u.Objects+1, u.Size+object.Size
	if object.Modified.After(u.Newest) {
		u.Newest = object.Modified
	}
	if name == startedName {
		u.Started = &Started{}
		if err = r.readDocument(ctx, object.Key, 1<<16, u.Started); err == nil && (u.Started.ID != s.ID || u.Started.Run != u.Run) {
			err = fmt.Errorf("%s: %w: names run %q of backup %q", object.Key, codec.ErrCorrupt, u.Started.Run, u.Started.ID)
		}
		return err
	}
	return nil
}

// Unfinished are the runs that no manifest names.
func (s StoredBackup) Unfinished() []StoredRun {
	return slices.DeleteFunc(slices.Clone(s.Runs), func(u StoredRun) bool {
		return s.Manifest != nil && s.Manifest.Run == u.Run || s.Removal != nil && s.Removal.Run == u.Run
	})
}

// Fault says in words why a committed backup cannot be counted on, "" if it can. What
// a list does not show is asked for one by one before it is believed to be gone.
func (r *Repository) Fault(ctx context.Context, s StoredBackup, a Archive) (string, error) {
	unseen := slices.Clone(s.missing)
	for _, segment := range a.Lacks(*s.Manifest) {
		if unseen = append(unseen, r.keys.wal(postgres.WALFile{Kind: postgres.WALSegment, Segment: segment})); len(unseen) > 100 {
			break
		}
	}
	lost, err := r.lost(ctx, unseen)
	switch {
	case err != nil:
		return "", err
	case len(lost) < len(unseen):
		return "", &UnsteadyError{Lost: slices.DeleteFunc(unseen, func(k storage.Key) bool { return slices.Contains(lost, k) })[0]}
	case len(lost) > 0:
		return string(lost[0]) + " is missing", nil
	case len(s.spoiled) > 0:
		return string(s.spoiled[0]) + " has another size", nil
	case s.Manifest.Damaged():
		return "the server had bad pages", nil
	case a.WAL(*s.Manifest) == nil:
		return "its timeline cannot be followed", nil
	}
	return "", nil
}

// lost are those of the objects that the store does not have.
func (r *Repository) lost(ctx context.Context, keys []storage.Key) (lost []storage.Key, err error) {
	for _, key := range keys {
		switch _, err := r.bucket.Head(ctx, key); {
		case errors.Is(err, storage.ErrNotExist):
			lost = append(lost, key)
		case err != nil:
			return nil, err
		}
	}
	return lost, nil
}

// Clock is the store's time: that of a small object that is written, looked at and
// removed.
func (r *Repository) Clock(ctx context.Context) (time.Time, error) {
	key := r.keys.key("report", "clock", randomHex(8))
	if err := r.bucket.Put(ctx, key, []byte("{}\n"), storage.PutOptions{}); err != nil {
		return time.Time{}, fmt.Errorf("ask the store for its time: %w", err)
	}
	object, err := r.bucket.Head(ctx, key)
	if err = errors.Join(err, r.bucket.Delete(ctx, key)); err != nil {
		return time.Time{}, fmt.Errorf("ask the store for its time: %w", err)
	}
	return object.Modified, nil
}
