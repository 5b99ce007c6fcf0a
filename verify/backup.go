package verify

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// backupManifest compares PostgreSQL's manifest with the index: every file, none more,
// none less. Directories stand in the index alone.
func (v *Verifier) backupManifest(at catalog.Finding, b *catalog.Backup, text []byte) {
	m := b.Manifest
	bad := func(file, format string, args ...any) {
		f := at
		f.File, f.Problem = file, fmt.Sprintf(format, args...)
		v.add(f)
	}
	theirs, err := postgres.ParseBackupManifest(text)
	if err != nil {
		bad("", "%v", err)
		return
	}
	want := 1
	if m.Version.Major() >= 17 {
		want = 2
	}
	if theirs.Version != want || want == 2 && theirs.System != m.System {
		bad("", "it has version %d and system %s, want %d of a server %s and %s", theirs.Version, theirs.System, want, m.Version, m.System)
	}
	if problem := ranges(theirs.Ranges, m); problem != "" {
		bad("", "%s", problem)
	}
	listed := make(map[string]postgres.ManifestFile, len(theirs.Files))
	for _, f := range theirs.Files {
		listed[f.Path] = f
	}
	for _, pack := range b.Index.Packs {
		for _, e := range pack.Entries {
			if e.Kind != catalog.File {
				continue
			}
			f, ok := listed[e.Path]
			switch {
			case !ok:
				bad(e.Path, "the file %q is not in it, but in the index", e.Path)
			case f.Size != e.Size || f.CRC32C != e.CRC32C || f.Modified.Unix() != e.Modified.Unix():
				bad(e.Path, "it has %q with %d bytes, CRC-32C %08x, of %s; the index with %d, %08x, of %s",
					e.Path, f.Size, f.CRC32C, f.Modified, e.Size, e.CRC32C, e.Modified)
			}
			delete(listed, e.Path)
		}
	}
	for path := range listed {
		bad(path, "the file %q is in it, but not in the index", path)
	}
}

// ranges compares the WAL that PostgreSQL's manifest names with the backup's start and stop.
func ranges(all []postgres.WALRange, m catalog.Manifest) string {
	joined := len(all) > 0
	for i := range all[min(1, len(all)):] {
		joined = joined && all[i].End == all[i+1].Start && all[i].Timeline < all[i+1].Timeline
	}
	if n := len(all) - 1; !joined || all[0].Timeline != m.Timeline || all[0].Start != m.StartLSN || all[n].Timeline != m.StopTLI || all[n].End != m.StopLSN {
		return fmt.Sprintf("its WAL ranges %v do not lead from %s on timeline %d to %s on %d", all, m.StartLSN, uint32(m.Timeline), m.StopLSN, uint32(m.StopTLI))
	}
	return ""
}

// totals compares the manifest's sums with the index.
func (v *Verifier) totals(b *catalog.Backup) {
	m, files, size, stored := b.Manifest, 0, int64(0), b.Manifest.Index.Size+b.Manifest.BackupManifest.Size
	for i, pack := range b.Index.Packs {
		stored += m.Packs[i].Size
		for _, e := range pack.Entries {
			if e.Kind == catalog.File {
				files++
				size += e.Size
			}
		}
	}
	if m.Files != files || m.Bytes != size || m.Stored != stored {
		v.found(m.ID, v.Repository.ManifestKey(m.ID), "it counts %d files of %d bytes, %d stored; there are %d of %d, %d stored", m.Files, m.Bytes, m.Stored, files, size, stored)
	}
	v.count(func(c *Counts) {
		if m.Settings.DataChecksumVersion == 0 {
			c.NoChecksums = append(c.NoChecksums, m.ID)
		}
	})
}

