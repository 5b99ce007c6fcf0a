// Package codec compresses in independent frames that the field's own tools
// read: zstd frames for `zstd -dc`, s2 streams, or nothing. A concatenation of
// frames is again a valid stream of its codec.
package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Name is a codec as configuration and manifests spell it.
type Name string

// The codecs. None stores packs as plain tar; it cannot carry a header.
const (
	Zstd Name = "zstd"
	S2   Name = "s2"
	None Name = "none"
)

// Level trades time for size; the empty level is Default.
type Level string

// The levels of klauspost's encoder. Default matches the size of C zstd's level 3.
const (
	Fastest Level = "fastest"
	Default Level = "default"
	Better  Level = "better"
	Best    Level = "best"
)

// ErrCorrupt marks stored bytes that do not decode to what was written.
var ErrCorrupt = errors.New("stored data is corrupt")

// Parse checks a codec and a level as a configuration gives them.
func Parse(name, level string) (Name, Level, error) {
	switch Name(name) {
	case Zstd, S2, None:
	default:
		return "", "", fmt.Errorf("codec %q: want zstd, s2 or none", name)
	}
	switch Level(level) {
	case "":
		level = string(Default)
	case Fastest, Default, Better, Best:
	default:
		return "", "", fmt.Errorf("level %q: want fastest, default, better or best", level)
	}
	return Name(name), Level(level), nil
}

// Encoder appends frames. It is not safe for concurrent use; a worker has its own.
type Encoder struct {
	name Name
	zw   *zstd.Encoder
	sw   *s2.Writer

	now, quick *zstd.Encoder // zstd's fastest, for where that costs no size
	trial      int           // frames until both are tried again
}

// Pool keeps encoders of one codec and level for the next frame: one of zstd has ten
// megabytes of tables and history. A nil pool keeps none.
type Pool struct{ idle sync.Pool }

// Encoder takes one that was released, or makes one.
func (p *Pool) Encoder(name Name, level Level) (*Encoder, error) {
	if p != nil {
		if e, _ := p.idle.Get().(*Encoder); e != nil {
			return e, nil
		}
	}
	return NewEncoder(name, level)
}

// Release takes back an encoder that is not used any more.
func (p *Pool) Release(e *Encoder) {
	if p != nil {
		p.idle.Put(e)
	}
}

// NewEncoder makes an encoder for a codec and level that Parse accepted.
func NewEncoder(name Name, level Level) (*Encoder, error) {
	e := &Encoder{name: name}
	switch name {
	case Zstd:
		speed := map[Level]zstd.EncoderLevel{Fastest: zstd.SpeedFastest, Default: zstd.SpeedDefault,
			Better: zstd.SpeedBetterCompression, Best: zstd.SpeedBestCompression, "": zstd.SpeedDefault}[level]
		if speed == 0 {
			return nil, fmt.Errorf("zstd level %q is unknown", level)
		}
		zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithEncoderCRC(true),
			zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true), zstd.WithWindowSize(4<<20))
		if err != nil {
			return nil, fmt.Errorf("zstd encoder: %w", err)
		}
		e.zw, e.now = zw, zw
	case S2:
		options := []s2.WriterOption{s2.WriterConcurrency(1), s2.WriterBlockSize(1 << 20)}
		switch level {
		case Better:
			options = append(options, s2.WriterBetterCompression())
		case Best:
			options = append(options, s2.WriterBestCompression())
		}
		e.sw = s2.NewWriter(nil, options...)
	case None:
	default:
		return nil, fmt.Errorf("codec %q is unknown", name)
	}
	return e, nil
}

// trialEvery is how many frames follow a trial of both levels. They are mostly of the file
// that the tried one was of.
const trialEvery = 64

// Thrift lets an encoder of zstd's default level use the fastest, which takes three quarters
// of the time, as long as its frames are no larger. It is for who has many frames.
func (e *Encoder) Thrift(level Level) error {
	if e.name != Zstd || e.quick != nil || level != Default && level != "" {
		return nil
	}
	quick, err := NewEncoder(Zstd, Fastest)
	if err == nil {
		e.quick = quick.zw
	}
	return err
}

func (e *Encoder) appendZstd(dst, plain []byte) []byte {
	if e.trial--; e.quick == nil || e.trial >= 0 {
		return e.now.EncodeAll(plain, dst)
	}
	e.trial = trialEvery
	out := e.zw.EncodeAll(plain, dst)
	n := len(out)
	e.now, out = e.zw, e.quick.EncodeAll(plain, out) // behind it
	if len(out)-n <= n-len(dst) {
		e.now = e.quick
	}
	return out[:n]
}

