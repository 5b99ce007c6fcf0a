package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Why a word on a conflict is refused.
var (
	ErrDecided = errors.New("a decision is for ever, readers have followed it")
	ErrHistory = errors.New("the archive's segments of that timeline follow the stored history: switch over once, so that the leader opens another one, " +
		"and take a backup; then the stored content can be chosen")
)

func (w Resolution) String() string {
	return fmt.Sprintf("sha256 %.12s counts, by %s at %s (%s)", w.SHA256, w.By, w.At.Format(time.RFC3339), w.Reason)
}

// Resolve says which content of a file counts, once and for all (R4), and returns
// what holds. Saying the same again changes nothing; ErrDecided if another one was
// chosen before.
//
// Of a timeline history only the stored content can be chosen, else ErrHistory: the
// segments that are archived under another one would lie on another branch, and what
// can be restored today could not be any more.
func (r *Repository) Resolve(ctx context.Context, c Conflict, word Resolution) (Resolution, error) {
	i := slices.IndexFunc(c.Contents, func(k Content) bool { return k.Problem == "" && k.SHA256 == word.SHA256 })
	switch {
	case c.Resolution != nil || c.Problem != "":
	case i < 0:
		return word, fmt.Errorf("%w: no readable content of %s has sha256 %q", storage.ErrNotExist, c.File, word.SHA256)
	case c.File.Kind == postgres.WALHistory && !c.Contents[i].Stored:
		return word, fmt.Errorf("%s: %w", c.File, ErrHistory)
	default:
		// What nobody can read whole must not be what everybody is sent to.
		if _, err := r.getWAL(ctx, c.Contents[i].key, c.File, io.Discard); err != nil {
			return word, fmt.Errorf("read the content that is to count: %s: %w", c.Contents[i].key, err)
		}
		word.Format = Format
		if err := r.createDocument(ctx, r.keys.resolved(c.File), word); err != nil && !errors.Is(err, storage.ErrExist) {
			return word, fmt.Errorf("write down which content of %s counts: %w", c.File, err)
		}
	}
	holds := r.decided(ctx, c.File) // or somebody was faster
	if holds.err != nil {
		return word, fmt.Errorf("find out which content of %s counts: %w", c.File, holds.err)
	}
	if holds.said.SHA256 != word.SHA256 {
		return holds.said, fmt.Errorf("%s: %s: %w", c.File, holds.said, ErrDecided)
	}
	r.resolved.mu.Lock()
	defer r.resolved.mu.Unlock()
	r.resolved.byFile = nil
	return holds.said, nil
}
