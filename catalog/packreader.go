package catalog

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// PackReader reads one pack from beginning to end and believes only what agrees
// with the index and the manifest. Close it. It buffers one frame.
type PackReader struct {
	pack   Pack
	info   PackInfo
	volume string
	frames frameReader
	tar    *tar.Reader
	next   int
	crc    uint32
	read   int64
}

// OpenPack starts reading pack i of a backup.
func (b *Backup) OpenPack(ctx context.Context, i int) (*PackReader, error) {
	pack, info := b.Index.Packs[i], b.Manifest.Packs[i]
	key := b.repository.keys.run(b.Manifest.ID, b.Manifest.Run, info.Name)
	decoder, err := codec.NewDecoder(b.Manifest.Codec, FrameSize)
	if err != nil {
		return nil, err
	}
	body, err := b.repository.bucket.Get(ctx, key, storage.Whole)
	if err != nil {
		decoder.Close()
		return nil, fmt.Errorf("pack %s: %w", key, err)
	}
	r := &PackReader{pack: pack, info: info, volume: volumeOf(info.Name)}
	r.frames = frameReader{body: body, decoder: decoder, lengths: pack.Frames, left: info.Plain, sum: sha256.New(),
		plain: make([]byte, FrameSize)}
	r.frames.again = func(offset int64, stored []byte) error {
		body, err := b.repository.bucket.Get(ctx, key, storage.Span{Offset: offset, Length: int64(len(stored))})
		if err == nil {
			_, err = io.ReadFull(body, stored)
			err = errors.Join(err, body.Close())
		}
		return err
	}
	r.tar = tar.NewReader(&r.frames)
	return r, nil
}

// Next moves to the next entry; io.EOF after the last, when the whole pack has
// been checked against the manifest's hash.
func (r *PackReader) Next() (Entry, error) {
	if r.next > 0 {
		if err := r.finish(r.pack.Entries[r.next-1]); err != nil {
			return Entry{}, err
		}
	}
	header, err := r.tar.Next()
	if r.next == len(r.pack.Entries) {
		if err == nil {
			return Entry{}, r.damaged("%q is not in the index", header.Name)
		}
		if !errors.Is(err, io.EOF) {
			return Entry{}, r.wrap(err)
		}
		return Entry{}, r.end()
	}
	if err != nil {
		return Entry{}, r.wrap(unexpected(err))
	}
	e := r.pack.Entries[r.next]
	r.next++
	name, kind := tarName(e.Path, r.volume), byte(tar.TypeReg)
	if e.Kind == Dir {
		name, kind = name+"/", tar.TypeDir
	}
	if header.Name != name || header.Typeflag != kind || header.Size != e.Size || r.offset() != e.Offset {
		return Entry{}, r.damaged("tar has %q of %d bytes at %d, the index %q of %d at %d",
			header.Name, header.Size, r.offset(), name, e.Size, e.Offset)
	}
	if header.Mode != int64(e.Mode) || header.ModTime.Unix() != e.Modified.Unix() {
		return Entry{}, r.damaged("tar has %q with mode %o of %s, the index with %o of %s", name, header.Mode, header.ModTime.UTC(), e.Mode, e.Modified)
	}
	r.crc, r.read = 0, 0
	return e, nil
}

// Read reads the current entry. The last bytes of a damaged entry may be handed
// out before the damage shows: the error then comes from the following Next.
func (r *PackReader) Read(p []byte) (int, error) {
	n, err := r.tar.Read(p)
	r.crc = crc32.Update(r.crc, castagnoli, p[:n])
	r.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.wrap(err)
	}
	return n, err
}

