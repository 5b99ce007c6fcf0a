package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// PutOutcome tells how a WAL file came to be stored.
type PutOutcome string

// Both outcomes mean that the file is durable.
const (
	Stored  PutOutcome = "stored"
	Already PutOutcome = "already stored"
)

// ConflictError refuses a WAL file whose name is taken by other content. Ours is
// kept under conflict/ for a person to decide.
type ConflictError struct {
	File         postgres.WALFile
	Stored, Ours WALObject
	Kept         storage.Key
	// Decided says that the stored one counts, if anybody has said anything.
	Decided Resolution
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("archive holds %s with other content (sha256 %.12s, ours %.12s); ours is kept as %s",
		e.File, e.Stored.SHA256, e.Ours.SHA256, e.Kept)
}

// Hint says what an operator does next.
func (e *ConflictError) Hint() string {
	if e.Decided.SHA256 != "" {
		return "it is decided, " + e.Decided.String() + ": this server's WAL is on no way to a restore; stop it, and make it anew"
	}
	if e.File.Kind == postgres.WALHistory {
		return "two servers made the same timeline number: switch over once, so that the leader opens a new timeline, and find out who wrote the other one"
	}
	return "two servers wrote this WAL position on one timeline (split brain, or a restored copy that archives here): find out which one is rightful, then: pgha-backup wal conflicts show " + e.File.String() + "; nothing was overwritten"
}

// PutWAL stores a WAL file once and for all. An error means that it must not be
// acknowledged to PostgreSQL.
func (r *Repository) PutWAL(ctx context.Context, file postgres.WALFile, plain []byte, facts *postgres.SegmentFacts) (PutOutcome, error) {
	packed, err := r.PackWAL(nil, file, plain, facts)
	if err != nil {
		return "", err
	}
	return r.PutPackedWAL(ctx, packed)
}

// PackedWAL is a WAL file as it is stored.
type PackedWAL struct {
	file postgres.WALFile
	ours WALObject
	body []byte
}

// PackWAL makes what PutPackedWAL stores; the plaintext is not needed any more. A file
// that is packed alone takes up to four processors. With a dst it is made there, as far
// as that has room, by one: for who packs several at once.
func (r *Repository) PackWAL(dst []byte, file postgres.WALFile, plain []byte, facts *postgres.SegmentFacts) (PackedWAL, error) {
	ours := r.Describe(file, plain, facts)
	body, err := encodeWAL(dst, ours, plain, r.options)
	return PackedWAL{file, ours, body}, err
}

// PutPackedWAL is PutWAL of a file that is packed. Its dst is free again on return.
func (r *Repository) PutPackedWAL(ctx context.Context, p PackedWAL) (PutOutcome, error) {
	return r.putOnce(ctx, p.file, p.ours, func(key storage.Key) error {
		return r.bucket.Put(ctx, key, p.body, storage.PutOptions{IfAbsent: true})
	})
}

// putOnce stores by put, and settles with what is there if the name is taken.
func (r *Repository) putOnce(ctx context.Context, file postgres.WALFile, ours WALObject, put func(storage.Key) error) (PutOutcome, error) {
	err := put(r.keys.wal(file))
	if err == nil {
		return Stored, nil
	}
	if !errors.Is(err, storage.ErrExist) {
		return "", err
	}
	// Taken: by an earlier try of ours whose answer was lost, by the same WAL pushed
	// from another member, or by something else.
	decided := r.decided(ctx, file)
	key, sha, err := r.follow(ctx, file, decided)
	var stored WALObject
	if err == nil {
		stored, err = r.statAt(ctx, key, sha, file)
	}
	if errors.Is(err, codec.ErrCorrupt) { // a bit of its header, perhaps, and the content is ours
		if whole, wholeErr := r.getWAL(ctx, key, file, io.Discard); wholeErr == nil && whole.SHA256 == ours.SHA256 {
			stored, err = whole, whole.isOf(sha)
		}
	}
	if err != nil {
		return "", fmt.Errorf("compare with the stored %s: %w", file, err)
	}
	if stored.Same(ours) {
		return Already, nil
	}
	kept := r.keys.conflict(file, ours.SHA256)
	if err := put(kept); err != nil && !errors.Is(err, storage.ErrExist) {
		return "", fmt.Errorf("archive holds %s with other content, and ours could not be kept: %w", file, err)
	}
	return "", &ConflictError{File: file, Stored: stored, Ours: ours, Kept: kept, Decided: decided.said}
}
