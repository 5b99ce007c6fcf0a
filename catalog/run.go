package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Run is one attempt at a backup, under way.
type Run struct {
	ID         BackupID
	Run        RunID
	repository *Repository
	encoders   codec.Pool // of its packs
}

// Started is the record that a run writes before its first pack, so that nobody
// removes what it stands on (R16).
type Started struct {
	Format   int                 `json:"format"`
	ID       BackupID            `json:"id"`
	Run      RunID               `json:"run"`
	Member   string              `json:"member"`
	Parent   BackupID            `json:"parent,omitempty"`
	Timeline postgres.TimelineID `json:"timeline"`
	StartLSN postgres.LSN        `json:"start_lsn"`
	At       time.Time           `json:"at"`
}

// ErrCommitted: another run of the same backup committed first; this one's packs
// are garbage now.
var ErrCommitted = errors.New("another run of this backup has committed already")

// StartRun writes the started record of a new run.
func (r *Repository) StartRun(ctx context.Context, s Started) (*Run, error) {
	if _, err := ParseBackupID(string(s.ID)); err != nil {
		return nil, err
	}
	s.Format, s.Run = Format, NewRunID()
	u := &Run{ID: s.ID, Run: s.Run, repository: r}
	if err := r.createDocument(ctx, r.keys.run(s.ID, s.Run, startedName), s); err != nil {
		return nil, fmt.Errorf("record the start of backup %s: %w", s.ID, err)
	}
	return u, nil
}

// Commit makes the backup exist. Everything it needs must be stored before: the
// packs are listed and compared once more, then the index and backup_manifest
// are written, then, last and create-once, the manifest.
func (u *Run) Commit(ctx context.Context, m Manifest, index Index, backupManifest []byte) (Manifest, error) {
	r := u.repository
	m.Format, m.ID, m.Run, m.Scope, m.System = Format, u.ID, u.Run, r.at.Scope, r.at.System
	m.Codec = r.options.Codec
	lost, err := r.Lost(ctx, m)
	if err != nil {
		return m, err
	}
	if len(lost) > 0 {
		return m, fmt.Errorf("%s %s: nothing was committed", lost[0].Object, lost[0].Problem)
	}
	indexDocument, err := packIndex(u.ID, u.Run, index)
	if err != nil {
		return m, err
	}
	if m.Index, err = u.putDocument(ctx, indexName, indexDocument); err != nil {
		return m, err
	}
	compressed, err := compressDocument(backupManifestName, backupManifest, index.maxBackupManifest())
	if err != nil {
		return m, err
	}
	if m.BackupManifest, err = u.putDocument(ctx, backupManifestName, compressed); err != nil {
		return m, err
	}
	m.Stored = m.Index.Size + m.BackupManifest.Size
	for _, pack := range m.Packs {
		m.Stored += pack.Size
	}
	if err := m.Validate(); err != nil {
		return m, fmt.Errorf("manifest of %s: %w", m.ID, err)
	}
	err = r.createDocument(ctx, r.keys.backup(u.ID, manifestName), m)
	if errors.Is(err, storage.ErrExist) {
		err = ErrCommitted
	}
	if err != nil {
		return m, fmt.Errorf("commit backup %s, run %s: %w", u.ID, u.Run, err)
	}
	return m, u.confirm(ctx, m)
}

// confirm looks, now that the manifest is there, whether expiry took the run, the
// backup or its parent away before it could see that manifest, and if so withdraws it.
func (u *Run) confirm(ctx context.Context, m Manifest) error {
	r := u.repository
	tombstones := []storage.Key{r.keys.backup(u.ID, expiredName)}
	if m.Parent != "" {
		tombstones = append(tombstones, r.keys.backup(m.Parent, expiredName))
	}
	absent, err := r.lost(ctx, append(tombstones, r.keys.run(u.ID, u.Run, startedName)))
	if err != nil {
		return fmt.Errorf("backup %s is committed, but nobody knows whether expiry took what it stands on: %w", u.ID, err)
	}
	if slices.Equal(absent, tombstones) {
		return nil
	}
	err = fmt.Errorf("commit backup %s, run %s: %w, or what it stands on; nothing was committed", u.ID, u.Run, ErrExpired)
	return errors.Join(err, r.remove(context.WithoutCancel(ctx), r.keys.backup(u.ID, manifestName)))
}

func (u *Run) putDocument(ctx context.Context, name string, data []byte) (Document, error) {
	document := Document{Size: int64(len(data)), SHA256: hexSHA256(data)}
	if err := u.repository.create(ctx, u.repository.keys.run(u.ID, u.Run, name), data); err != nil {
		return document, fmt.Errorf("store %s of backup %s: %w", name, u.ID, err)
	}
	return document, nil
}

// objectSizes are the objects of the run that the manifest vouches for, so far.
func (m Manifest) objectSizes() map[string]int64 {
	sizes := map[string]int64{}
	for _, pack := range m.Packs {
		sizes[pack.Name] = pack.Size
	}
	if m.Index.SHA256 != "" {
		sizes[indexName], sizes[backupManifestName] = m.Index.Size, m.BackupManifest.Size
	}
	return sizes
}

// Lost lists a run's objects and finds those that are missing or have another size than
// the manifest says.
func (r *Repository) Lost(ctx context.Context, m Manifest) (found []Finding, err error) {
	prefix := r.keys.run(m.ID, m.Run, "")
	sizes, want := map[string]int64{}, m.objectSizes()
	for object, err := range r.bucket.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list backup %s: %w", m.ID, err)
		}
		sizes[string(object.Key[len(prefix):])] = object.Size
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		f := Finding{Backup: m.ID, Object: string(prefix) + name, Problem: "is missing"}
		if there, ok := sizes[name]; ok && there != want[name] {
			f.Problem = fmt.Sprintf("has %d bytes, the manifest says %d", there, want[name])
		} else if ok {
			continue
		}
		found = append(found, f)
	}
	return found, nil
}
