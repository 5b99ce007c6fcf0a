package retention

import (
	"context"
	"errors"
	"log/slog"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// Options say how a plan is carried out.
type Options struct {
	By  string // who does it: stands in the tombstones
	Log *slog.Logger
}

// Outcome is what Apply did.
type Outcome struct {
	Hidden  []catalog.BackupID `json:"hidden"`
	Shown   []catalog.BackupID `json:"shown"`   // hidden before, and wanted again
	Removed []catalog.BackupID `json:"removed"` // their data is gone
	Runs    []catalog.RunID    `json:"runs"`    // unfinished ones, gone
	WAL     int                `json:"wal_objects"`
	// Withdrawn were to be hidden or removed, and somebody took hold of them at the
	// last moment. WAL stays then until the next time.
	Withdrawn []catalog.BackupID `json:"withdrawn"`
}

// Apply carries out a plan. Interrupted at any point, the next plan completes it.
func Apply(ctx context.Context, repo *catalog.Repository, plan Plan, options Options) (Outcome, error) {
	return Outcome{}, errors.New("not built yet")
}
