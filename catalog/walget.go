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
	key, err := r.walKey(ctx, file)
	if err != nil {
		return WALObject{}, err
	}
	object, err := r.bucket.Head(ctx, key)
	if err != nil {
		return WALObject{}, err
	}
	return r.StatWALEntry(ctx, WALEntry{File: file, Size: object.Size, key: key})
}

// StatWALEntry reads the header of a listed WAL file in one ranged GET.
func (r *Repository) StatWALEntry(ctx context.Context, entry WALEntry) (WALObject, error) {
	if entry.key == "" {
		return r.StatWAL(ctx, entry.File)
	}
	for want := int64(4 << 10); ; {
		head, err := r.readSpan(ctx, entry.key, storage.Span{Length: min(want, entry.Size)})
		if err != nil {
			return WALObject{}, err
		}
		object, need, err := decodeWALHeader(head)
		if err == nil && need > len(head) {
			if int64(need) > entry.Size || int64(need) <= want {
				return WALObject{}, fmt.Errorf("%s: %w: header is longer than the object", entry.key, codec.ErrCorrupt)
			}
			want = int64(need)
			continue
		}
		if err == nil {
			err = object.check(entry.File, r.at.System)
		}
		if err != nil {
			return WALObject{}, fmt.Errorf("%s: %w", entry.key, err)
		}
		return object, nil
	}
}

func (r *Repository) readSpan(ctx context.Context, key storage.Key, span storage.Span) ([]byte, error) {
	body, err := r.bucket.Get(ctx, key, span)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, span.Length))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return data, nil
}

// GetWAL writes a stored WAL file's plaintext to w and checks it against its
// header. On an error what w got must be thrown away. An absent file is
// storage.ErrNotExist; damage is codec.ErrCorrupt.
func (r *Repository) GetWAL(ctx context.Context, file postgres.WALFile, w io.Writer) (WALObject, error) {
	key, err := r.walKey(ctx, file)
	if err != nil {
		return WALObject{}, err
	}
	object, err := r.getWAL(ctx, key, file, w)
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
	head := make([]byte, codec.HeaderPrefix)
	if n, err := io.ReadFull(body, head); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return object, fmt.Errorf("%w: object of %d bytes", codec.ErrCorrupt, n)
		}
		return object, err
	}
	prefix, payload, err := codec.HeaderLength(head)
	if err != nil {
		return object, err
	}
	if payload > maxWALHeader {
		return object, fmt.Errorf("%w: header claims %d bytes", codec.ErrCorrupt, payload)
	}
	rest := make([]byte, max(0, prefix+payload-len(head)))
	if _, err := io.ReadFull(body, rest); err != nil {
		return object, fmt.Errorf("%w: header is cut: %v", codec.ErrCorrupt, err)
	}
	head = append(head, rest...)
	if object, _, err = decodeWALHeader(head); err != nil {
		return object, err
	}
	if err := object.check(file, r.at.System); err != nil {
		return object, err
	}
	return object, decodeBody(w, codec.Detect(head), io.MultiReader(bytes.NewReader(head), body), object)
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
