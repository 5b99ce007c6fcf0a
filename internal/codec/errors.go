package codec

import (
	"errors"
	"io"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// isCodecError tells the decoders' own errors from those of the reader below.
func isCodecError(err error) bool {
	for _, own := range []error{
		zstd.ErrMagicMismatch, zstd.ErrWindowSizeExceeded, zstd.ErrWindowSizeTooSmall, zstd.ErrDecoderSizeExceeded,
		zstd.ErrUnknownDictionary, zstd.ErrFrameSizeExceeded, zstd.ErrFrameSizeMismatch, zstd.ErrCRCMismatch,
		zstd.ErrUnexpectedBlockSize, zstd.ErrBlockTooSmall, zstd.ErrCompressedSizeTooBig, zstd.ErrReservedBlockType,
		s2.ErrCorrupt, s2.ErrTooLarge, s2.ErrUnsupported, s2.ErrCRC, io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}
