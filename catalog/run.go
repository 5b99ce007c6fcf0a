package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Run is one attempt at a backup, under way.
type Run struct {
	ID         BackupID
	Run        RunID
	repository *Repository
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
	data, err := json.MarshalIndent(s, "", " ")
	if err == nil {
		_, err = u.putDocument(ctx, startedName, append(data, '\n'))
	}
	if err != nil {
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
	if err := u.comparePacks(ctx, m); err != nil {
		return m, err
	}
	indexDocument, err := packIndex(u.ID, u.Run, index)
	if err != nil {
		return m, err
	}
	if m.Index, err = u.putDocument(ctx, indexName, indexDocument); err != nil {
		return m, err
	}
	compressed, err := compressDocument(backupManifest)
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
	return m, u.putManifest(ctx, m)
}

// putManifest is the commit. A taken name may be our own lost answer.
func (u *Run) putManifest(ctx context.Context, m Manifest) error {
	r := u.repository
	key := r.keys.backup(u.ID, manifestName)
	err := r.createJSON(ctx, key, m)
	if errors.Is(err, storage.ErrExist) {
		there, readErr := r.Manifest(ctx, u.ID)
		switch {
		case readErr != nil:
			return fmt.Errorf("read the manifest that is there: %w", readErr)
		case there.Run != u.Run:
			return fmt.Errorf("backup %s, run %s: %w (run %s)", u.ID, u.Run, ErrCommitted, there.Run)
		}
		err = nil
	}
	if err != nil {
		return fmt.Errorf("commit backup %s: %w", u.ID, err)
	}
	return nil
}

func (u *Run) putDocument(ctx context.Context, name string, data []byte) (Document, error) {
	document := Document{Size: int64(len(data)), SHA256: hexSHA256(data)}
	key := u.repository.keys.run(u.ID, u.Run, name)
	err := u.repository.bucket.Put(ctx, key, data, storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) { // a lost answer: the run's name is ours alone
		there, readErr := storage.ReadAll(ctx, u.repository.bucket, key, document.Size)
		if readErr == nil && hexSHA256(there) == document.SHA256 {
			err = nil
		}
	}
	if err != nil {
		return document, fmt.Errorf("store %s of backup %s: %w", name, u.ID, err)
	}
	return document, nil
}

// comparePacks lists the run and insists on every pack with its size.
func (u *Run) comparePacks(ctx context.Context, m Manifest) error {
	sizes, err := u.repository.runSizes(ctx, u.ID, u.Run)
	if err != nil {
		return err
	}
	for _, pack := range m.Packs {
		size, ok := sizes[pack.Name]
		if !ok {
			return fmt.Errorf("pack %s of backup %s, run %s is gone from the store: nothing was committed", pack.Name, u.ID, u.Run)
		}
		if size != pack.Size {
			return fmt.Errorf("pack %s of backup %s, run %s has %d bytes in the store, %d were written: nothing was committed",
				pack.Name, u.ID, u.Run, size, pack.Size)
		}
	}
	return nil
}

// runSizes lists a run's objects by name.
func (r *Repository) runSizes(ctx context.Context, id BackupID, run RunID) (map[string]int64, error) {
	prefix := r.keys.run(id, run, "")
	sizes := map[string]int64{}
	for object, err := range r.bucket.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list backup %s: %w", id, err)
		}
		sizes[string(object.Key[len(prefix):])] = object.Size
	}
	return sizes, nil
}

// DecodeManifest reads a manifest and refuses newer formats, contradictions and
// paths that lead outside.
func DecodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return m, fmt.Errorf("manifest is damaged: %w", err)
	}
	if err := checkFormat("manifest", head.Format); err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("manifest is damaged: %w", err)
	}
	return m, m.Validate()
}
