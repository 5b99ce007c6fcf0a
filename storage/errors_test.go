package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

func TestIsRetryable(t *testing.T) {
	busy := &storage.Error{Op: "put", Key: "a/b", Err: errors.New("busy"), Retry: true, After: time.Minute, Advice: "wait"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("other"), false},
		{busy, true},
		{fmt.Errorf("archive: %w", busy), true},
		{io.ErrUnexpectedEOF, true},
		{&storage.Error{Err: io.ErrUnexpectedEOF}, false},
		{&storage.Error{Err: storage.ErrNotExist, Retry: true}, false},
		{&storage.Error{Err: storage.ErrExist, Retry: true}, false},
		{&storage.Error{Err: storage.ErrDenied, Retry: true}, false},
		{&storage.Error{Err: storage.ErrNoBucket, Retry: true}, false},
		{&storage.Error{Err: context.Canceled, Retry: true}, false},
		{&storage.Error{Err: context.DeadlineExceeded, Retry: true}, false},
	} {
		if got := storage.IsRetryable(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	wrapped := fmt.Errorf("archive: %w", busy)
	if storage.RetryAfter(wrapped) != time.Minute || busy.Error() != "put a/b: busy" || busy.Hint() != "wait" {
		t.Errorf("%s, %s, %s", storage.RetryAfter(wrapped), busy, busy.Hint())
	}
}
