package catalog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Location says which cluster's repository is meant.
type Location struct {
	Scope  string // Patroni's scope
	System postgres.SystemIdentifier
}

// Options say how objects are written. Zero values take the defaults.
type Options struct {
	Codec codec.Name  // default zstd
	Level codec.Level // default "default"
	// Encoders are used again for WAL; nil where one file is stored.
	Encoders *codec.Pool
	// Author is the member whose WAL is stored, empty where there is none.
	Author string
	// PartSize and InFlight bound the memory of a streamed upload: one buffer of
	// PartSize for each part in flight and one being filled. 16 MiB and 2.
	PartSize, InFlight int
}

// Repository is one cluster's backups and WAL in a bucket. Methods are safe for
// concurrent use.
type Repository struct {
	bucket   storage.Bucket
	keys     layout
	at       Location
	options  Options
	resolved resolutions
}

// New looks at nothing: it names a repository that may not exist yet.
func New(bucket storage.Bucket, at Location, options Options) *Repository {
	options.Codec = cmp.Or(options.Codec, codec.Zstd)
	options.Level = cmp.Or(options.Level, codec.Default)
	options.InFlight = cmp.Or(options.InFlight, 2)
	return &Repository{bucket: bucket, keys: newLayout(at), at: at, options: options}
}

// Location is where the repository stands.
func (r *Repository) Location() Location { return r.at }

// Root is the repository's path in the bucket, for messages.
func (r *Repository) Root() string { return r.keys.root }

// Info is repository.json.
type Info struct {
	Format           int                       `json:"format"`
	Scope            string                    `json:"scope"`
	SystemIdentifier postgres.SystemIdentifier `json:"system_identifier"`
	SegmentSize      postgres.SegmentSize      `json:"wal_segment_size"`
	Created          time.Time                 `json:"created"`
	// ConditionalWrites is how create-once was had when the repository was made:
	// "required" (the store was probed) or "emulate".
	ConditionalWrites string `json:"conditional_writes"`
}

// ErrFormat marks a repository or document written by a newer version.
var ErrFormat error = &formatError{}

type formatError struct{}

func (*formatError) Error() string { return "written by a newer version of pgha-backup" }

// Hint says what to do.
func (*formatError) Hint() string { return "upgrade pgha-backup on this host" }

func checkFormat(what string, format int) error {
	if format > Format {
		return fmt.Errorf("%s has format %d, this version reads up to %d: %w", what, format, Format, ErrFormat)
	}
	if format < 1 {
		return fmt.Errorf("%s has no format number: not one of ours, or damaged: %w", what, codec.ErrCorrupt)
	}
	return nil
}

// Info reads repository.json: storage.ErrNotExist if nothing was archived yet.
func (r *Repository) Info(ctx context.Context) (Info, error) {
	var info Info
	if err := r.readDocument(ctx, r.keys.repository(), 1<<16, &info); err != nil {
		return Info{}, err
	}
	if info.SystemIdentifier != r.at.System {
		return Info{}, fmt.Errorf("%s: %w: it names system identifier %s, its path %s: the repository was moved or damaged",
			r.keys.repository(), errMoved, info.SystemIdentifier, r.at.System)
	}
	if err := info.SegmentSize.Validate(); err != nil {
		return Info{}, fmt.Errorf("%s: %w: %w", r.keys.repository(), codec.ErrCorrupt, err)
	}
	return info, nil
}

var errMoved = fmt.Errorf("%w", codec.ErrCorrupt)

// InfoDamaged tells of an error of Info that a repository is there, of which only
// repository.json cannot be read. Who knows what it says, or asks only whether it is
// there, goes on: it is never written again.
func InfoDamaged(err error) bool {
	return errors.Is(err, codec.ErrCorrupt) && !errors.Is(err, errMoved)
}

// KnownInfo is Info for who reads: where only repository.json is damaged, the newest
// manifest says what is needed of it, and the damage is told beside.
func (r *Repository) KnownInfo(ctx context.Context) (Info, []Unreadable, error) {
	info, damage := r.Info(ctx)
	if damage == nil || !InfoDamaged(damage) {
		return info, nil, damage
	}
	backups, _, err := r.ReadableBackups(ctx)
	if err == nil && len(backups) == 0 {
		err = damage
	}
	if err != nil {
		return Info{}, nil, err
	}
	info = Info{Format: Format, Scope: r.at.Scope, SystemIdentifier: r.at.System, SegmentSize: backups[len(backups)-1].SegmentSize}
	return info, []Unreadable{{Object: string(r.keys.repository()), Err: damage}}, nil
}

