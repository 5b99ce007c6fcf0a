package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// StatWAL reads the header of a stored WAL file: storage.ErrNotExist if absent.
// A resolved conflict is followed.
func (r *Repository) StatWAL(ctx context.Context, file postgres.WALFile) (WALObject, error) {
	key, sha, err := r.walKey(ctx, file)
	if err != nil {
		return WALObject{}, err
	}
	return r.statAt(ctx, key, sha, file)
}

func (r *Repository) statAt(ctx context.Context, key storage.Key, sha string, file postgres.WALFile) (WALObject, error) {
	stored, err := r.bucket.Head(ctx, key)
	if err != nil {
		return WALObject{}, err
	}
	object, err := r.StatWALEntry(ctx, WALEntry{File: file, Size: stored.Size, key: key})
	if err == nil {
		err = object.isOf(sha)
	}
	return object, err
}

// StatWALEntry reads the header of a listed WAL file in one ranged GET.
func (r *Repository) StatWALEntry(ctx context.Context, entry WALEntry) (WALObject, error) {
	if entry.key == "" {
		return r.StatWAL(ctx, entry.File)
	}
	object, err := r.statSpan(ctx, entry, 4<<10)
	if errors.Is(err, codec.ErrCorrupt) && entry.Size > 4<<10 { // perhaps only longer than that
		object, err = r.statSpan(ctx, entry, maxWALHeader+codec.HeaderPrefix)
	}
	return object, err
}

func (r *Repository) statSpan(ctx context.Context, entry WALEntry, length int64) (WALObject, error) {
	body, err := r.bucket.Get(ctx, entry.key, storage.Span{Length: min(length, entry.Size)})
	if err != nil {
		return WALObject{}, err
	}
	object, head, err := r.readWALHeader(body, entry.File)
	if err == nil {
		err = checkSeal(head) // nobody plans by facts that may be others'
	}
	_, _ = io.Copy(io.Discard, body) // a body read to its end leaves its connection to the next call
	if err = errors.Join(err, body.Close()); err != nil {
		return WALObject{}, fmt.Errorf("%s: %w", entry.key, err)
	}
	return object, nil
}

// GetWAL writes a stored WAL file's plaintext to w and checks it against its
// header. On an error what w got must be thrown away. An absent file is
// storage.ErrNotExist; damage is codec.ErrCorrupt.
func (r *Repository) GetWAL(ctx context.Context, file postgres.WALFile, w io.Writer) (WALObject, error) {
	key, sha, err := r.walKey(ctx, file)
	if err != nil {
		return WALObject{}, err
	}
	object, err := r.getWAL(ctx, key, file, w)
	if err == nil {
		err = object.isOf(sha)
	}
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return object, err
}

func (r *Repository) getWAL(ctx context.Context, key storage.Key, file postgres.WALFile, w io.Writer) (object WALObject, err error) {
	body, err := r.bucket.Get(ctx, key, storage.Whole)
	if err != nil {
		return object, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	object, head, err := r.readWALHeader(body, file)
	if err != nil {
		return object, err
	}
	// No codec makes much more of a file than it is: who stores more wants us to read for ever.
	rest := io.LimitReader(body, object.Size+object.Size/8+1<<20)
	return object, decodeBody(w, codec.Detect(head), io.MultiReader(bytes.NewReader(head), rest), object)
}

// AtMost writes to w and takes more than n bytes for damage: what an object says of
// its size is believed by nobody who keeps it in memory.
func AtMost(w io.Writer, n int64) io.Writer { return &atMost{w, n} }

type atMost struct {
	io.Writer
	left int64
}

func (a *atMost) Write(p []byte) (int, error) {
	if a.left -= int64(len(p)); a.left < 0 {
		return 0, fmt.Errorf("%w: it holds more than such a file does", codec.ErrCorrupt)
	}
	return a.Writer.Write(p)
}

func decodeBody(w io.Writer, name codec.Name, stored io.Reader, object WALObject) error {
	plain, err := codec.NewReader(name, stored)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(plain, object.Size+1))
	if err = errors.Join(err, plain.Close()); err != nil {
		return err
	}
	if n != object.Size {
		return fmt.Errorf("%w: decodes to another size than the %d bytes its header says", codec.ErrCorrupt, object.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != object.SHA256 {
		return fmt.Errorf("%w: sha256 is %s, its header says %s", codec.ErrCorrupt, got, object.SHA256)
	}
	return nil
}
