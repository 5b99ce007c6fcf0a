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

// ResolveError refuses a word on a conflict: storage.ErrExist where another one was
// said before, which may have been followed already.
type ResolveError struct {
	Problem, Advice string
	Err             error
}

func (e *ResolveError) Error() string { return e.Problem }
func (e *ResolveError) Unwrap() error { return e.Err }

// Hint says what an operator does next.
func (e *ResolveError) Hint() string { return e.Advice }

func (w Resolution) String() string {
	return fmt.Sprintf("sha256 %.12s counts, by %s at %s (%s)", w.SHA256, w.By, w.At.Format(time.RFC3339), w.Reason)
}

// Resolve says which content of a file counts, once and for all (R4), and returns
// what holds. Saying the same again changes nothing; a *ResolveError if another one
// was chosen before.
//
// Of a timeline history only the stored content can be chosen: with another one, the
// segments that are archived under it would lie on another branch, and what can be
// restored today could not be any more.
func (r *Repository) Resolve(ctx context.Context, file postgres.WALFile, word Resolution) (Resolution, error) {
	all, err := r.Conflicting(ctx, file.String())
	if err != nil {
		return word, err
	}
	if len(all) == 0 {
		return word, fmt.Errorf("%w: no two contents of %s are kept", storage.ErrNotExist, file)
	}
	c := all[0]
	i := slices.IndexFunc(c.Contents, func(k Content) bool { return k.Problem == "" && k.SHA256 == word.SHA256 })
	switch {
	case c.Resolution != nil || c.Problem != "":
		return r.said(ctx, file, word)
	case i < 0:
		return word, &ResolveError{Problem: fmt.Sprintf("no readable content of %s has sha256 %q", file, word.SHA256)}
	case file.Kind == postgres.WALHistory && !c.Contents[i].Stored:
		return word, &ResolveError{Problem: fmt.Sprintf("two servers made timeline %d, and the archive's segments of it follow the stored history", uint32(file.Segment.Timeline)),
			Advice: "switch over once, so that the leader opens a timeline of its own, and take a backup; then the stored history can be declared the one that counts"}
	}
	// What nobody can read whole must not be what everybody is sent to.
	if _, err := r.getWAL(ctx, c.Contents[i].key, file, io.Discard); err != nil {
		return word, fmt.Errorf("read the content that is to count: %s: %w", c.Contents[i].key, err)
	}
	word.Format = Format
	if err = r.createDocument(ctx, r.keys.resolved(file), word); errors.Is(err, storage.ErrExist) { // somebody was faster
		return r.said(ctx, file, word)
	}
	if err != nil {
		return word, fmt.Errorf("write down which content of %s counts: %w", file, err)
	}
	r.resolved.mu.Lock()
	defer r.resolved.mu.Unlock()
	r.resolved.byFile = nil
	return word, nil
}

// said is what was said before, and an error unless the word says the same.
func (r *Repository) said(ctx context.Context, file postgres.WALFile, word Resolution) (Resolution, error) {
	was := r.decided(ctx, file)
	switch {
	case was.err != nil:
		return word, fmt.Errorf("find out which content of %s counts: %w", file, was.err)
	case was.said.SHA256 != word.SHA256:
		return was.said, &ResolveError{fmt.Sprintf("%s is decided: %s", file, was.said),
			"a decision is for ever, readers have followed it; take a backup, from which on nothing depends on it", storage.ErrExist}
	}
	return was.said, nil
}