// Name is the encoder's codec.
func (e *Encoder) Name() Name { return e.name }

// AppendFrame appends one frame holding plain to dst.
func (e *Encoder) AppendFrame(dst, plain []byte) ([]byte, error) {
	switch e.name {
	case Zstd:
		return e.appendZstd(dst, plain), nil
	case S2:
		out := appender{dst}
		e.sw.Reset(&out)
		if err := e.sw.EncodeBuffer(plain); err != nil {
			return dst, fmt.Errorf("s2 encode: %w", err)
		}
		if err := e.sw.Close(); err != nil {
			return dst, fmt.Errorf("s2 encode: %w", err)
		}
		return out.b, nil
	}
	return append(dst, plain...), nil
}

// appender is a writer that appends.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// Decoder decodes frames of one codec. It is not safe for concurrent use.
type Decoder struct {
	name Name
	zr   *zstd.Decoder
}

// NewDecoder makes a decoder whose frames hold at most maxFrame plain bytes each;
// a frame that claims more is corrupt. Close it.
func NewDecoder(name Name, maxFrame int) (*Decoder, error) {
	d := &Decoder{name: name}
	switch name {
	case Zstd:
		zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(uint64(maxFrame)), zstd.WithDecoderMaxWindow(uint64(max(maxFrame, 8<<20))))
		if err != nil {
			return nil, fmt.Errorf("zstd decoder: %w", err)
		}
		d.zr = zr
	case S2, None:
	default:
		return nil, fmt.Errorf("codec %q is unknown", name)
	}
	return d, nil
}

// DecodeFrame decodes one whole frame into dst, which it must fill exactly.
func (d *Decoder) DecodeFrame(dst, stored []byte) (err error) {
	out := stored
	switch d.name {
	case Zstd:
		if out, err = d.zr.DecodeAll(stored, dst[:0:len(dst)]); err != nil {
			return fmt.Errorf("%w: zstd: %v", ErrCorrupt, err)
		}
	case S2:
		if out, err = decodeChunks(dst, stored); err != nil {
			return fmt.Errorf("%w: s2: %v", ErrCorrupt, err)
		}
	}
	if len(out) != len(dst) {
		return fmt.Errorf("%w: frame holds %d bytes, want %d", ErrCorrupt, len(out), len(dst))
	}
	if len(out) > 0 && &out[0] != &dst[0] {
		copy(dst, out)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// decodeChunks decodes the chunks of an s2 stream to where they belong; s2.Reader would
// copy what is stored and what comes of it.
func decodeChunks(dst, stored []byte) ([]byte, error) {
	out := dst[:0]
	for len(stored) > 0 {
		if len(stored) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		kind, n := stored[0], int(stored[1])|int(stored[2])<<8|int(stored[3])<<16
		if stored = stored[4:]; n > len(stored) || kind <= 1 && n < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		chunk := stored[:n]
		stored = stored[n:]
		if kind >= 0x80 { // padding, the beginning of a stream, or ours
			continue
		}
		room, size, err := dst[len(out):], n-4, error(nil)
		if kind == 0 {
			size, err = s2.DecodedLen(chunk[4:])
		}
		if err != nil || kind > 1 || size > len(room) {
			return nil, s2.ErrCorrupt
		}
		if out = dst[:len(out)+size]; kind == 1 {
			copy(room, chunk[4:])
		} else if _, err = s2.Decode(room, chunk[4:]); err != nil {
			return nil, err
		}
		if c := crc32.Checksum(room[:size], castagnoli); (c>>15|c<<17)+0xa282ead8 != binary.LittleEndian.Uint32(chunk) {
			return nil, s2.ErrCRC
		}
	}
	return out, nil
}

// Close frees the decoder's goroutines and buffers.
func (d *Decoder) Close() {
	if d.zr != nil {
		d.zr.Close()
	}
}

// Magic numbers that tell a codec from an object's first bytes.
const (
	zstdFrame     = 0xFD2FB528
	zstdSkippable = 0x184D2A50 // to ...5F
	s2Skippable   = 0x80       // our chunk type among the skippable 0x80-0xFD
)

var s2Start = []byte("\xff\x06\x00\x00S2sTwO")

// Detect tells zstd and s2 by their magic bytes; anything else is None.
func Detect(head []byte) Name {
	if len(head) >= 4 {
		m := binary.LittleEndian.Uint32(head)
		if m == zstdFrame || m&^0xF == zstdSkippable {
			return Zstd
		}
	}
	if bytes.HasPrefix(head, s2Start) {
		return S2
	}
	return None
}
