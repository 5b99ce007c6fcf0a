package catalog

import (
	"errors"
	"strings"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Unreadable is a document that the store lists and that says nothing: it is damaged,
// gone, or written by a newer version. Whoever reads goes on without it and names it;
// whoever deletes stops. A store that gives trouble is an error to both.
type Unreadable struct {
	Backup BackupID // of a manifest, else empty
	Object string
	Err    error
}

// Finding is it for a report.
func (u Unreadable) Finding() Finding {
	return Finding{u.Backup, u.Object, strings.TrimPrefix(u.Err.Error(), u.Object+": ")}
}

// unreadables gathers them.
type unreadables []Unreadable

// add takes an error about a document, unless it is nil or trouble with the store:
// that is returned.
func (u *unreadables) add(id BackupID, key storage.Key, err error) error {
	if errors.Is(err, codec.ErrCorrupt) || errors.Is(err, errTooLong) || errors.Is(err, ErrFormat) || errors.Is(err, storage.ErrNotExist) {
		*u = append(*u, Unreadable{id, string(key), err})
		return nil
	}
	return err
}
