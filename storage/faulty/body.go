package faulty

import (
	"io"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Cut ends a body after n bytes, as a broken connection does.
func Cut(n int64) Fault {
	return Fault{Body: func(r io.ReadCloser) io.ReadCloser { return &cut{r, n} }}
}

type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, &storage.Error{Op: "read", Err: io.ErrUnexpectedEOF, Retry: true}
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// Flip turns a bit of the n-th byte of a body, counted from 0.
func Flip(n int64) Fault {
	return Fault{Body: func(r io.ReadCloser) io.ReadCloser { return &flip{r, n} }}
}

type flip struct {
	io.ReadCloser
	at int64
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}
