// Package verify looks for damage in a repository: what the store did to it, and what
// we did. It changes nothing.
package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	// Read is told the stored bytes of each object that was read; it may be nil.
	Read func(int64)

	buffers  sync.Pool
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

// Findings are all that was found, by their object.
func (v *Verifier) Findings() []catalog.Finding {
	slices.SortStableFunc(v.findings, func(a, b catalog.Finding) int { return strings.Compare(a.Object, b.Object) })
	if v.more > 0 {
		return append(v.findings, catalog.Finding{Problem: fmt.Sprintf("and %d findings more", v.more)})
	}
	return v.findings
}

// Counts are what was looked at.
func (v *Verifier) Counts() Counts { return v.counts }

func (v *Verifier) add(f catalog.Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.findings) == maxFindings {
		v.more++
		return
	}
	v.findings = append(v.findings, f)
}

func (v *Verifier) found(backup catalog.BackupID, object, format string, args ...any) {
	v.add(catalog.Finding{Backup: backup, Object: object, Problem: fmt.Sprintf(format, args...)})
}

// judge turns damage and absence into findings; anything else is trouble.
func (v *Verifier) judge(f catalog.Finding, err error) error {
	if err == nil || !catalog.IsDamage(err) {
		return err
	}
	f.Problem = strings.TrimPrefix(err.Error(), f.Object+": ")
	v.add(f)
	return nil
}

func (v *Verifier) count(change func(*Counts)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.counts)
}

// done tells that an object was read.
func (v *Verifier) done(stored int64) {
	if v.Read != nil {
		v.Read(stored)
	}
}

// Backup looks for what a restore of this backup would miss: packs, index,
// backup_manifest, and the WAL from start to stop.
func (v *Verifier) Backup(ctx context.Context, m catalog.Manifest) error {
	lost, err := v.Repository.Lost(ctx, m)
	if err != nil {
		return err
	}
	for _, f := range lost {
		v.add(f)
	}
	lacks := v.Archive.Lacks(m)
	for _, s := range lacks {
		v.found(m.ID, v.segmentKey(s), "is missing: the backup cannot become consistent without it")
	}
	_, followed := v.Archive.History(m.StopTLI)
	if !followed {
		v.found(m.ID, v.Repository.WALKey(postgres.HistoryFile(m.StopTLI)), "is missing: the backup's timeline cannot be followed")
	}
	if v.Level == Presence || v.Level == Hashes && (len(lost) > 0 || len(lacks) > 0 || !followed) {
		return nil
	}
	missing := map[string]bool{}
	for _, f := range lost {
		missing[f.Object] = true
	}
	if err := v.read(ctx, m, missing); err != nil {
		return err
	}
	if v.Level == Full && v.WholeArchive {
		return nil
	}
	w := newWalk(v, m.ID)
	for _, s := range v.Archive.WAL(m) {
		if err := w.add(ctx, catalog.WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: s}}); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// read reads what the run has stored; what is known to be missing is passed over.
func (v *Verifier) read(ctx context.Context, m catalog.Manifest, missing map[string]bool) error {
	look := func(name string) (catalog.Finding, bool) {
		f := catalog.Finding{Backup: m.ID, Object: v.Repository.RunKey(m, name)}
		return f, !missing[f.Object]
	}
	at, ok := look("index")
	if !ok {
		return nil
	}
	backup, err := v.Repository.Open(ctx, m)
	if err != nil {
		return v.judge(at, err)
	}
	v.done(m.Index.Size)
	contents := newContents(backup)
	if at, ok := look("backup_manifest"); ok {
		text, err := backup.BackupManifest(ctx)
		if err == nil && v.Level == Full {
			v.backupManifest(at, backup, text)
		}
		if err := v.judge(at, err); err != nil {
			return err
		}
		v.done(m.BackupManifest.Size)
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i, pack := range m.Packs {
		if at, ok := look(pack.Name); ok {
			group.Go(func() error { return v.pack(within, contents, i, at) })
		}
	}
	if err := group.Wait(); err != nil || v.Level != Full {
		return err
	}
	v.totals(backup)
	if len(missing) == 0 && !contents.broken {
		v.inside(contents)
	}
	return nil
}

// WAL looks at the whole archive: gaps, missing histories, and above Presence at every
// object with a WAL file in it.
func (v *Verifier) WAL(ctx context.Context) error {
	for _, t := range v.Archive.Timelines {
		if t.NoHistory {
			v.found("", v.Repository.WALKey(postgres.HistoryFile(t.Timeline)), "is missing")
		}
		for _, gap := range t.Missing {
			if gap.Segments == 1 {
				v.found("", v.segmentKey(gap.First), "is missing")
				continue
			}
			v.found("", v.segmentKey(gap.First), "is missing, with %d segments after it up to %s", gap.Segments-1, gap.Last)
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
	v.count(func(c *Counts) { c.Documents += int64(n) })
	for _, u := range broken {
		v.add(u.Finding())
	}
	return err
}

func (v *Verifier) segmentKey(s postgres.Segment) string {
	return v.Repository.WALKey(postgres.WALFile{Kind: postgres.WALSegment, Segment: s})
}

// buffer is memory that was used before.
func (v *Verifier) buffer() *bytes.Buffer {
	if b, _ := v.buffers.Get().(*bytes.Buffer); b != nil {
		b.Reset()
		return b
	}
	return &bytes.Buffer{}
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
