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
	theirs, err := postgres.ParseBackupManifest(text)
	if err != nil {
		v.add(at, "%v", err)
		return
	}
	if is17 := m.Version.Major() >= 17; is17 != (theirs.Version == 2) || is17 && theirs.System != m.System {
		v.add(at, "it has version %d, of system %s, and the server was %s, of %s", theirs.Version, theirs.System, m.Version, m.System)
	}
	joined, n := len(theirs.Ranges) > 0, len(theirs.Ranges)-1
	for i := range max(0, n) {
		joined = joined && theirs.Ranges[i].End == theirs.Ranges[i+1].Start && theirs.Ranges[i].Timeline < theirs.Ranges[i+1].Timeline
	}
	if !joined || theirs.Ranges[0].Timeline != m.Timeline || theirs.Ranges[0].Start != m.StartLSN || theirs.Ranges[n].Timeline != m.StopTLI || theirs.Ranges[n].End != m.StopLSN {
		v.add(at, "its WAL ranges %v do not lead from %s on timeline %d to %s on %d", theirs.Ranges, m.StartLSN, uint32(m.Timeline), m.StopLSN, uint32(m.StopTLI))
	}
	listed := make(map[string]postgres.ManifestFile, len(theirs.Files))
	for _, f := range theirs.Files {
		listed[f.Path] = f
	}
	for _, pack := range b.Index.Packs {
		for _, e := range pack.Entries {
			f, ok := listed[e.Path]
			at.File = e.Path
			if e.Kind == catalog.File && !ok {
				v.add(at, "the file %q is not in it, but in the index", e.Path)
			} else if ok && (e.Kind != catalog.File || f.Size != e.Size || f.CRC32C != e.CRC32C || f.Modified.Unix() != e.Modified.Unix()) {
				v.add(at, "it has %q with %d bytes, CRC-32C %08x, of %s; the index with %d, %08x, of %s",
					e.Path, f.Size, f.CRC32C, f.Modified, e.Size, e.CRC32C, e.Modified)
			}
			delete(listed, e.Path)
		}
	}
	for path := range listed {
		at.File = path
		v.add(at, "the file %q is in it, but not in the index", path)
	}
}

// totals compares the manifest's sums with the index.
func (v *Verifier) totals(b *catalog.Backup) {
	m, files, size, stored := b.Manifest, 0, int64(0), b.Manifest.Index.Size+b.Manifest.BackupManifest.Size
	for i, pack := range b.Index.Packs {
		stored += m.Packs[i].Size
		for _, e := range pack.Entries {
			size += e.Size
			if e.Kind == catalog.File {
				files++
			}
		}
	}
	if m.Files != files || m.Bytes != size || m.Stored != stored {
		v.add(catalog.Finding{Backup: m.ID, Object: v.Repository.BackupKey(m.ID, "manifest.json")},
			"it counts %d files of %d bytes, %d stored; there are %d of %d, %d stored", m.Files, m.Bytes, m.Stored, files, size, stored)
	}
	if m.Settings.DataChecksumVersion == 0 {
		v.looked(0, func(c *Counts) { c.NoChecksums = append(c.NoChecksums, m.ID) })
	}
}

// inside compares the manifest with what the server itself put into the backup.
func (v *Verifier) inside(c *contents) {
	m, s := c.Manifest, c.Manifest.Settings
	bad := func(path, format string, args ...any) {
		at := catalog.Finding{Backup: m.ID, Object: v.Repository.BackupKey(m.ID, string(m.Run), "index"), File: path}
		for _, pack := range c.Index.Packs {
			if slices.ContainsFunc(pack.Entries, func(e catalog.Entry) bool { return e.Path == path }) {
				at.Object = v.Repository.BackupKey(m.ID, string(m.Run), pack.Name)
			}
		}
		v.add(at, "%s: %s", path, fmt.Sprintf(format, args...))
	}
	compare := func(path, what string, theirs, ours any) {
		if theirs != ours {
			bad(path, "%s %v, the manifest says %v", what, theirs, ours)
		}
	}
	compare(version, "version", string(bytes.TrimSpace(c.kept[version])), fmt.Sprint(m.Version.Major()))
	want := []string{label, mapping, control}
	if len(m.Tablespaces) == 0 {
		want = []string{label, control}
	}
	if got := lastOfBase(c.Index, len(want)); !slices.Equal(got, want) {
		bad(control, "the last pack of PGDATA ends with %q, and must with %q", got, want)
	}
	l, err := postgres.ParseBackupLabel(string(c.kept[label]))
	if err != nil {
		bad(label, "%v", err)
	} else {
		compare(label, "start", l.StartLSN, m.StartLSN)
		compare(label, "timeline", uint32(l.StartTimeline), uint32(m.Timeline))
		compare(label, "checkpoint", l.CheckpointLSN, m.Checkpoint)
		compare(label, "segment", l.StartFile.Segment, postgres.SegmentAt(m.Timeline, m.StartLSN, m.SegmentSize))
		compare(label, "from a standby:", l.From == "standby", m.Role == "replica")
		compare(label, "incremental:", l.IncrementalTimeline != 0, m.Type == catalog.Incremental && m.Version.Major() >= 17)
	}
	spaces, err := postgres.ParseTablespaceMap(string(c.kept[mapping]))
	if err != nil || !slices.Equal(spaces, m.Tablespaces) {
		bad(mapping, "it has %v (%v), the manifest %v", spaces, err, m.Tablespaces)
	}
	d, err := postgres.ParseControlData(c.kept[control])
	if err != nil {
		bad(control, "%v", err)
		return
	}
	compare(control, "system identifier", d.System, m.System)
	compare(control, "catalog version", int(d.CatalogVersion), s.CatalogVersion)
	compare(control, "data checksum version", int(d.ChecksumVersion), s.DataChecksumVersion)
	compare(control, "block size", int(d.BlockSize), s.BlockSize)
	compare(control, "relation segment size", int(d.RelationBlocks), s.RelationSegmentSize)
	compare(control, "WAL segment size", d.SegmentSize, m.SegmentSize)
	if m.Role == "replica" {
		compare(control, "state", d.State, postgres.StateInArchiveRecovery)
		compare(control, "consistent at", d.MinRecovery, m.StopLSN)
		compare(control, "consistent on timeline", uint32(d.MinRecoveryTimeline), uint32(m.StopTLI))
	} else {
		compare(control, "timeline", uint32(d.Timeline), uint32(m.Timeline))
		if d.Redo < m.StartLSN || d.Redo > m.StopLSN {
			bad(control, "its checkpoint %s lies not between start and stop, %s and %s", d.Redo, m.StartLSN, m.StopLSN)
		}
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
