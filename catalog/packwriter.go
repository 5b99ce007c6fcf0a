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

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// PackWriter writes one pack: a tar, cut into frames that are compressed,
// hashed and uploaded as they fill. One goroutine uses it; either Close or
// Abort must be called.
type PackWriter struct {
	ctx    context.Context // of the upload
	bucket storage.Bucket
	key    storage.Key
	pack   Pack
	volume string
	tar    *tar.Writer
	frames frameWriter
	pool   *codec.Pool // of the frames' encoder

	entry     *Entry // under way
	remaining int64
	crc       uint32
}

// NewPack starts a pack of a run. It takes one part buffer for each part in flight.
func (u *Run) NewPack(ctx context.Context, name string) (*PackWriter, error) {
	if !packPattern.MatchString(name) {
		return nil, fmt.Errorf("pack name %q", name)
	}
	options := u.repository.options
	encoder, err := u.encoders.Encoder(options.Codec, options.Level)
	if err == nil {
		err = encoder.Thrift(options.Level)
	}
	if err != nil {
		return nil, err
	}
	key := u.repository.keys.run(u.ID, u.Run, name)
	w := &PackWriter{ctx: ctx, bucket: u.repository.bucket, key: key, pack: Pack{Name: name}, volume: volumeOf(name), pool: &u.encoders}
	w.frames = frameWriter{
		encoder: encoder, plain: make([]byte, 0, FrameSize), sum: sha256.New(),
		// Create-once: a run never writes a pack twice, and nothing may replace one.
		out: storage.NewWriter(ctx, w.bucket, key, storage.WriterOptions{
			PartSize: options.PartSize, InFlight: options.InFlight,
			Put: storage.PutOptions{IfAbsent: true}}),
	}
	w.tar = tar.NewWriter(&w.frames)
	return w, nil
}

// Directory adds an empty directory.
func (w *PackWriter) Directory(e Entry) error {
	e.Kind, e.Size = Dir, 0
	if err := w.Begin(e); err != nil {
		return err
	}
	_, err := w.End()
	return err
}

// Begin starts an entry of exactly e.Size bytes: Write them, then End.
func (w *PackWriter) Begin(e Entry) error {
	if w.entry != nil {
		return fmt.Errorf("pack %s: %s is still open", w.pack.Name, w.entry.Path)
	}
	if err := checkPath(e.Path, w.volume); err != nil {
		return err
	}
	if w.frames.written == 0 {
		w.frames.out.Expect(e.Size + e.Size/20)
	}
	header := &tar.Header{Name: tarName(e.Path, w.volume), Typeflag: tar.TypeReg, Mode: int64(e.Mode),
		Size: e.Size, ModTime: e.Modified.Truncate(1e9)}
	if e.Kind == Dir {
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	}
	if err := w.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("pack %s: %s: %w", w.pack.Name, e.Path, err)
	}
	e.Modified = header.ModTime.UTC()
	e.Offset = w.frames.written
	w.entry, w.remaining, w.crc = &e, e.Size, 0
	return nil
}

// Write adds bytes of the entry under way.
func (w *PackWriter) Write(p []byte) (int, error) {
	n, err := w.tar.Write(p)
	w.crc = crc32.Update(w.crc, castagnoli, p[:n])
	w.remaining -= int64(n)
	if err != nil {
		return n, fmt.Errorf("pack %s: %s: %w", w.pack.Name, w.entry.Path, err)
	}
	return n, nil
}

// End finishes the entry and returns it with its checksum.
func (w *PackWriter) End() (Entry, error) {
	if w.remaining != 0 {
		return Entry{}, fmt.Errorf("pack %s: %s lacks %d bytes", w.pack.Name, w.entry.Path, w.remaining)
	}
	if err := w.tar.Flush(); err != nil {
		return Entry{}, fmt.Errorf("pack %s: %s: %w", w.pack.Name, w.entry.Path, err)
	}
	e := *w.entry
	e.CRC32C = w.crc
	w.pack.Entries = append(w.pack.Entries, e)
	w.entry = nil
	return e, nil
}

// Plain is how many bytes of tar the pack holds so far.
func (w *PackWriter) Plain() int64 { return w.frames.written }

// Room tells whether an entry of so many bytes goes in without more parts than every
// store takes, should nothing of it be compressible. The first one always does.
func (w *PackWriter) Room(size int64) bool {
	return w.frames.written == 0 || w.frames.written+size < w.frames.out.Limit()/20*19
}

// Close stores the pack whole and durably.
func (w *PackWriter) Close() (Pack, PackInfo, error) {
	err := w.tar.Close()
	if err == nil {
		err = w.frames.flush()
	}
	if err != nil {
		w.frames.out.Abort()
		return Pack{}, PackInfo{}, fmt.Errorf("pack %s: %w", w.pack.Name, err)
	}
	if err := w.settle(w.frames.out.Commit()); err != nil {
		return Pack{}, PackInfo{}, fmt.Errorf("store pack %s: %w", w.pack.Name, err)
	}
	w.pool.Release(w.frames.encoder)
	w.pack.Frames = w.frames.lengths
	info := PackInfo{Name: w.pack.Name, Size: w.frames.stored, Plain: w.frames.written,
		SHA256: hex.EncodeToString(w.frames.sum.Sum(nil))}
	return w.pack, info, nil
}

// settle takes a taken name for a lost answer if the object has our size: the
// run's name is ours alone, and Commit compares all packs once more.
func (w *PackWriter) settle(err error) error {
	if !errors.Is(err, storage.ErrExist) {
		return err
	}
	there, headErr := w.bucket.Head(w.ctx, w.key)
	if headErr != nil || there.Size != w.frames.stored {
		return errors.Join(err, headErr)
	}
	return nil
}

// Abort throws the pack away.
func (w *PackWriter) Abort() { w.frames.out.Abort() }

// frameWriter cuts plaintext into frames.
type frameWriter struct {
	encoder *codec.Encoder
	plain   []byte
	frame   []byte
	lengths []int
	written int64 // plaintext
	stored  int64
	sum     hash.Hash
	out     *storage.Writer
}

func (f *frameWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := copy(f.plain[len(f.plain):FrameSize], p)
		f.plain = f.plain[:len(f.plain)+n]
		p = p[n:]
		f.written += int64(n)
		if len(f.plain) == FrameSize {
			if err := f.flush(); err != nil {
				return total - len(p), err
			}
		}
	}
	return total, nil
}

func (f *frameWriter) flush() error {
	if len(f.plain) == 0 {
		return nil
	}
	var err error
	if f.frame, err = f.encoder.AppendFrame(f.frame[:0], f.plain); err != nil {
		return err
	}
	f.plain = f.plain[:0]
	f.sum.Write(f.frame)
	f.stored += int64(len(f.frame))
	f.lengths = append(f.lengths, len(f.frame))
	_, err = f.out.Write(f.frame)
	return err
}
