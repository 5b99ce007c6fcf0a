package catalog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Backup is one committed backup with its index: what a restore reads.
type Backup struct {
	Manifest   Manifest
	Index      Index
	repository *Repository
}

// Limits of documents that are read whole.
const (
	maxManifest = 32 << 20  // 40 TiB in packs of the usual size
	maxDocument = 64 << 10  // any other
	maxStored   = 256 << 20 // of an index or backup_manifest, as stored
	maxIndex    = 768 << 20
)

// Manifest reads one backup's manifest: storage.ErrNotExist if there is none.
func (r *Repository) Manifest(ctx context.Context, id BackupID) (Manifest, error) {
	key := r.keys.backup(id, manifestName)
	var m Manifest
	if err := r.readDocument(ctx, key, maxManifest, &m); err != nil {
		return Manifest{}, err
	}
	err := m.Validate()
	if err == nil && (m.ID != id || m.System != r.at.System) {
		err = fmt.Errorf("names backup %s of system %s", m.ID, m.System)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w: %w", key, codec.ErrCorrupt, err)
	}
	return m, nil
}

// ReadableBackups reads every manifest that has no tombstone, oldest first by stop
// time, never by an object's age. One that is unreadable must not take the others
// away from who only reads; whoever deletes takes the Inventory.
func (r *Repository) ReadableBackups(ctx context.Context) (found []Manifest, broken []Unreadable, err error) {
	var ids []BackupID
	expired := map[BackupID]bool{}
	for object, err := range r.bucket.List(ctx, r.keys.backups(), "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list backups: %w", err)
		}
		name, rest, _ := strings.Cut(strings.TrimPrefix(string(object.Key), string(r.keys.backups())), "/")
		id, err := ParseBackupID(name)
		if err != nil {
			continue
		}
		switch rest {
		case manifestName:
			ids = append(ids, id)
		case expiredName:
			expired[id] = true
		}
	}
	for _, id := range ids {
		if expired[id] {
			continue
		}
		m, err := r.Manifest(ctx, id)
		if err == nil {
			found = append(found, m)
		} else if err := (*unreadables)(&broken).add(id, r.keys.backup(id, manifestName), err); err != nil {
			return nil, nil, err
		}
	}
	slices.SortStableFunc(found, func(a, b Manifest) int { return a.StopTime.Compare(b.StopTime) })
	return found, broken, nil
}

// Open reads a backup's index and checks it against the manifest.
func (r *Repository) Open(ctx context.Context, m Manifest) (*Backup, error) {
	text, err := r.document(ctx, m, indexName, m.Index, maxIndex)
	if err != nil {
		return nil, err
	}
	index, err := decodeIndex(text, m)
	if err != nil {
		return nil, fmt.Errorf("index of backup %s: %w", m.ID, err)
	}
	return &Backup{Manifest: m, Index: index, repository: r}, nil
}

// BackupManifest reads PostgreSQL's own backup_manifest of a backup.
func (b *Backup) BackupManifest(ctx context.Context) ([]byte, error) {
	text, err := b.repository.document(ctx, b.Manifest, backupManifestName, b.Manifest.BackupManifest, b.Index.maxBackupManifest())
	if err != nil {
		return nil, err
	}
	return io.ReadAll(text)
}

// maxBackupManifest bounds PostgreSQL's manifest, which says no more than the index knows.
func (x Index) maxBackupManifest() int64 {
	limit := int64(1 << 20)
	for _, pack := range x.Packs {
		for _, e := range pack.Entries {
			limit += 256 + 6*int64(len(e.Path)) // at the worst every byte is \u00xx
		}
	}
	return limit
}

// document reads a compressed document whose stored bytes match the manifest's
// hash, decoding at most limit bytes of it.
func (r *Repository) document(ctx context.Context, m Manifest, name string, want Document, limit int64) (io.Reader, error) {
	key := r.keys.run(m.ID, m.Run, name)
	if want.Size > maxStored {
		return nil, fmt.Errorf("%s: %w", key, errTooLong)
	}
	var data []byte
	err := Twice(func() (err error) {
		if data, err = storage.ReadAll(ctx, r.bucket, key, want.Size); err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		if got := hexSHA256(data); got != want.SHA256 {
			return fmt.Errorf("%s: %w: sha256 is %s, the manifest says %s", key, codec.ErrCorrupt, got, want.SHA256)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	plain, err := codec.NewReader(codec.Zstd, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return &limited{r: plain, left: limit}, nil
}

// limited fails, rather than ends, when a document is longer than allowed.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLong
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

// Origin is pgha.origin.json, left in a restored PGDATA: which repository it came
// from. archive-push from such a directory into that repository is refused until
// the file is removed (R8).
type Origin struct {
	Format   int                       `json:"format"`
	Scope    string                    `json:"scope"`
	System   postgres.SystemIdentifier `json:"system_identifier"`
	Backup   BackupID                  `json:"backup"`
	Target   string                    `json:"target"`
	Restored time.Time                 `json:"restored"`
}

// ParseOrigin reads an Origin.
func ParseOrigin(what string, text []byte) (o Origin, err error) {
	err = decodeFormat(what, text, &o)
	return o, err
}

// OriginFile is the name of the Origin document in PGDATA.
const OriginFile = "pgha.origin.json"

func volumeOf(pack string) string {
	volume, _, _ := strings.Cut(pack, "-")
	return volume
}
