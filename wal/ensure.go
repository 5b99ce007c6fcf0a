package wal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// noteAge is how long "the repository exists" is believed without asking: one
// request an hour.
const noteAge = time.Hour

// ensure makes the repository if this is the first file of a system.
func (p *Pusher) ensure(ctx context.Context, r *catalog.Repository, size postgres.SegmentSize, log *slog.Logger) error {
	now := p.now()
	// The note remembers that the repository exists, and its segment size.
	sum := sha256.Sum256([]byte(p.Identity + "\n" + r.Root()))
	note, text := filepath.Join(p.State, fmt.Sprintf("repository-%x", sum[:8])), strconv.FormatUint(uint64(size), 10)
	known, fresh := noted(note, text, now)
	if known && fresh && !p.AskAlways {
		return nil
	}
	info, damaged, err := r.KnownInfo(ctx)
	if errors.Is(err, storage.ErrNotExist) && known {
		return &RefusedError{
			Problem: "the repository was there before and is gone: a filesystem that is not mounted, or a store that was emptied",
			Advice:  "bring it back; if it was removed on purpose, remove " + note + " too, and the next push makes a new one",
		}
	}
	for _, d := range damaged {
		log.Warn("the repository's own document is damaged; WAL is archived all the same", "error", d.Err)
	}
	if known && catalog.InfoDamaged(err) { // there is no backup, and the note says the same
		log.Warn("the repository's own document is damaged; WAL is archived all the same", "error", err)
		return nil
	}
	if errors.Is(err, storage.ErrNotExist) {
		info, err = p.create(ctx, r, size, now, log)
	}
	if err != nil {
		return err
	}
	if info.SegmentSize != size {
		return fmt.Errorf("its WAL segments have %d bytes, this cluster's %d", info.SegmentSize, size)
	}
	if p.State == "" || known && fresh {
		return nil
	}
	// Whole or not at all: several push at once, and to the reader of half a note the repository was never there.
	if err = errors.Join(atomicfile.MkdirAll(p.State, 0o700), atomicfile.Write(note, []byte(text), 0o600)); err != nil {
		log.Debug("every push asks whether the repository exists", "error", err)
	}
	return nil
}

func noted(note, text string, now time.Time) (known, fresh bool) {
	info, err := os.Stat(note)
	if err != nil {
		return false, false
	}
	b, err := os.ReadFile(note)
	return err == nil && string(b) == text, now.Sub(info.ModTime()).Abs() <= noteAge
}

func (p *Pusher) create(ctx context.Context, r *catalog.Repository, size postgres.SegmentSize, now time.Time, log *slog.Logger) (catalog.Info, error) {
	mode := "emulate"
	if !p.Emulate {
		mode = "required"
		if p.Probe != nil {
			if err := p.Probe(ctx); err != nil {
				return catalog.Info{}, err
			}
		}
	}
	others, err := catalog.Systems(ctx, p.Bucket, p.Scope)
	if err != nil {
		return catalog.Info{}, err
	}
	info, err := r.Create(ctx, size, mode, now)
	// Another push of this system may have been faster.
	others = slices.DeleteFunc(others, func(id postgres.SystemIdentifier) bool { return id == info.SystemIdentifier })
	if err == nil && len(others) > 0 {
		log.Warn("ALARM: the archive of this cluster already holds another system identifier: right after pg_upgrade or a new initdb, wrong if a foreign server archives here",
			"scope", p.Scope, "new", info.SystemIdentifier, "others", others)
	}
	return info, err
}
