package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// AbsentError is proven absence (R9): the archive ends before this file.
type AbsentError struct{ File postgres.WALFile }

func (e *AbsentError) Error() string {
	if e.File == firstHistory {
		return "timeline 1 has no history file"
	}
	return fmt.Sprintf("%s is not in the archive yet", e.File)
}

// firstHistory is asked for by PostgreSQL when it leaves timeline 1, and never exists.
var firstHistory = postgres.HistoryFile(1)

// GapError is a file that is missing while later ones are there.
type GapError struct{ File postgres.WALFile }

func (e *GapError) Error() string {
	if e.File.Kind == postgres.WALHistory {
		return fmt.Sprintf("%s is missing in the archive, although WAL of this or a later timeline is there", e.File)
	}
	return fmt.Sprintf("gap: %s is missing in the archive, although the archive goes on behind it", e.File)
}

// Hint says what an operator does next.
func (e *GapError) Hint() string {
	return "look for the file in pg_wal of every member, also of a failed one, and archive it with `pgha-backup archive-push`; ending recovery here would lose what follows"
}

// proveAbsent tells for a missing key whether that is the end of the archive. The
// answer is an *AbsentError, a *GapError, or why it cannot be told.
func proveAbsent(ctx context.Context, r *catalog.Repository, file postgres.WALFile) error {
	later, err := r.AnyAfter(ctx, file)
	switch {
	case err != nil:
		return fmt.Errorf("find out whether the archive goes on after %s: %w", file, err)
	case later:
		return &GapError{file}
	}
	// In a wrong prefix, scope or bucket everything is absent.
	if _, err := r.Info(ctx); err != nil && !catalog.InfoDamaged(err) {
		if errors.Is(err, storage.ErrNotExist) {
			err = fmt.Errorf("no repository at %s: nothing was ever archived there, or the configuration points elsewhere", r.Root())
		}
		return fmt.Errorf("find %s: %w", file, err)
	}
	return &AbsentError{file}
}
