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

// DescribeFrom is Describe of a file that is not held in memory.
func (r *Repository) DescribeFrom(ctx context.Context, file postgres.WALFile, plain io.Reader, size int64, facts *postgres.SegmentFacts) (WALObject, error) {
	o := WALObject{Format: Format, Name: file.String(), SystemIdentifier: r.at.System, Size: size, Author: r.options.Author, Facts: facts}
	hash, moved := sha256.New(), storage.Progress(ctx)
	plain = io.TeeReader(plain, progressWriter(moved))
	buffer, valid := make([]byte, 256<<10), int64(0)
	var err error
	if facts != nil {
		if valid, err = io.CopyBuffer(hash, io.LimitReader(plain, int64(facts.ValidEnd)), buffer); err != nil {
			return o, err
		}
		o.ValidSHA256 = hex.EncodeToString(hash.Sum(nil))
	}
	n, err := io.CopyBuffer(hash, plain, buffer)
	if err == nil && valid+n != size {
		err = io.ErrUnexpectedEOF
	}
	o.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return o, err
}

// PutWALFrom is PutWAL of a file that is not held in memory, as DescribeFrom described it:
// what has changed since is not stored. What is there already is not sent again.
func (r *Repository) PutWALFrom(ctx context.Context, file postgres.WALFile, ours WALObject, plain io.ReaderAt) (PutOutcome, error) {
	return r.putOnce(ctx, file, ours, func(key storage.Key) error {
		if _, err := r.bucket.Head(ctx, key); !errors.Is(err, storage.ErrNotExist) {
			if err == nil {
				err = storage.ErrExist
			}
			return err
		}
		return r.streamWAL(ctx, key, ours, io.NewSectionReader(plain, 0, ours.Size))
	})
}

func (r *Repository) streamWAL(ctx context.Context, key storage.Key, ours WALObject, plain io.Reader) error {
	options := r.options
	if options.Encoders == nil {
		options.Encoders = &codec.Pool{}
	}
	p := newWALPacker(options)
	stored := uint32(0)
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
	if _, err := w.Write(header); err != nil {
		return err
	}
	hash, moved := sha256.New(), storage.Progress(ctx)
	part := make([]byte, walWorkers()*walFrame)
	for left := ours.Size; left > 0; left -= int64(len(part)) {
		part = part[:min(int64(len(part)), left)]
		if _, err := io.ReadFull(plain, part); err != nil {
			return err
		}
		hash.Write(part)
		frames, err := p.pack(part)
		stored = storedCRC(stored, frames...)
		for i := 0; err == nil && i < len(frames); i++ {
			_, err = w.Write(frames[i])
		}
		if err != nil {
			return err
		}
		moved(len(part))
	}
	if hex.EncodeToString(hash.Sum(nil)) != ours.SHA256 {
		return fmt.Errorf("%s changed while it was read", ours.Name)
	}
	return w.Commit()
}

type progressWriter func(int)

func (f progressWriter) Write(b []byte) (int, error) {
	f(len(b))
	return len(b), nil
}
