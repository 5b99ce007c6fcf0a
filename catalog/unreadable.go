package catalog

import (
	"errors"
	"strings"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Finding is one thing that is wrong with the repository.
type Finding struct {
	Backup  BackupID `json:"backup,omitempty"`
	Object  string   `json:"object"`
	File    string   `json:"file,omitempty"`   // in a pack: its path in PGDATA
	Blocks  []uint32 `json:"blocks,omitempty"` // of the relation, where its pages are damaged
	Problem string   `json:"problem"`
}

// IsDamage tells what an object is, or that it is gone, from trouble with the store.
func IsDamage(err error) bool {
	for _, damage := range []error{codec.ErrCorrupt, storage.ErrNotExist, errTooLong, storage.ErrSpan, ErrFormat} {
		if errors.Is(err, damage) {
			return true
		}
	}
	return false
}

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
	return Finding{Backup: u.Backup, Object: u.Object, Problem: strings.TrimPrefix(u.Err.Error(), u.Object+": ")}
}

// unreadables gathers them.
type unreadables []Unreadable

// add takes an error about a document, unless it is nil or trouble with the store:
// that is returned.
func (u *unreadables) add(id BackupID, key storage.Key, err error) error {
	if err != nil && IsDamage(err) {
		*u = append(*u, Unreadable{id, string(key), err})
		return nil
	}
	return err
}
