package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sync/errgroup"
)

// WALObject is the header of a stored WAL file: a skippable frame before the
// data, so that one PUT stores both and one small ranged GET reads it.
type WALObject struct {
	Format           int                       `json:"format"`
	Name             string                    `json:"name"`
	SystemIdentifier postgres.SystemIdentifier `json:"system_identifier"`
	Size             int64                     `json:"size"`   // plaintext, bytes
	SHA256           string                    `json:"sha256"` // of the plaintext
	// Author is the member that pushed it first; empty where that is not known.
	Author string `json:"author,omitempty"`
	// ValidSHA256 is the hash up to Facts.ValidEnd: a recycled tail is no difference (R3).
	ValidSHA256 string `json:"valid_sha256,omitempty"`
	// Facts is set for segments and partial segments.
	Facts *postgres.SegmentFacts `json:"facts,omitempty"`
	// StoredCRC32C is the checksum, in hexadecimal, of the stored bytes behind the
	// header: a flipped bit may leave the plaintext as it was. Readers of the plaintext go by SHA256.
	StoredCRC32C string `json:"stored_crc32c,omitempty"`
}

// Describe makes the header of a WAL file. facts is nil for .history and .backup.
func (r *Repository) Describe(file postgres.WALFile, plain []byte, facts *postgres.SegmentFacts) WALObject {
	o, _ := r.describe(file, int64(len(plain)), facts, func(from, to int64) io.Reader { return bytes.NewReader(plain[from:to]) })
	return o
}

func (r *Repository) describe(file postgres.WALFile, size int64, facts *postgres.SegmentFacts, part func(from, to int64) io.Reader) (o WALObject, err error) {
	o = WALObject{Format: Format, Name: file.String(), SystemIdentifier: r.at.System, Size: size, Author: r.options.Author, Facts: facts}
	valid, hash := int64(0), sha256.New()
	if facts != nil && facts.Names() > maxNames {
		o.Facts = &postgres.SegmentFacts{ValidEnd: facts.ValidEnd}
	}
	if facts != nil {
		valid = min(int64(facts.ValidEnd), size)
		_, err = io.Copy(hash, part(0, valid))
		o.ValidSHA256 = hex.EncodeToString(hash.Sum(nil))
	}
	if err == nil {
		_, err = io.Copy(hash, part(valid, size))
	}
	o.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return o, err
}

// Same tells whether two files of one name hold the same WAL: equal bytes, or
// equal up to an equal valid end. A copy that ends earlier is not the same (R3).
func (o WALObject) Same(other WALObject) bool {
	if o.SHA256 == other.SHA256 && o.Size == other.Size {
		return true
	}
	return o.Facts != nil && other.Facts != nil && o.Facts.Walked && other.Facts.Walked &&
		o.Size == other.Size && o.Facts.ValidEnd == other.Facts.ValidEnd && o.ValidSHA256 == other.ValidSHA256
}

// isOf refuses another content than the one that a resolution names: that one is gone.
func (o WALObject) isOf(sha string) error {
	if sha != "" && o.SHA256 != sha {
		return fmt.Errorf("%w: %s is found with sha256 %.12s, and it was decided that %.12s counts", codec.ErrCorrupt, o.Name, o.SHA256, sha)
	}
	return nil
}

func (o WALObject) check(file postgres.WALFile, system postgres.SystemIdentifier) error {
	if o.Name != file.String() || o.SystemIdentifier != system {
		return fmt.Errorf("%w: object of WAL file %s says it is %s of system %s", codec.ErrCorrupt, file, o.Name, o.SystemIdentifier)
	}
	return nil
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// walFrame is the plaintext of one frame of a WAL object: large enough for a good
// ratio, small enough that frames are compressed in parallel.
const walFrame = 4 << 20

// walPacker makes stored objects. WAL is never stored bare (R6): without a codec it is
// zstd at its fastest.
type walPacker struct {
	name     codec.Name
	level    codec.Level
	encoders *codec.Pool
	frames   [][]byte
}

func newWALPacker(o Options) *walPacker {
	p := &walPacker{name: o.Codec, level: o.Level, encoders: o.Encoders}
	if p.name == codec.None {
		p.name, p.level = codec.Zstd, codec.Fastest
	}
	return p
}

// header appends the header of an object, sealed. Whatever the checksum is, it is as long.
func (p *walPacker) header(dst []byte, o WALObject, stored uint32) ([]byte, error) {
	o.StoredCRC32C = fmt.Sprintf("%08x", stored)
	header, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode header of %s: %w", o.Name, err)
	}
	out, err := codec.AppendHeader(dst, p.name, sealable(header))
	if err != nil {
		return nil, err
	}
	return seal(out), nil
}

