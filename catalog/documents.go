package catalog

import (
	"context"
	"errors"
	"fmt"
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
			backup := id
			if below, ok := strings.CutPrefix(string(object.Key), string(r.keys.backups())); ok {
				name, _, _ := strings.Cut(below, "/")
				backup = BackupID(name)
			}
			if err := (*unreadables)(&broken).add(backup, object.Key, err); err != nil {
				return n, nil, err
			}
		}
	}
	return n, broken, nil
}

// readAny reads an object if its key is a document's; every other one is passed over.
func (r *Repository) readAny(ctx context.Context, key storage.Key) (document bool, err error) {
	parts := strings.Split(strings.TrimPrefix(string(key), string(r.keys.key(""))), "/")
	of, name := "", parts[len(parts)-1]
	if len(parts) > 1 {
		of = parts[1]
	}
	read := func(v any) error { return r.readDocument(ctx, key, 1<<16, v) }
	agrees := true
	switch kind := parts[0]; {
	case key == r.keys.repository():
		var info Info
		if err = read(&info); err == nil {
			agrees = info.Scope == r.at.Scope && info.SystemIdentifier == r.at.System && info.SegmentSize.Validate() == nil
		}
	case kind == "backup" && name == manifestName:
		_, err = r.Manifest(ctx, BackupID(of))
	case kind == "backup" && name == expiredName:
		err = read(&Expired{})
	case kind == "backup" && name == removalName:
		var v Removal
		err = read(&v)
		agrees = runPattern.MatchString(string(v.Run))
	case kind == "backup" && name == startedName:
		var v Started
		err = read(&v)
		agrees = key == r.keys.run(v.ID, v.Run, name)
	case kind == "conflict" && name == resolvedName:
		var v Resolution
		err = read(&v)
		agrees = len(v.SHA256) == 64
	case kind == "gap":
		var v GapRecord
		err = read(&v)
		_, state, _ := strings.Cut(name, ".")
		agrees = key == r.gapKey(v.span(), GapState(state))
	case kind == "hold":
		var v Hold
		err = read(&v)
		agrees = key == r.keys.hold(v.Backup, v.Name)
	case kind == "report":
		var v Missed
		err = read(&v)
		agrees = key == r.keys.missed(v.Backup)
	default:
		return false, nil
	}
	if err == nil && !agrees {
		err = fmt.Errorf("%s: %w: it speaks of something else than its key", key, codec.ErrCorrupt)
	}
	if errors.Is(err, storage.ErrNotExist) { // released, removed or shown again since it was listed
		err = nil
	}
	return true, err
}
