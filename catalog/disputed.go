package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Conflict is a WAL file of which more than one content is kept.
type Conflict struct {
	File       postgres.WALFile `json:"file"`
	Contents   []Content        `json:"contents"` // the stored one first, the others by their hash
	Resolution *Resolution      `json:"resolution,omitempty"`
	// Problem is why the resolution cannot be read.
	Problem string `json:"problem,omitempty"`
}

// Content is one of them, as its header describes it.
type Content struct {
	WALObject
	Stored   bool      `json:"stored"` // it stands under wal/
	Archived time.Time `json:"archived"`
	// DiffersAt is the offset of the first byte that is not as in the first content.
	DiffersAt *int `json:"differs_at,omitempty"`
	// Problem is why the object cannot be read.
	Problem string `json:"problem,omitempty"`
	key     storage.Key
}

// Conflicting describes the conflicts over all WAL files or over the one of that
// name, decided or not.
func (r *Repository) Conflicting(ctx context.Context, name string) ([]Conflict, error) {
	below := storage.Key(name)
	if name != "" {
		below += "/"
	}
	files, _, err := r.conflicts(ctx, below)
	if err != nil {
		return nil, err
	}
	var found []Conflict
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file, err := postgres.ParseWALFile(name)
		if err != nil {
			continue // not one of ours
		}
		c, err := r.describeConflict(ctx, file, files[name])
		if err != nil {
			return nil, fmt.Errorf("look at the contents of %s: %w", name, err)
		}
		found = append(found, c)
	}
	return found, nil
}

func (r *Repository) describeConflict(ctx context.Context, file postgres.WALFile, d decision) (Conflict, error) {
	c := Conflict{File: file}
	if d.err != nil {
		c.Problem = d.err.Error()
	} else if !d.open() {
		c.Resolution = &d.said
	}
	stored, err := r.bucket.Head(ctx, r.keys.wal(file))
	if err == nil {
		d.kept = append([]storage.Object{stored}, d.kept...)
	} else if !errors.Is(err, storage.ErrNotExist) {
		return c, err
	}
	for _, o := range d.kept {
		content := Content{Stored: o.Key == r.keys.wal(file), Archived: o.Modified, key: o.Key}
		content.WALObject, err = r.StatWALEntry(ctx, WALEntry{File: file, Size: o.Size, key: o.Key})
		if err != nil {
			content.Problem = err.Error()
			if err := new(unreadables).add("", o.Key, err); err != nil {
				return c, err
			}
		}
		// Who is refused after the decision has his content kept once more.
		if content.Stored || len(c.Contents) == 0 || !c.Contents[0].Stored || content.SHA256 != c.Contents[0].SHA256 {
			c.Contents = append(c.Contents, content)
		}
	}
	return c, nil
}

// Compare reads the contents whole and finds where each parts from the first.
func (r *Repository) Compare(ctx context.Context, c Conflict) error {
	limit := int64(1 << 30)
	if info, err := r.Info(ctx); err == nil {
		limit = int64(info.SegmentSize)
	}
	var first []byte
	for i, k := range c.Contents {
		var plain bytes.Buffer
		if _, err := r.getWAL(ctx, k.key, c.File, AtMost(&plain, limit)); err != nil {
			return fmt.Errorf("%s: %w", k.key, err)
		}
		if i == 0 {
			first = plain.Bytes()
			continue
		}
		at := 0
		for at < min(len(first), plain.Len()) && first[at] == plain.Bytes()[at] {
			at++
		}
		c.Contents[i].DiffersAt = &at
	}
	return nil
}