// walWorkers is how many processors pack one file.
func walWorkers() int { return min(runtime.GOMAXPROCS(0), 4) }

// pack compresses a part of a file, its frames in parallel. They are the packer's own.
func (p *walPacker) pack(plain []byte) ([][]byte, error) {
	frames := max(1, (len(plain)+walFrame-1)/walFrame)
	p.frames = slices.Grow(p.frames[:0], frames)[:frames]
	var group errgroup.Group
	workers := min(frames, walWorkers())
	for w := range workers {
		group.Go(func() error {
			encoder, err := p.encoders.Encoder(p.name, p.level)
			if err != nil {
				return err
			}
			defer p.encoders.Release(encoder)
			for i := w; i < frames; i += workers {
				chunk := plain[i*walFrame : min(len(plain), (i+1)*walFrame)]
				// Room for the worst case: memory that is not touched costs nothing, memory
				// that grows is touched again and again.
				if room := len(chunk) + len(chunk)/16 + 64; cap(p.frames[i]) < room {
					p.frames[i] = make([]byte, 0, room)
				}
				if p.frames[i], err = encoder.AppendFrame(p.frames[i][:0], chunk); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return p.frames, group.Wait()
}

// encodeWAL makes the stored object. With a dst it is made there, one frame after the other.
func encodeWAL(dst []byte, o WALObject, plain []byte, options Options) ([]byte, error) {
	p := newWALPacker(options)
	out, err := p.header(dst[:0], o, 0) // as long as it will be
	if err != nil {
		return nil, err
	}
	if dst == nil {
		frames, err := p.pack(plain)
		if err == nil {
			out, err = p.header(out[:0], o, storedCRC(0, frames...))
		}
		return slices.Concat(append([][]byte{out}, frames...)...), err
	}
	encoder, err := p.encoders.Encoder(p.name, p.level)
	if err != nil {
		return nil, err
	}
	defer p.encoders.Release(encoder)
	header := len(out)
	for i := 0; err == nil && i < max(1, len(plain)); i += walFrame {
		out, err = encoder.AppendFrame(out, plain[i:min(len(plain), i+walFrame)])
	}
	if err == nil {
		_, err = p.header(out[:0], o, storedCRC(0, out[header:]))
	}
	return out, err
}

// storedCRC goes on with a checksum.
func storedCRC(sum uint32, parts ...[]byte) uint32 {
	for _, part := range parts {
		sum = crc32.Update(sum, castagnoli, part)
	}
	return sum
}

// readWALHeader reads the header of a WAL file's object from its beginning, and
// returns the bytes that it took. An object that ends early is corrupt.
func (r *Repository) readWALHeader(body io.Reader, file postgres.WALFile) (o WALObject, head []byte, err error) {
	if head, err = readWhole(body, nil, codec.HeaderPrefix); err != nil {
		return o, nil, err
	}
	prefix, payload, err := codec.HeaderLength(head)
	if err != nil {
		return o, nil, err
	}
	if payload > maxWALHeader || payload < 0 {
		return o, nil, fmt.Errorf("%w: header claims %d bytes", codec.ErrCorrupt, payload)
	}
	if head, err = readWhole(body, head, prefix+payload-len(head)); err != nil {
		return o, nil, err
	}
	if err := decodeFormat("header of WAL object "+file.String(), head[prefix:prefix+payload], &o); err != nil {
		return o, nil, err
	}
	limit := int64(1 << 30)
	if file.Kind == postgres.WALHistory || file.Kind == postgres.WALBackupHistory {
		limit = maxHistory
	}
	if o.Size < 0 || o.Size > limit || o.Facts != nil && (int64(o.Facts.ValidEnd) > o.Size || o.Facts.Names() > maxNames) {
		return o, nil, fmt.Errorf("%w: header: size %d", codec.ErrCorrupt, o.Size)
	}
	return o, head, o.check(file, r.at.System)
}

// readWhole appends n more bytes to head. That there are fewer is damage; a store
// that breaks off wraps its error, and is none.
func readWhole(body io.Reader, head []byte, n int) ([]byte, error) {
	more := make([]byte, max(0, n))
	_, err := io.ReadFull(body, more)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("%w: it ends within its header", codec.ErrCorrupt)
	}
	return append(head, more...), err
}

// Limits of a header: it grows only with restore points and tablespaces made within
// one segment. A segment with more is stored as one that nobody could follow.
const (
	maxWALHeader = 1 << 20
	maxNames     = maxWALHeader / 2
	maxHistory   = 1 << 20 // of a .history or .backup file
)
