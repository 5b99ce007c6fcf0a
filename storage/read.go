package storage

import (
	"context"
	"fmt"
	"io"
)

// Within resolves the span against an object of size bytes into an offset and a
// length, or fails with ErrSpan.
func (s Span) Within(size int64) (offset, length int64, err error) {
	length = s.Length
	if length < 0 {
		length = size - s.Offset
	}
	if s.Offset < 0 || s.Offset > size || length > size-s.Offset {
		return 0, 0, fmt.Errorf("%w: offset %d, length %d, object has %d bytes", ErrSpan, s.Offset, s.Length, size)
	}
	return s.Offset, length, nil
}

// ReadAll reads a whole object of at most limit bytes; a larger one is an error.
func ReadAll(ctx context.Context, b Bucket, key Key, limit int64) ([]byte, error) {
	r, err := b.Get(ctx, key, Whole)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, &Error{Op: "get", Key: key, Err: fmt.Errorf("%w: it is larger than %d bytes", ErrSpoiled, limit)}
	}
	return body, nil
}

// ExactReader reads exactly n bytes of r: a body that ends before is
// io.ErrUnexpectedEOF, what follows is not read.
func ExactReader(r io.ReadCloser, n int64) io.ReadCloser { return &exactReader{r, n} }

type exactReader struct {
	r    io.ReadCloser
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (e *exactReader) Close() error { return e.r.Close() }
