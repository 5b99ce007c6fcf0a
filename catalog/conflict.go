package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Resolution is conflict/<file>/resolved: an operator's word on which of two
// contents of one WAL file counts. Every reader follows it (R4).
type Resolution struct {
	Format int       `json:"format"`
	SHA256 string    `json:"sha256"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// resolutions remembers the resolved conflicts for a short while: they are few,
// and one LIST answers for all WAL files.
type resolutions struct {
	mu     sync.Mutex
	read   time.Time
	byFile map[string]decision // by the name of the WAL file
}

// decision is the sha256 that counts, or why nobody knows; neither where nobody has
// said. Only who reads this very file is told.
type decision struct {
	sha string
	err error
}

const resolutionsAge = 10 * time.Second

// walKey is where a WAL file is read from.
func (r *Repository) walKey(ctx context.Context, file postgres.WALFile) (storage.Key, error) {
	resolved, err := r.resolutions(ctx)
	if err != nil {
		return "", err
	}
	key := r.keys.wal(file)
	decided, ok := resolved[file.String()]
	switch {
	case errors.Is(decided.err, storage.ErrNotExist): // it is the resolution that is gone, not the file
		return "", fmt.Errorf("find out which content of %s counts: %v", file, decided.err)
	case !ok || decided.err != nil:
		return key, decided.err
	}
	kept := r.keys.conflict(file, decided.sha)
	switch _, err := r.bucket.Head(ctx, kept); {
	case err == nil:
		return kept, nil
	case errors.Is(err, storage.ErrNotExist):
		return key, nil // the stored one was declared rightful
	default:
		return "", err
	}
}

func (r *Repository) resolutions(ctx context.Context) (map[string]decision, error) {
	r.resolved.mu.Lock()
	defer r.resolved.mu.Unlock()
	if r.resolved.byFile != nil && time.Since(r.resolved.read) < resolutionsAge {
		return r.resolved.byFile, nil
	}
	files, _, err := r.conflicts(ctx)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(files, func(_ string, d decision) bool { return d.sha == "" && d.err == nil })
	r.resolved.byFile, r.resolved.read = files, time.Now()
	return files, nil
}

// conflicts are all WAL files of which two contents are kept, with what was decided.
func (r *Repository) conflicts(ctx context.Context) (files map[string]decision, broken []Unreadable, err error) {
	files = map[string]decision{}
	for object, err := range r.bucket.List(ctx, r.keys.conflicts(), "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list WAL conflicts: %w", err)
		}
		file, name, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(r.keys.conflicts())), "/")
		files[file] = decision{} // "resolved" sorts after every hash
		if name == "resolved" {
			var resolution Resolution
			err := r.readDocument(ctx, object.Key, 1<<16, &resolution)
			files[file] = decision{resolution.SHA256, err}
			if err := (*unreadables)(&broken).add("", object.Key, err); err != nil {
				return nil, nil, err
			}
		}
	}
	return files, broken, nil
}

// Conflicts names the WAL files of which two contents are kept and nobody has said
// yet which one counts.
func (r *Repository) Conflicts(ctx context.Context) (names []string, broken []Unreadable, err error) {
	files, broken, err := r.conflicts(ctx)
	maps.DeleteFunc(files, func(_ string, d decision) bool { return d.sha != "" || d.err != nil })
	return slices.Sorted(maps.Keys(files)), broken, err
}
