// Package verify looks for damage in a repository: what the store did to it, and what
// we did. It changes nothing.
package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Level says how hard to look.
type Level string

// The levels. Presence lists; Hashes reads every stored byte again; Full derives again
// whatever one object says of another.
const (
	Presence Level = "presence"
	Hashes   Level = "hashes"
	Full     Level = "full"
)

// Counts are what was looked at.
type Counts struct {
	Files     int64 `json:"files"` // in packs
	Pages     int64 `json:"pages"` // with their checksum
	WAL       int64 `json:"wal_objects"`
	Documents int64 `json:"documents"`
	// NoChecksums are backups of clusters without data checksums.
	NoChecksums []catalog.BackupID `json:"without_page_checksums,omitempty"`
}

// Verifier looks at one repository and gathers what it finds. An error of its methods
// means that it could not look.
type Verifier struct {
	Repository *catalog.Repository
	Archive    catalog.Archive
	Level      Level
	// WholeArchive tells that WAL will be looked at too: with Full, that of a backup is
	// not read twice.
	WholeArchive bool
	// Read is told the stored bytes of each object that was read.
	Read func(int64)

	mu       sync.Mutex
	findings []catalog.Finding
	more     int
	counts   Counts
}

const (
	// workers bound the objects that are read at once: each holds a few MiB.
	workers = 4
	// maxFindings bounds the report: what is wrong everywhere need not be listed whole.
	maxFindings = 1000
)

// Found is what was found, by its object, and what was looked at.
func (v *Verifier) Found() ([]catalog.Finding, Counts) {
	slices.SortStableFunc(v.findings, func(a, b catalog.Finding) int { return strings.Compare(a.Object, b.Object) })
	if v.more > 0 {
		return append(v.findings, catalog.Finding{Problem: fmt.Sprintf("and %d findings more", v.more)}), v.counts
	}
	return v.findings, v.counts
}

func (v *Verifier) add(f catalog.Finding, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.findings) == maxFindings {
		v.more++
		return
	}
	f.Problem = fmt.Sprintf(format, args...)
	v.findings = append(v.findings, f)
}

// judge turns damage and absence into findings; anything else is trouble.
func (v *Verifier) judge(f catalog.Finding, err error) error {
	if err == nil || !catalog.IsDamage(err) {
		return err
	}
	v.add(f, "%s", strings.TrimPrefix(err.Error(), f.Object+": "))
	return nil
}

// looked counts what was looked at, and the stored bytes that were read for it.
func (v *Verifier) looked(stored int64, count func(*Counts)) {
	if v.Read != nil && stored > 0 {
		v.Read(stored)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	count(&v.counts)
}

// Backup looks for what a restore of this backup would miss: packs, index,
// backup_manifest, and the WAL from start to stop.
func (v *Verifier) Backup(ctx context.Context, m catalog.Manifest) error {
	lost, err := v.Repository.Lost(ctx, m)
	if err != nil {
		return err
	}
	gone := map[string]bool{}
	for _, f := range lost {
		gone[f.Object] = true
		v.add(f, "%s", f.Problem)
	}
	for _, s := range v.Archive.Lacks(m) {
		v.add(v.wal(m.ID, s), "is missing: the backup cannot become consistent without it")
	}
	if _, ok := v.Archive.History(m.StopTLI); !ok {
		v.add(catalog.Finding{Backup: m.ID, Object: v.Repository.WALKey(postgres.HistoryFile(m.StopTLI))}, "is missing: the backup's timeline cannot be followed")
	}
	if v.Level == Presence {
		return nil
	}
	if err := v.read(ctx, m, gone); err != nil || v.Level == Full && v.WholeArchive {
		return err
	}
	w := newWalk(v, m.ID)
	for _, s := range v.Archive.WAL(m) {
		if err := w.add(ctx, catalog.WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: s}}); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// read reads what the run has stored, but for what is known to be gone.
func (v *Verifier) read(ctx context.Context, m catalog.Manifest, gone map[string]bool) error {
	object := func(name string) catalog.Finding {
		return catalog.Finding{Backup: m.ID, Object: v.Repository.BackupKey(m.ID, string(m.Run), name)}
	}
	at := object("index")
	if gone[at.Object] {
		return nil
	}
	backup, err := v.Repository.Open(ctx, m)
	if err != nil {
		return v.judge(at, err)
	}
	if at = object("backup_manifest"); !gone[at.Object] {
		text, err := backup.BackupManifest(ctx)
		if err == nil && v.Level == Full {
			v.backupManifest(at, backup, text)
		}
		if err := v.judge(at, err); err != nil {
			return err
		}
	}
	contents := newContents(backup)
	contents.broken = len(gone) > 0
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i, pack := range m.Packs {
		if at := object(pack.Name); !gone[at.Object] {
			group.Go(func() error { return v.pack(within, contents, i, at) })
		}
	}
	if err := group.Wait(); err != nil || v.Level != Full {
		return err
	}
	v.totals(backup)
	if !contents.broken {
		v.inside(contents)
	}
	return nil
}

// WAL looks at the whole archive: gaps, missing histories, and above Presence at every
// object with a WAL file in it.
func (v *Verifier) WAL(ctx context.Context) error {
	var arrived []catalog.Range // what was on its way, and has come
	if v.Archive.Arriving() > 0 {
		now, err := v.Repository.Archive(ctx)
		if err != nil {
			return err
		}
		arrived = catalog.Subtract(v.Archive.Missing(), now.Missing(), v.Archive.SegmentSize)
	}
	for _, t := range v.Archive.Timelines {
		if t.NoHistory {
			v.add(catalog.Finding{Object: v.Repository.WALKey(postgres.HistoryFile(t.Timeline))}, "is missing")
		}
		for _, gap := range catalog.Subtract(t.Missing, arrived, v.Archive.SegmentSize) {
			if gap.Segments == 1 {
				v.add(v.wal("", gap.First), "is missing")
				continue
			}
			v.add(v.wal("", gap.First), "is missing, with %d segments after it up to %s", gap.Segments-1, gap.Last)
		}
	}
	if v.Level == Presence {
		return nil
	}
	w := newWalk(v, "")
	for entry, err := range v.Repository.WALObjects(ctx) {
		if err == nil {
			err = w.add(ctx, entry)
		}
		if err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// Documents looks at every document of the repository, or of one backup.
func (v *Verifier) Documents(ctx context.Context, id catalog.BackupID) error {
	n, broken, err := v.Repository.Documents(ctx, id)
	v.looked(0, func(c *Counts) { c.Documents += int64(n) })
	for _, u := range broken {
		f := u.Finding()
		v.add(f, "%s", f.Problem)
	}
	return err
}

func (v *Verifier) wal(backup catalog.BackupID, s postgres.Segment) catalog.Finding {
	return catalog.Finding{Backup: backup, Object: v.Repository.WALKey(postgres.WALFile{Kind: postgres.WALSegment, Segment: s})}
}
