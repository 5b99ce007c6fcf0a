package server

import (
	"errors"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A server that dies says so in time, or it does not: both mean that it is not there.
func TestGone(t *testing.T) {
	for code, want := range map[string]bool{"57P01": true, "57P02": true, "57P03": true, "42501": false} {
		err := failed("ask", &pgconn.PgError{Code: code})
		if e, ok := errors.AsType[*Error](err); !ok || e.Gone() != want {
			t.Errorf("%s: %v", code, err)
		}
	}
	if e, ok := errors.AsType[*Error](failed("ask", io.ErrUnexpectedEOF)); !ok || e.Gone() {
		t.Error("a broken connection is told by itself")
	}
}
