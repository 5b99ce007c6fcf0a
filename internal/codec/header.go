package codec

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// AppendHeader appends a skippable frame (zstd) or chunk (s2) with payload: the
// first thing in an object, invisible to `zstd -dc` and `s2d`.
func AppendHeader(dst []byte, name Name, payload []byte) ([]byte, error) {
	switch name {
	case Zstd:
		dst = binary.LittleEndian.AppendUint32(dst, zstdSkippable)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
		return append(dst, payload...), nil
	case S2:
		if len(payload) >= 1<<24 {
			return nil, fmt.Errorf("s2 header of %d bytes is too long", len(payload))
		}
		dst = append(dst, s2Start...)
		dst = append(dst, s2Skippable, byte(len(payload)), byte(len(payload)>>8), byte(len(payload)>>16))
		return append(dst, payload...), nil
	}
	return nil, fmt.Errorf("codec %q cannot carry a header", name)
}

// HeaderLength is how many leading bytes an object's header takes in all, told
// from its first HeaderPrefix bytes.
func HeaderLength(head []byte) (prefix, payload int, err error) {
	switch Detect(head) {
	case Zstd:
		if len(head) >= 8 && binary.LittleEndian.Uint32(head)&^0xF == zstdSkippable {
			return 8, int(binary.LittleEndian.Uint32(head[4:])), nil
		}
	case S2:
		if n := len(s2Start); len(head) >= n+4 && head[n] == s2Skippable {
			return n + 4, int(head[n+1]) | int(head[n+2])<<8 | int(head[n+3])<<16, nil
		}
	}
	return 0, 0, fmt.Errorf("%w: object does not begin with our header", ErrCorrupt)
}

// HeaderPrefix is how many bytes HeaderLength needs.
const HeaderPrefix = 16

// NewReader decodes a stream of frames, skipping headers, with bounded memory.
// The codec is told by head, the first bytes of r (which still yields them).
func NewReader(name Name, r io.Reader) (io.ReadCloser, error) {
	below := &source{Reader: r}
	switch name {
	case Zstd:
		zr, err := zstd.NewReader(below, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(16<<20))
		if err != nil {
			return nil, fmt.Errorf("zstd reader: %w", err)
		}
		return marking{zr.IOReadCloser(), below}, nil
	case S2:
		return marking{io.NopCloser(s2.NewReader(below, s2.ReaderMaxBlockSize(1<<20))), below}, nil
	case None:
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("codec %q is unknown", name)
}

// source remembers why it failed.
type source struct {
	io.Reader
	failed error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.failed = err
	}
	return n, err
}

// marking turns a decoder's complaints, most of which have no name, into
// ErrCorrupt but leaves errors of the reader below alone: a lost connection is
// not corruption.
type marking struct {
	io.ReadCloser
	below *source
}

func (m marking) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case m.below.failed != nil:
		return n, m.below.failed
	}
	return n, fmt.Errorf("%w: %v", ErrCorrupt, err)
}