// WriteTo writes the rest of the current entry as it lies in the frames: the tar reader
// would copy it.
func (r *PackReader) WriteTo(w io.Writer) (n int64, err error) {
	size := r.pack.Entries[r.next-1].Size
	for r.read < size {
		chunk, err := r.frames.take(size - r.read)
		if err != nil {
			return n, r.wrap(unexpected(err))
		}
		r.crc = crc32.Update(r.crc, castagnoli, chunk)
		r.read += int64(len(chunk))
		m, err := w.Write(chunk)
		if n += int64(m); err != nil {
			return n, err
		}
	}
	for padding := -size & 511; padding > 0; {
		chunk, err := r.frames.take(padding)
		if err != nil {
			return n, r.wrap(unexpected(err))
		}
		padding -= int64(len(chunk))
	}
	r.tar = tar.NewReader(&r.frames)
	return n, nil
}

// Close ends the download.
func (r *PackReader) Close() error {
	r.frames.decoder.Close()
	return r.frames.body.Close()
}

func (r *PackReader) offset() int64 { return r.frames.handed }

func (r *PackReader) finish(e Entry) error {
	if r.read < e.Size {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	if r.crc != e.CRC32C {
		return r.damaged("%s has CRC-32C %08x, the index says %08x", e.Path, r.crc, e.CRC32C)
	}
	return nil
}

func (r *PackReader) end() error {
	if _, err := io.Copy(io.Discard, &r.frames); err != nil {
		return r.wrap(err)
	}
	if got := hex.EncodeToString(r.frames.sum.Sum(nil)); got != r.info.SHA256 {
		return r.damaged("sha256 is %s, the manifest says %s", got, r.info.SHA256)
	}
	return io.EOF
}

func (r *PackReader) damaged(format string, args ...any) error {
	return fmt.Errorf("pack %s: %w: %s", r.info.Name, codec.ErrCorrupt, fmt.Sprintf(format, args...))
}

// wrap names the pack, and tells the tar reader's own complaints, which are bare,
// from those of the store below it.
func (r *PackReader) wrap(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || err == io.ErrUnexpectedEOF {
		return r.damaged("%v", err)
	}
	return fmt.Errorf("pack %s: %w", r.info.Name, err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: tar ends early", codec.ErrCorrupt)
	}
	return err
}

// frameReader decodes a pack's frames one after another. A damaged one is read again
// alone: what came before it has been handed out.
type frameReader struct {
	body    io.ReadCloser
	again   func(offset int64, stored []byte) error
	offset  int64 // of the next frame in the pack
	decoder *codec.Decoder
	lengths []int
	left    int64 // plaintext still in frames not read
	sum     hash.Hash
	stored  []byte
	plain   []byte
	unread  []byte
	handed  int64
}

func (f *frameReader) Read(p []byte) (int, error) {
	chunk, err := f.take(int64(len(p)))
	return copy(p, chunk), err
}

// take hands out up to n bytes, which live until the next call.
func (f *frameReader) take(n int64) ([]byte, error) {
	for len(f.unread) == 0 {
		if len(f.lengths) == 0 {
			return nil, io.EOF
		}
		length := f.lengths[0]
		if cap(f.stored) < length {
			f.stored = make([]byte, length)
		}
		f.stored = f.stored[:length]
		if _, err := io.ReadFull(f.body, f.stored); err != nil {
			return nil, fmt.Errorf("read: %w", unexpected(err))
		}
		f.unread = f.plain[:min(f.left, FrameSize)]
		err := f.decoder.DecodeFrame(f.unread, f.stored)
		if errors.Is(err, codec.ErrCorrupt) {
			if err = f.again(f.offset, f.stored); err == nil {
				err = f.decoder.DecodeFrame(f.unread, f.stored)
			}
		}
		if err != nil {
			f.unread = nil
			return nil, err
		}
		f.sum.Write(f.stored)
		f.offset += int64(length)
		f.left -= int64(len(f.unread))
		f.lengths = f.lengths[1:]
	}
	chunk := f.unread[:min(n, int64(len(f.unread)))]
	f.unread = f.unread[len(chunk):]
	f.handed += int64(len(chunk))
	return chunk, nil
}
