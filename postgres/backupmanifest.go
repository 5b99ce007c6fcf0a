package postgres

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// BackupManifest is PostgreSQL's backup_manifest, by which pg_verifybackup judges a
// backup. System is 0 in version 1, which servers before 17 write.
type BackupManifest struct {
	Version int
	System  SystemIdentifier
	Files   []ManifestFile
	Ranges  []WALRange
}

// ManifestFile is one file of a backup. Path is relative to PGDATA, with slashes;
// files of tablespaces lie under pg_tblspc/<oid>.
type ManifestFile struct {
	Path     string
	Size     int64
	Modified time.Time
	CRC32C   uint32
}

// WALRange is the WAL that one timeline contributes to make a backup consistent.
type WALRange struct {
	Timeline   TimelineID
	Start, End LSN
}

const manifestTime = "2006-01-02 15:04:05 GMT"

// manifestWriter hashes and counts on the way, and keeps the first error.
type manifestWriter struct {
	w    *bufio.Writer
	hash hash.Hash
}

func (m manifestWriter) Write(b []byte) (int, error) {
	m.hash.Write(b)
	return m.w.Write(b)
}

// WriteBackupManifest writes the manifest as the server of that version does, with
// the files in the order given.
func WriteBackupManifest(w io.Writer, version Version, system SystemIdentifier, files iter.Seq[ManifestFile], ranges []WALRange) error {
	m := manifestWriter{bufio.NewWriter(w), sha256.New()}
	if version.Major() >= 17 {
		fmt.Fprintf(m, "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": %s,\n\"Files\": [", system)
	} else {
		io.WriteString(m, "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [")
	}
	sep := "\n"
	for f := range files {
		if err := checkManifestPath(f.Path); err != nil {
			return fmt.Errorf("write backup_manifest: %w", err)
		}
		path, err := json.Marshal(f.Path)
		if err != nil {
			return fmt.Errorf("write backup_manifest: %w", err)
		}
		key := "Path"
		if !utf8.ValidString(f.Path) {
			key, path = "Encoded-Path", fmt.Appendf(nil, "\"%x\"", f.Path)
		}
		_, err = fmt.Fprintf(m, "%s{ %q: %s, \"Size\": %d, \"Last-Modified\": %q, \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"%x\" }",
			sep, key, path, f.Size, f.Modified.UTC().Format(manifestTime), binary.LittleEndian.AppendUint32(nil, f.CRC32C))
		if err != nil {
			return fmt.Errorf("write backup_manifest: %w", err)
		}
		sep = ",\n"
	}
	io.WriteString(m, "\n],\n\"WAL-Ranges\": [")
	sep = "\n"
	for _, r := range ranges {
		fmt.Fprintf(m, "%s{ \"Timeline\": %d, \"Start-LSN\": \"%s\", \"End-LSN\": \"%s\" }", sep, uint32(r.Timeline), r.Start, r.End)
		sep = ",\n"
	}
	io.WriteString(m, "\n],\n")
	fmt.Fprintf(m.w, "\"Manifest-Checksum\": \"%x\"}\n", m.hash.Sum(nil))
	if err := m.w.Flush(); err != nil {
		return fmt.Errorf("write backup_manifest: %w", err)
	}
	return nil
}

// checkManifestPath refuses what could lead out of PGDATA.
func checkManifestPath(p string) error {
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." || strings.Contains(part, "\x00") {
			return fmt.Errorf("path %q: want a clean path below PGDATA", p)
		}
	}
	return nil
}
