package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Facts are all that a plan is made from.
type Facts struct {
	Backups []Backup // by ID: also hidden, unfinished and half removed ones
	Holds   []catalog.Hold
	Archive catalog.Archive
	// Conflicts are WAL files of which two contents are kept, undecided.
	Conflicts []string
	// Clock is the store's; zero if these credentials may not write, and so not ask it.
	Clock time.Time
}

// Backup is what is stored of one backup, and why it is no good one ("": it is).
type Backup struct {
	catalog.StoredBackup
	Fault string
}

// Gather reads what a plan needs. It fails closed: a list that contradicts another,
// a document that cannot be read, an object of which nobody knows whether it is there
// end it with an error.
func Gather(ctx context.Context, repo *catalog.Repository) (f Facts, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("look at repository %s: %w", repo.Root(), err)
		}
	}()
	// Backups first: the WAL of each is stored before its manifest, so the archive that
	// is listed then holds it.
	inventory, err := repo.Inventory(ctx)
	if err != nil {
		return f, err
	}
	f.Holds = inventory.Holds
	if f.Archive, err = repo.Archive(ctx); err != nil {
		return f, err
	}
	if err := sameTimelines(ctx, repo, f.Archive); err != nil {
		return f, err
	}
	var broken []catalog.Unreadable
	if f.Conflicts, broken, err = repo.Conflicts(ctx); err != nil {
		return f, err
	}
	for _, u := range slices.Concat(f.Archive.Unreadable, broken) {
		return f, fmt.Errorf("nothing is removed while %s cannot be read: %w", u.Object, u.Err)
	}
	for _, stored := range inventory.Backups {
		b := Backup{StoredBackup: stored}
		if b.Manifest != nil {
			if b.Fault, err = repo.Fault(ctx, stored, f.Archive); err != nil {
				return f, err
			}
		}
		f.Backups = append(f.Backups, b)
	}
	if f.Clock, err = repo.Clock(ctx); errors.Is(err, storage.ErrDenied) {
		return f, nil
	}
	return f, err
}

// sameTimelines lists the timelines once more: one that a short list hides may need
// a backup that seems to be needed by nobody.
func sameTimelines(ctx context.Context, repo *catalog.Repository, a catalog.Archive) error {
	again, err := repo.Timelines(ctx)
	known := func(t catalog.TimelineWAL, tli postgres.TimelineID) bool { return t.Timeline == tli }
	if err == nil && !slices.EqualFunc(a.Timelines, again, known) {
		err = &RefusedError{Why: "the archive listed other timelines at first than now", Advice: "run it again; if it stays, the store does not list reliably"}
	}
	return err
}
