package catalog

import (
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

// walPart is the part size of a WAL file that is stored in parts: 1 GiB takes 128 of them.
const walPart = 8 << 20

// PutWALFrom is PutWAL of a file that is read twice, part by part, instead of being held in
// memory. It is not sent to learn that it is there.
func (r *Repository) PutWALFrom(ctx context.Context, file postgres.WALFile, plain io.ReaderAt, size int64, facts *postgres.SegmentFacts) (PutOutcome, error) {
	section := func(from, to int64) io.Reader { return io.NewSectionReader(plain, from, to-from) }
	ours, err := r.describe(file, size, facts, section)
	if err != nil {
		return "", err
	}
	return r.putOnce(ctx, file, ours, func(key storage.Key) error {
		if _, err := r.bucket.Head(ctx, key); err == nil {
			return storage.ErrExist
		} else if !errors.Is(err, storage.ErrNotExist) {
			return err
		}
		return r.streamWAL(ctx, key, ours, section(0, size))
	})
}

// streamWAL stores what it reads, which must be what was described.
func (r *Repository) streamWAL(ctx context.Context, key storage.Key, ours WALObject, plain io.Reader) error {
	p, stored := newWALPacker(r.options), uint32(0)
	if p.encoders == nil {
		p.encoders = &codec.Pool{}
	}
	header, err := p.header(nil, ours, stored)
	if err != nil {
		return err
	}
	w := storage.NewWriter(ctx, r.bucket, key, storage.WriterOptions{PartSize: walPart + len(header), Put: storage.PutOptions{IfAbsent: true},
		First: func(part []byte) error {
			_, err := p.header(part[:0], ours, stored)
			return err
		}})
	defer w.Abort()
	_, err = w.Write(header)
	hash, part := sha256.New(), make([]byte, walWorkers()*walFrame)
	for left := ours.Size; err == nil && left > 0; left -= int64(len(part)) {
		part = part[:min(int64(len(part)), left)]
		if _, err := io.ReadFull(plain, part); err != nil {
			return err
		}
		hash.Write(part)
		var frames [][]byte
		frames, err = p.pack(part)
		stored = storedCRC(stored, frames...)
		for i := 0; err == nil && i < len(frames); i++ {
			_, err = w.Write(frames[i])
		}
	}
	if err == nil && hex.EncodeToString(hash.Sum(nil)) != ours.SHA256 {
		err = fmt.Errorf("%s changed while it was read", ours.Name)
	}
	if err != nil {
		return err
	}
	return w.Commit()
}