// inside compares the manifest with what the server itself put into the backup.
func (v *Verifier) inside(c *contents) {
	m := c.Manifest
	object := func(path string) string {
		for _, pack := range c.Index.Packs {
			if slices.ContainsFunc(pack.Entries, func(e catalog.Entry) bool { return e.Path == path }) {
				return v.Repository.RunKey(m, pack.Name)
			}
		}
		return v.Repository.RunKey(m, "index")
	}
	bad := func(path, format string, args ...any) {
		v.add(catalog.Finding{Backup: m.ID, Object: object(path), File: path, Problem: path + ": " + fmt.Sprintf(format, args...)})
	}
	if got := string(bytes.TrimSpace(c.kept[version])); got != fmt.Sprint(m.Version.Major()) {
		bad(version, "%q, the manifest says %s", got, m.Version)
	}
	want := []string{label, mapping, control}
	if len(m.Tablespaces) == 0 {
		want = []string{label, control}
	}
	if got := lastOfBase(c.Index, len(want)); !slices.Equal(got, want) {
		bad(control, "the last pack of PGDATA ends with %q, and must with %q", got, want)
	}
	if l, err := postgres.ParseBackupLabel(string(c.kept[label])); err != nil {
		bad(label, "%v", err)
	} else if l.StartLSN != m.StartLSN || l.StartTimeline != m.Timeline || l.CheckpointLSN != m.Checkpoint ||
		l.StartFile.Segment != postgres.SegmentAt(m.Timeline, m.StartLSN, m.SegmentSize) || (l.From == "standby") != (m.Role == "replica") ||
		(l.IncrementalTimeline != 0) != (m.Type == catalog.Incremental && m.Version.Major() >= 17) {
		bad(label, "it starts at %s on timeline %d in %s, checkpoint %s, from a %s; the manifest says %s on %d, %s, a %s",
			l.StartLSN, uint32(l.StartTimeline), l.StartFile, l.CheckpointLSN, l.From, m.StartLSN, uint32(m.Timeline), m.Checkpoint, m.Role)
	}
	if spaces, err := postgres.ParseTablespaceMap(string(c.kept[mapping])); err != nil {
		bad(mapping, "%v", err)
	} else if !slices.Equal(spaces, m.Tablespaces) {
		bad(mapping, "it has %v, the manifest %v", spaces, m.Tablespaces)
	}
	if data, err := postgres.ParseControlData(c.kept[control]); err != nil {
		bad(control, "%v", err)
	} else if problem := differs(data, m); problem != "" {
		bad(control, "%s", problem)
	}
}

// lastOfBase are the paths of the last n entries of the last pack of PGDATA.
func lastOfBase(index catalog.Index, n int) (paths []string) {
	for _, pack := range index.Packs {
		if strings.HasPrefix(pack.Name, "base-") {
			paths = nil
			for _, e := range pack.Entries[max(0, len(pack.Entries)-n):] {
				paths = append(paths, e.Path)
			}
		}
	}
	return paths
}

// differs compares pg_control, as it was copied last, with the manifest.
func differs(c postgres.ControlData, m catalog.Manifest) string {
	s := m.Settings
	for _, f := range []struct {
		what         string
		theirs, ours any
	}{
		{"system identifier", c.System, m.System},
		{"catalog version", int(c.CatalogVersion), s.CatalogVersion},
		{"data checksum version", int(c.ChecksumVersion), s.DataChecksumVersion},
		{"block size", int(c.BlockSize), s.BlockSize},
		{"relation segment size", int(c.RelationBlocks), s.RelationSegmentSize},
		{"WAL segment size", c.SegmentSize, m.SegmentSize},
	} {
		if f.theirs != f.ours {
			return fmt.Sprintf("%s %v, the manifest says %v", f.what, f.theirs, f.ours)
		}
	}
	if m.Role == "replica" {
		if c.State != postgres.StateInArchiveRecovery || c.MinRecovery != m.StopLSN || c.MinRecoveryTimeline != m.StopTLI {
			return fmt.Sprintf("a copy is consistent at %s on timeline %d, %s; the manifest says %s on %d",
				c.MinRecovery, uint32(c.MinRecoveryTimeline), c.State, m.StopLSN, uint32(m.StopTLI))
		}
		return ""
	}
	if c.Timeline != m.Timeline || c.Redo < m.StartLSN || c.Redo > m.StopLSN {
		return fmt.Sprintf("its checkpoint %s is on timeline %d; the backup went from %s to %s on %d", c.Redo, uint32(c.Timeline), m.StartLSN, m.StopLSN, uint32(m.Timeline))
	}
	return ""
}
