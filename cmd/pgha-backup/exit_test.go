package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/retention"
	"github.com/pgha-backup/pgha-backup/storage"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{usage("x"), 2},
		{&config.Error{}, 3},
		{storage.ErrNoBucket, 3},
		{&storage.Error{Err: storage.ErrDenied}, 3},
		{fail(exitPreflight, "", "x"), 4},
		{&retention.RefusedError{}, 4},
		{context.Canceled, 5},
		{&storage.Error{Err: context.Canceled, Retry: true}, 5},
		{catalog.ErrNoBackup, 6},
		{storage.ErrNotExist, 6},
		{catalog.ErrCommitted, 7},
		{&catalog.ConflictError{}, 7},
		{catalog.ErrExpired, 7},
		{&catalog.UnsteadyError{}, 8},
		{&storage.Error{Err: errors.New("x"), Retry: true}, 8},
		{context.DeadlineExceeded, 8},
		{&patroni.UnreachableError{Err: errors.New("x")}, 8},
		{&patroni.UnconfirmedError{Err: errors.New("x")}, 8},
		{codec.ErrCorrupt, 9},
		{fail(exitDegraded, "", "x"), 10},
	} {
		if c.err != nil {
			c.err = fmt.Errorf("wrapped: %w", c.err)
		}
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: exit %d, want %d", c.err, got, c.want)
		}
	}
}

func TestHintOfTheOutermost(t *testing.T) {
	inner := &storage.Error{Err: errors.New("x"), Advice: "inner"}
	for want, err := range map[string]error{
		"inner": errors.Join(errors.New("y"), fmt.Errorf("z: %w", inner)),
		"outer": fail(1, "outer", "%w", inner),
		"":      errors.New("x"),
	} {
		if got := hintOf(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
