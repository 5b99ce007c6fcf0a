package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"golang.org/x/sync/errgroup"
)

// Finding is one thing that is wrong with the repository.
type Finding struct {
	Backup  BackupID `json:"backup,omitempty"`
	Object  string   `json:"object"`
	Problem string   `json:"problem"`
}

// VerifyLevel says how hard to look.
type VerifyLevel string

// The levels. Presence lists; hashes reads every stored byte again.
const (
	Presence VerifyLevel = "presence"
	Hashes   VerifyLevel = "hashes"
)

// verifyWorkers bound the objects that are read at once: each holds a few MiB.
const verifyWorkers = 4

// findings gathers from workers.
type findings struct {
	mu  sync.Mutex
	all []Finding
}

func (f *findings) add(backup BackupID, object, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, Finding{backup, object, fmt.Sprintf(format, args...)})
}

// judge turns damage and absence into findings; anything else is trouble.
func (f *findings) judge(backup BackupID, object string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, codec.ErrCorrupt) || errors.Is(err, storage.ErrNotExist) || errors.Is(err, errTooLong) || errors.Is(err, storage.ErrSpan) {
		f.add(backup, object, "%s", strings.TrimPrefix(err.Error(), object+": "))
		return nil
	}
	return err
}

// VerifyBackup looks for what a restore of this backup would miss: packs, index,
// backup_manifest, and the WAL from start to stop. An error means that it could not
// look; findings are what it saw.
func (r *Repository) VerifyBackup(ctx context.Context, m Manifest, a Archive, level VerifyLevel) ([]Finding, error) {
	var found findings
	err := r.compareRun(ctx, m, m.objectSizes(), &found)
	if err != nil {
		return nil, err
	}
	for _, s := range a.Lacks(m) {
		found.add(m.ID, string(r.keys.wal(postgres.WALFile{Kind: postgres.WALSegment, Segment: s})), "is missing: the backup cannot become consistent without it")
	}
	if _, ok := a.History(m.StopTLI); !ok {
		found.add(m.ID, string(r.keys.wal(postgres.HistoryFile(m.StopTLI))), "is missing: the backup's timeline cannot be followed")
	}
	if level == Hashes && len(found.all) == 0 {
		err = r.readBackup(ctx, m, a, &found)
	}
	return found.all, err
}

func (r *Repository) readBackup(ctx context.Context, m Manifest, a Archive, found *findings) error {
	backup, err := r.Open(ctx, m)
	if err != nil {
		return found.judge(m.ID, string(r.keys.run(m.ID, m.Run, indexName)), err)
	}
	_, err = backup.BackupManifest(ctx)
	if err := found.judge(m.ID, string(r.keys.run(m.ID, m.Run, backupManifestName)), err); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(verifyWorkers)
	for i, pack := range m.Packs {
		group.Go(func() error {
			return found.judge(m.ID, string(r.keys.run(m.ID, m.Run, pack.Name)), Twice(func() error { return backup.readPack(ctx, i) }))
		})
	}
	for _, s := range a.WAL(m) {
		group.Go(func() error { return r.readWAL(ctx, m.ID, s, found) })
	}
	return group.Wait()
}

// readPack reads a pack to its end, where its hash is compared.
func (b *Backup) readPack(ctx context.Context, i int) error {
	pack, err := b.OpenPack(ctx, i)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = pack.Next()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, pack.Close())
}

func (r *Repository) readWAL(ctx context.Context, backup BackupID, s postgres.Segment, found *findings) error {
	file := postgres.WALFile{Kind: postgres.WALSegment, Segment: s}
	err := Twice(func() error {
		_, err := r.GetWAL(ctx, file, io.Discard)
		return err
	})
	return found.judge(backup, string(r.keys.wal(file)), err)
}

// VerifyWAL looks at the whole archive: gaps, missing histories, and with Hashes
// every segment.
func (r *Repository) VerifyWAL(ctx context.Context, a Archive, level VerifyLevel) ([]Finding, error) {
	var found findings
	for _, t := range a.Timelines {
		if t.NoHistory {
			found.add("", string(r.keys.wal(postgres.HistoryFile(t.Timeline))), "is missing")
		}
		for _, gap := range t.Missing {
			first := string(r.keys.wal(postgres.WALFile{Kind: postgres.WALSegment, Segment: gap.First}))
			if gap.Segments == 1 {
				found.add("", first, "is missing")
				continue
			}
			found.add("", first, "is missing, with %d segments after it up to %s", gap.Segments-1, gap.Last)
		}
	}
	if level != Hashes {
		return found.all, nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(verifyWorkers)
	for _, t := range a.Timelines {
		for _, run := range t.Ranges {
			for s, n := run.First, 0; n < run.Segments; s, n = s.Next(a.SegmentSize), n+1 {
				group.Go(func() error { return r.readWAL(ctx, "", s, &found) })
			}
		}
	}
	err := group.Wait()
	return found.all, err
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
	return Finding{u.Backup, u.Object, strings.TrimPrefix(u.Err.Error(), u.Object+": ")}
}

// unreadables gathers them.
type unreadables []Unreadable

// add takes an error about a document, unless it is nil or trouble with the store:
// that is returned.
func (u *unreadables) add(id BackupID, key storage.Key, err error) error {
	if errors.Is(err, codec.ErrCorrupt) || errors.Is(err, errTooLong) || errors.Is(err, ErrFormat) || errors.Is(err, storage.ErrNotExist) {
		*u = append(*u, Unreadable{id, string(key), err})
		return nil
	}
	return err
}
