package daemon

import (
	"errors"

	"context"

	"github.com/pgha-backup/pgha-backup/catalog"
)

func (s *service) takeBackup(context.Context, task) (catalog.Manifest, error) {
	return catalog.Manifest{}, errors.New("not made yet")
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
