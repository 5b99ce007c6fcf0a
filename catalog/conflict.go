package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Resolution is conflict/<file>/resolved: a person's or the leader's word on which of
// two contents of one WAL file counts. Every reader follows it (R4).
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

// decision is which of the kept contents counts, or why nobody knows; neither where
// nobody has said. Only who reads this very file is told.
type decision struct {
	kept []storage.Object
	said Resolution
	err  error
}

func (d decision) open() bool { return d.said.SHA256 == "" && d.err == nil }

const resolutionsAge = 10 * time.Second

// walKey is where a WAL file is read from, and which content a resolution wants there.
func (r *Repository) walKey(ctx context.Context, file postgres.WALFile) (key storage.Key, sha string, err error) {
	resolved, err := r.resolutions(ctx)
	if err != nil {
		return "", "", err
	}
	return r.follow(ctx, file, resolved[file.String()])
}

// follow goes where a decision points; sha is what must be found there, if anything.
func (r *Repository) follow(ctx context.Context, file postgres.WALFile, decided decision) (key storage.Key, sha string, err error) {
	key, sha = r.keys.wal(file), decided.said.SHA256
	switch {
	case errors.Is(decided.err, storage.ErrNotExist): // it is the resolution that is gone, not the file
		return "", "", fmt.Errorf("find out which content of %s counts: %v", file, decided.err)
	case sha == "" || decided.err != nil:
		return key, "", decided.err
	}
	kept := r.keys.conflict(file, sha)
	switch _, err := r.bucket.Head(ctx, kept); {
	case err == nil:
		return kept, sha, nil
	case errors.Is(err, storage.ErrNotExist):
		return key, sha, nil // the stored one was declared rightful
	default:
		return "", "", err
	}
}

// decided asks the store what was said of one file: whoever acknowledges WAL cannot
// go by what was known a while ago.
func (r *Repository) decided(ctx context.Context, file postgres.WALFile) (d decision) {
	d.said, d.err = r.resolution(ctx, r.keys.resolved(file))
	if errors.Is(d.err, storage.ErrNotExist) {
		d.err = nil
	}
	return d
}

// isSHA256 tells a hash as we write it. A pattern of so many digits would be compiled at each start of a hook.
func isSHA256(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

func (r *Repository) resolution(ctx context.Context, key storage.Key) (said Resolution, err error) {
	if err = r.readDocument(ctx, key, 1<<16, &said); err == nil && !isSHA256(said.SHA256) {
		err = fmt.Errorf("%s: %w: sha256 %q", key, codec.ErrCorrupt, said.SHA256)
	}
	if err != nil {
		return Resolution{}, err
	}
	return said, nil
}

func (r *Repository) resolutions(ctx context.Context) (map[string]decision, error) {
	r.resolved.mu.Lock()
	defer r.resolved.mu.Unlock()
	if r.resolved.byFile != nil && time.Since(r.resolved.read) < resolutionsAge {
		return r.resolved.byFile, nil
	}
	files, _, err := r.conflicts(ctx, "")
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(files, func(_ string, d decision) bool { return d.open() })
	r.resolved.byFile, r.resolved.read = files, time.Now()
	return files, nil
}

// conflicts are the WAL files of which two contents are kept, with what was decided:
// all, or those below a name.
func (r *Repository) conflicts(ctx context.Context, below storage.Key) (files map[string]decision, broken []Unreadable, err error) {
	files = map[string]decision{}
	for object, err := range r.bucket.List(ctx, r.keys.conflicts()+below, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list WAL conflicts: %w", err)
		}
		file, name, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(r.keys.conflicts())), "/")
		if _, err := postgres.ParseWALFile(file); err != nil || name != resolvedName && !isSHA256(name) {
			continue // not one of ours
		}
		d := files[file]
		if name != resolvedName {
			d.kept = append(d.kept, object)
		} else if d.said, d.err = r.resolution(ctx, object.Key); d.err != nil {
			if err := (*unreadables)(&broken).add("", object.Key, d.err); err != nil {
				return nil, nil, err
			}
		}
		files[file] = d
	}
	return files, broken, nil
}

// Conflicts names the WAL files of which two contents are kept and nobody has said
// yet which one counts.
func (r *Repository) Conflicts(ctx context.Context) (names []string, broken []Unreadable, err error) {
	files, broken, err := r.conflicts(ctx, "")
	maps.DeleteFunc(files, func(_ string, d decision) bool { return !d.open() })
	return slices.Sorted(maps.Keys(files)), broken, err
}

// Why a word on a conflict is refused.
var (
	ErrDecided = errors.New("a decision is for ever, readers have followed it")
	ErrHistory = errors.New("the archive's segments of that timeline follow the stored history: switch over once, so that the leader opens another one, " +
		"and take a backup; then the stored content can be chosen")
)

func (w Resolution) String() string {
	return fmt.Sprintf("sha256 %.12s counts, by %s at %s (%s)", w.SHA256, w.By, w.At.Format(time.RFC3339), w.Reason)
}

// Resolve says which content of a file counts, once and for all (R4), and returns
// what holds. Saying the same again changes nothing; ErrDecided if another one was
// chosen before.
//
// Of a timeline history only the stored content can be chosen, else ErrHistory: the
// segments that are archived under another one would lie on another branch, and what
// can be restored today could not be any more.
func (r *Repository) Resolve(ctx context.Context, c Conflict, word Resolution) (Resolution, error) {
	i := slices.IndexFunc(c.Contents, func(k Content) bool { return k.Problem == "" && k.SHA256 == word.SHA256 })
	switch {
	case c.Resolution != nil || c.Problem != "":
	case i < 0:
		return word, fmt.Errorf("%w: no readable content of %s has sha256 %q", storage.ErrNotExist, c.File, word.SHA256)
	case c.File.Kind == postgres.WALHistory && !c.Contents[i].Stored:
		return word, fmt.Errorf("%s: %w", c.File, ErrHistory)
	default:
		// What nobody can read whole must not be what everybody is sent to.
		if _, err := r.getWAL(ctx, c.Contents[i].key, c.File, io.Discard); err != nil {
			return word, fmt.Errorf("read the content that is to count: %s: %w", c.Contents[i].key, err)
		}
		word.Format = Format
		if err := r.createDocument(ctx, r.keys.resolved(c.File), word); err != nil && !errors.Is(err, storage.ErrExist) {
			return word, fmt.Errorf("write down which content of %s counts: %w", c.File, err)
		}
	}
	holds := r.decided(ctx, c.File) // or somebody was faster
	if holds.err != nil {
		return word, fmt.Errorf("find out which content of %s counts: %w", c.File, holds.err)
	}
	if holds.said.SHA256 != word.SHA256 {
		return holds.said, fmt.Errorf("%s: %s: %w", c.File, holds.said, ErrDecided)
	}
	r.resolved.mu.Lock()
	defer r.resolved.mu.Unlock()
	r.resolved.byFile = nil
	return holds.said, nil
}
