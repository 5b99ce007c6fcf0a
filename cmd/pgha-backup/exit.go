package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/restore"
	"github.com/pgha-backup/pgha-backup/retention"
	"github.com/pgha-backup/pgha-backup/storage"
)

// The exit codes: docs/EXIT_CODES.md.
const (
	exitOK           = 0
	exitError        = 1
	exitUsage        = 2
	exitConfig       = 3
	exitPreflight    = 4 // refused beforehand: nothing was changed
	exitInterrupted  = 5
	exitNotFound     = 6
	exitConflict     = 7
	exitUnreachable  = 8
	exitVerification = 9
	exitDegraded     = 10
)

// failure is an error of a command that knows its exit code.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }
func (f *failure) Hint() string  { return f.hint }

// fail makes a failure. An empty format prints no error line: what was printed on
// stdout said it.
func fail(code int, hint, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

func usage(format string, args ...any) error { return fail(exitUsage, "", format, args...) }

// exitCode is the one table from errors to exit codes. The first line that fits holds.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case is[*failure](err):
		f, _ := errors.AsType[*failure](err)
		return f.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case is[*restore.PreflightError](err), is[*restore.UnreachableError](err), is[*retention.RefusedError](err):
		return exitPreflight
	case is[*restore.NotFoundError](err):
		return exitNotFound
	case is[*restore.VerificationError](err):
		return exitVerification
	case is[*config.Error](err), errors.Is(err, storage.ErrNoBucket), errors.Is(err, storage.ErrDenied):
		return exitConfig
	case errors.Is(err, catalog.ErrCommitted), errors.Is(err, catalog.ErrExpired), is[*catalog.ConflictError](err), errors.Is(err, catalog.ErrDecided), errors.Is(err, catalog.ErrHistory):
		return exitConflict
	case errors.Is(err, codec.ErrCorrupt), errors.Is(err, storage.ErrSpoiled):
		return exitVerification
	case errors.Is(err, catalog.ErrNoBackup), errors.Is(err, storage.ErrNotExist):
		return exitNotFound
	case storage.IsRetryable(err), is[*catalog.UnsteadyError](err), errors.Is(err, context.DeadlineExceeded), is[*patroni.UnreachableError](err),
		is[*patroni.UnconfirmedError](err), gone(err):
		return exitUnreachable
	}
	return exitError
}

func gone(err error) bool {
	e, ok := errors.AsType[*server.Error](err)
	return ok && e.Gone()
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
