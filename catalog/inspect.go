package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"path"
	"strings"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// WALKey is where a WAL file is stored, BackupKey where an object of a backup is: for messages.
func (r *Repository) WALKey(f postgres.WALFile) string { return string(r.keys.wal(f)) }

// BackupKey names its object by the run, if it is the run's, and its name.
func (r *Repository) BackupKey(id BackupID, name ...string) string {
	return string(r.keys.backup(id, path.Join(name...)))
}

// Object is the key of the entry's object; empty where a resolution says which it is.
func (e WALEntry) Object() string { return string(e.key) }

// WALObjects yields every object with a WAL file in it, in the order of the keys: those
// of which a resolution says that they do not count, too.
func (r *Repository) WALObjects(ctx context.Context) iter.Seq2[WALEntry, error] {
	return func(yield func(WALEntry, error) bool) {
		for _, root := range []storage.Key{r.keys.conflicts(), r.keys.walRoot()} {
			for object, err := range r.bucket.List(ctx, root, "") {
				if err != nil {
					yield(WALEntry{}, fmt.Errorf("list %s: %w", root, err))
					return
				}
				dir, name := path.Split(string(object.Key))
				sha := ""
				if root == r.keys.conflicts() {
					name, sha = path.Base(dir), name
				}
				file, err := postgres.ParseWALFile(name)
				if err != nil || object.Key != r.keys.wal(file) && (object.Key != r.keys.conflict(file, sha) || sha == resolvedName) {
					continue // not one of ours
				}
				if !yield(WALEntry{File: file, Size: object.Size, Archived: object.Modified, key: object.Key}, nil) {
					return
				}
			}
		}
	}
}

// InspectWAL reads one object like GetWAL, and insists on what a reader of the plaintext
// can do without: the header's seal, the stored bytes, the hash in the name of a content
// that was refused, a plaintext of at most limit bytes. Without an object in the entry it
// reads the content that counts.
func (r *Repository) InspectWAL(ctx context.Context, e WALEntry, w io.Writer, limit int64) (object WALObject, err error) {
	sha := ""
	if e.key == "" {
		if e.key, sha, err = r.walKey(ctx, e.File); err != nil {
			return object, err
		}
	}
	body, err := r.bucket.Get(ctx, e.key, storage.Whole)
	if err != nil {
		return object, err
	}
	defer func() {
		if err = errors.Join(err, body.Close()); err != nil {
			err = fmt.Errorf("%s: %w", e.key, err)
		}
	}()
	object, head, err := r.readWALHeader(body, e.File)
	if err == nil {
		err = checkSeal(head)
	}
	if err == nil && object.Size > limit {
		err = fmt.Errorf("%w: it claims to hold %d bytes", codec.ErrCorrupt, object.Size)
	}
	if err != nil {
		return object, err
	}
	stored := crc32.New(castagnoli)
	if err := decodeBody(w, codec.Detect(head), io.MultiReader(bytes.NewReader(head), io.TeeReader(body, stored)), object); err != nil {
		return object, err
	}
	if got := fmt.Sprintf("%08x", stored.Sum32()); object.StoredCRC32C != "" && object.StoredCRC32C != got {
		return object, fmt.Errorf("%w: the stored bytes have CRC-32C %s, its header says %s", codec.ErrCorrupt, got, object.StoredCRC32C)
	}
	if strings.HasPrefix(string(e.key), string(r.keys.conflicts())) {
		sha = path.Base(string(e.key))
	}
	return object, object.isOf(sha)
}

// Removed tells whether an object that was listed is so no more: expiry took it.
func (r *Repository) Removed(ctx context.Context, e WALEntry) (bool, error) {
	for object, err := range r.bucket.List(ctx, e.key, "") {
		return err == nil && object.Key != e.key, err
	}
	return true, nil
}

// Before is the segment that the branch of s has before it; false for the first.
func (a Archive) Before(s postgres.Segment) (postgres.Segment, bool) {
	n := s.Number(a.SegmentSize)
	if n == 0 {
		return s, false
	}
	return a.segmentOn(a.branch(s.Timeline), n-1), true
}
