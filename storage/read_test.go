package storage_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
)

func TestExactReader(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want string
		err  error
	}{{3, "bod", nil}, {4, "body", nil}, {0, "", nil}, {5, "body", io.ErrUnexpectedEOF}} {
		got, err := io.ReadAll(storage.ExactReader(io.NopCloser(strings.NewReader("body")), c.n))
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%d bytes: %q, %v", c.n, got, err)
		}
	}
}
