package storage

import (
	"context"
	"errors"
	"io"
	"time"
)

// Error is how a driver reports a failed operation.
type Error struct {
	Op  string // the operation: put, get, head, list, delete, begin, part, complete, abort, read
	Key Key    // the object, or the prefix of a list
	Err error
	// Retry: the same call may succeed later; the store was unreachable or busy.
	Retry bool
	// After is how long the store asked to be left alone; 0 if it did not say.
	After time.Duration
	// Advice is what a person can do about it; may be empty.
	Advice string
}

func (e *Error) Error() string {
	if e.Key == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + string(e.Key) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Hint is what a person can do about the error; may be empty.
func (e *Error) Hint() string { return e.Advice }

// IsRetryable says whether the same call may succeed later. Answers of the store
// (absent, present, refused, no bucket) and an ended context are final.
func IsRetryable(err error) bool {
	for _, final := range []error{
		ErrNotExist, ErrExist, ErrNoBucket, ErrDenied, ErrSpan, ErrKey,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Retry
	}
	return errors.Is(err, io.ErrUnexpectedEOF)
}

// RetryAfter is how long the store asked to be left alone, or 0.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.After
	}
	return 0
}
