package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Documents reads every document of the repository, or of one backup, also those that
// nobody asks for: of hidden backups, of runs that never committed, of gaps that closed.
// It returns how many there are, and those that say nothing or speak of something else
// than their key.
func (r *Repository) Documents(ctx context.Context, id BackupID) (n int, broken []Unreadable, err error) {
	roots := []string{"repository.json", "backup/", "conflict/", "gap/", "hold/", "report/missed/"}
	if id != "" {
		roots = []string{"backup/" + string(id) + "/", "hold/" + string(id) + "/"}
	}
	for _, root := range roots {
		for object, err := range r.bucket.List(ctx, r.keys.key(root), "") {
			if err != nil {
				return n, nil, fmt.Errorf("list %s: %w", root, err)
			}
			document, err := r.readAny(ctx, object.Key)
			if document {
				n++
			}
			of := id
			if root == "backup/" {
				name, _, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(r.keys.backups())), "/")
				of = BackupID(name)
			}
			if err := (*unreadables)(&broken).add(of, object.Key, err); err != nil {
				return n, nil, err
			}
		}
	}
	return n, broken, nil
}

// readAny reads an object if its key is a document's; every other one is passed over.
func (r *Repository) readAny(ctx context.Context, key storage.Key) (document bool, err error) {
	parts := strings.Split(strings.TrimPrefix(string(key), string(r.keys.key(""))), "/")
	kind, name := parts[0], parts[len(parts)-1]
	agrees := func() bool { return true }
	var v any
	switch {
	case kind == "repository.json":
		d := &Info{}
		v, agrees = d, func() bool {
			return d.Scope == r.at.Scope && d.SystemIdentifier == r.at.System && d.SegmentSize.Validate() == nil
		}
	case kind == "backup" && name == manifestName:
		_, err = r.Manifest(ctx, BackupID(parts[1]))
	case kind == "backup" && name == expiredName:
		v = &Expired{}
	case kind == "backup" && name == removalName:
		d := &Removal{}
		v, agrees = d, func() bool { return runPattern.MatchString(string(d.Run)) }
	case kind == "backup" && name == startedName:
		d := &Started{}
		v, agrees = d, func() bool { return key == r.keys.run(d.ID, d.Run, name) }
	case kind == "conflict" && name == resolvedName:
		d := &Resolution{}
		v, agrees = d, func() bool { return isSHA256(d.SHA256) }
	case kind == "gap":
		d, state := &GapRecord{}, GapState(strings.TrimPrefix(path.Ext(name), "."))
		v, agrees = d, func() bool { return key == r.gapKey(d.span(), state) }
	case kind == "hold":
		d := &Hold{}
		v, agrees = d, func() bool { return key == r.keys.hold(d.Backup, d.Name) }
	case kind == "report":
		d := &Missed{}
		v, agrees = d, func() bool { return key == r.keys.missed(d.Backup) }
	default:
		return false, nil
	}
	if v != nil {
		err = r.readDocument(ctx, key, 1<<16, v)
	}
	switch {
	case errors.Is(err, storage.ErrNotExist): // released, removed or shown again since it was listed
		err = nil
	case err == nil && !agrees():
		err = fmt.Errorf("%s: %w: it speaks of something else than its key", key, codec.ErrCorrupt)
	}
	return true, err
}