// Create writes repository.json, or checks the one that is there: the same
// segment size, or an error.
func (r *Repository) Create(ctx context.Context, size postgres.SegmentSize, conditionalWrites string, now time.Time) (Info, error) {
	if err := errors.Join(size.Validate(), ValidateScope(r.at.Scope)); err != nil {
		return Info{}, err
	}
	info := Info{Format: Format, Scope: r.at.Scope, SystemIdentifier: r.at.System, SegmentSize: size,
		Created: now.UTC().Truncate(time.Second), ConditionalWrites: conditionalWrites}
	err := r.createDocument(ctx, r.keys.repository(), info)
	if !errors.Is(err, storage.ErrExist) {
		return info, err
	}
	there, err := r.Info(ctx)
	if err != nil {
		return Info{}, err
	}
	if there.SegmentSize != size {
		return Info{}, fmt.Errorf("repository %s has WAL segments of %d bytes, this cluster %d", r.keys.root, there.SegmentSize, size)
	}
	return there, nil
}

// Systems lists the system identifiers that have a repository under a scope.
func Systems(ctx context.Context, bucket storage.Bucket, scope string) ([]postgres.SystemIdentifier, error) {
	root := storage.Key(scope + "/")
	var found []postgres.SystemIdentifier
	for name, err := range names(ctx, bucket, root, root) {
		if err != nil {
			return nil, err
		}
		if id, err := postgres.ParseSystemIdentifier(name); err == nil {
			found = append(found, id)
		}
	}
	return found, nil
}

// names yields the first path element of every key below root that sorts after
// `after`, each once, with one short list for each.
func names(ctx context.Context, bucket storage.Bucket, root, after storage.Key) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for more := true; more; {
			more = false
			for object, err := range bucket.List(ctx, root, after) {
				name, _, below := strings.Cut(strings.TrimPrefix(string(object.Key), string(root)), "/")
				if !yield(name, err) || err != nil {
					return
				}
				more, after = true, object.Key
				if below {
					after = root + storage.Key(name) + "0" // '0' follows '/': past everything under name/
				}
				break
			}
		}
	}
}

// Twice reads again what was damaged: a bit may have turned on the way. What is damaged
// in the store is so both times.
func Twice(read func() error) error {
	err := read()
	if errors.Is(err, codec.ErrCorrupt) {
		err = read()
	}
	return err
}

// readDocument reads a JSON document of at most limit bytes.
func (r *Repository) readDocument(ctx context.Context, key storage.Key, limit int64, v any) error {
	return Twice(func() error {
		data, err := storage.ReadAll(ctx, r.bucket, key, limit)
		if errors.Is(err, storage.ErrSpoiled) {
			return fmt.Errorf("%w: %w", codec.ErrCorrupt, err)
		}
		if err != nil {
			return err
		}
		return decodeDocument(string(key), data, v)
	})
}

// decodeDocument looks at the format first: a newer one may differ in everything else.
func decodeDocument(what string, data []byte, v any) error {
	if err := decodeFormat(what, data, v); err != nil {
		return err
	}
	if err := checkSeal(data); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// decodeFormat refuses what a newer version wrote before it looks for more.
func decodeFormat(what string, data []byte, v any) error {
	var head struct {
		Format int `json:"format"`
	}
	err := json.Unmarshal(data, &head)
	if err == nil {
		if err := checkFormat(what, head.Format); err != nil {
			return err
		}
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, codec.ErrCorrupt, err)
	}
	return nil
}

// createDocument stores a JSON document as create does.
func (r *Repository) createDocument(ctx context.Context, key storage.Key, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	limit := maxDocument
	if path.Base(string(key)) == manifestName {
		limit = maxManifest
	}
	if data = seal(sealable(data)); len(data) > limit {
		return fmt.Errorf("%s has %d bytes, and nobody reads more than %d", key, len(data), limit)
	}
	return r.create(ctx, key, data)
}

// create stores an object once and for all. Where the name is taken, the same bytes
// mean that the answer to our own write was lost; others are storage.ErrExist.
func (r *Repository) create(ctx context.Context, key storage.Key, data []byte) error {
	err := r.bucket.Put(ctx, key, data, storage.PutOptions{IfAbsent: true})
	if !errors.Is(err, storage.ErrExist) {
		return err
	}
	there, readErr := storage.ReadAll(ctx, r.bucket, key, max(int64(len(data)), maxManifest))
	if readErr != nil {
		return fmt.Errorf("compare with the %s that is there: %w", key, readErr)
	}
	if !bytes.Equal(there, data) {
		return err
	}
	return nil
}
