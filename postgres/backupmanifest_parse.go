package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// ParseBackupManifest reads a manifest as servers, pg_combinebackup and
// WriteBackupManifest make it. It refuses a wrong checksum, unknown fields, paths
// that lead out of PGDATA, a file named twice, and checksums that are not CRC32C.
func ParseBackupManifest(text []byte) (BackupManifest, error) {
	m, err := parseBackupManifest(text)
	if err != nil {
		return BackupManifest{}, fmt.Errorf("read backup_manifest: %w", err)
	}
	return m, nil
}

func parseBackupManifest(text []byte) (m BackupManifest, err error) {
	// The manifest's own checksum is its last line and covers all before that.
	end := bytes.LastIndexByte(bytes.TrimSuffix(text, []byte("\n")), '\n') + 1
	want := fmt.Sprintf("\"Manifest-Checksum\": \"%x\"}\n", sha256.Sum256(text[:end]))
	if string(text[end:]) != want {
		return m, fmt.Errorf("manifest checksum: have %.100q, want %q", text[end:], want)
	}
	var raw struct {
		Version  int            `json:"PostgreSQL-Backup-Manifest-Version"`
		System   json.Number    `json:"System-Identifier"`
		Files    []ManifestFile `json:"Files"`
		Ranges   []WALRange     `json:"WAL-Ranges"`
		Checksum string         `json:"Manifest-Checksum"`
	}
	if err := strictJSON(text, &raw); err != nil {
		return m, err
	}
	m = BackupManifest{Version: raw.Version, Files: raw.Files, Ranges: raw.Ranges}
	switch {
	case m.Version == 2:
		if m.System, err = ParseSystemIdentifier(raw.System.String()); err != nil {
			return m, err
		}
	case m.Version != 1 || raw.System != "":
		return m, fmt.Errorf("manifest version %d: want 1, or 2 with a system identifier", m.Version)
	}
	if raw.Files == nil || raw.Ranges == nil {
		return m, errors.New("no list of files or WAL ranges")
	}
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if seen[f.Path] {
			return m, fmt.Errorf("%q stands there twice", f.Path)
		}
		seen[f.Path] = true
	}
	return m, nil
}

// strictJSON decodes one value and refuses fields that it does not know.
func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text behind the end")
	}
	return nil
}

// UnmarshalJSON reads one element of "Files".
func (f *ManifestFile) UnmarshalJSON(b []byte) error {
	var raw struct {
		Path      *string `json:"Path"`
		Encoded   *string `json:"Encoded-Path"`
		Size      *int64  `json:"Size"`
		Modified  string  `json:"Last-Modified"`
		Algorithm string  `json:"Checksum-Algorithm"`
		Checksum  string  `json:"Checksum"`
	}
	if err := strictJSON(b, &raw); err != nil {
		return err
	}
	switch {
	case (raw.Path == nil) == (raw.Encoded == nil):
		return errors.New("want either Path or Encoded-Path")
	case raw.Path != nil:
		f.Path = *raw.Path
	default:
		name, err := hex.DecodeString(*raw.Encoded)
		if err != nil {
			return fmt.Errorf("encoded path: %w", err)
		}
		f.Path = string(name)
	}
	if err := checkManifestPath(f.Path); err != nil {
		return err
	}
	if raw.Size == nil || *raw.Size < 0 {
		return fmt.Errorf("%q: want a size", f.Path)
	}
	modified, err := time.Parse(manifestTime, raw.Modified)
	if err != nil {
		return fmt.Errorf("%q: %w", f.Path, err)
	}
	sum, err := hex.DecodeString(raw.Checksum)
	if raw.Algorithm != "CRC32C" || err != nil || len(sum) != 4 {
		return fmt.Errorf("%q: checksum %q %q: want CRC32C and 8 digits", f.Path, raw.Algorithm, raw.Checksum)
	}
	f.Size, f.Modified, f.CRC32C = *raw.Size, modified.UTC(), binary.LittleEndian.Uint32(sum)
	return nil
}

// UnmarshalJSON reads one element of "WAL-Ranges".
func (r *WALRange) UnmarshalJSON(b []byte) error {
	var raw struct {
		Timeline uint32 `json:"Timeline"`
		Start    LSN    `json:"Start-LSN"`
		End      LSN    `json:"End-LSN"`
	}
	if err := strictJSON(b, &raw); err != nil {
		return err
	}
	if raw.Timeline == 0 || raw.Start >= raw.End {
		return fmt.Errorf("WAL range %s to %s of timeline %d is empty", raw.Start, raw.End, raw.Timeline)
	}
	*r = WALRange{Timeline: TimelineID(raw.Timeline), Start: raw.Start, End: raw.End}
	return nil
}
