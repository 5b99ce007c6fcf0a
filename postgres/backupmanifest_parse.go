package postgres

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// Limits of a manifest that we read: a line is one file or range, with a path of
// PostgreSQL's limit of 1 KiB in any escaping.
const (
	maxManifestLine = 16 << 10
	maxManifest     = 2 << 30
)

// ParseBackupManifest reads a manifest as servers, pg_combinebackup and
// WriteBackupManifest lay it out, one file a line. It refuses other layouts, a wrong
// checksum, unknown fields, paths that lead out of PGDATA, a file named twice, and
// checksums that are not CRC32C.
func ParseBackupManifest(r io.Reader) (BackupManifest, error) {
	p := manifestParser{in: bufio.NewReaderSize(io.LimitReader(r, maxManifest), maxManifestLine), hash: sha256.New()}
	m, err := p.parse()
	if err != nil {
		return BackupManifest{}, fmt.Errorf("read backup_manifest line %d: %w", p.line, err)
	}
	return m, nil
}

type manifestParser struct {
	in   *bufio.Reader
	hash hash.Hash
	line int
}

// next is the next line with its newline.
func (p *manifestParser) next() ([]byte, error) {
	p.line++
	b, err := p.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("the line is longer than %d bytes", maxManifestLine)
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	}
	return b, err
}

// expect takes a line of the form prefix VALUE suffix and gives the value.
func (p *manifestParser) expect(prefix, suffix string) (string, error) {
	b, err := p.next()
	if err != nil {
		return "", err
	}
	p.hash.Write(b)
	v, ok := bytes.CutPrefix(b, []byte(prefix))
	if ok {
		v, ok = bytes.CutSuffix(v, []byte(suffix))
	}
	if !ok {
		return "", fmt.Errorf("%.60q: want %s...%s", b, prefix, bytes.TrimSpace([]byte(suffix)))
	}
	return string(v), nil
}

func (p *manifestParser) parse() (m BackupManifest, err error) {
	version, err := p.expect(`{ "PostgreSQL-Backup-Manifest-Version": `, ",\n")
	if err != nil {
		return m, err
	}
	switch version {
	case "1":
		m.Version = 1
	case "2":
		m.Version = 2
		id, err := p.expect(`"System-Identifier": `, ",\n")
		if err != nil {
			return m, err
		}
		if m.System, err = ParseSystemIdentifier(id); err != nil {
			return m, err
		}
	default:
		return m, fmt.Errorf("manifest version %q: want 1 or 2", version)
	}
	seen := map[string]bool{}
	err = p.list(`"Files": [`, func(b []byte) error {
		f, err := parseManifestFile(b)
		if err == nil && seen[f.Path] {
			err = fmt.Errorf("%q stands there twice", f.Path)
		}
		if err != nil {
			return err
		}
		seen[f.Path] = true
		m.Files = append(m.Files, f)
		return nil
	})
	if err != nil {
		return m, err
	}
	err = p.list(`"WAL-Ranges": [`, func(b []byte) error {
		r, err := parseWALRange(b)
		m.Ranges = append(m.Ranges, r)
		return err
	})
	if err != nil {
		return m, err
	}
	return m, p.checksum()
}

// list reads `name`, its elements one a line, and the closing bracket.
func (p *manifestParser) list(name string, element func([]byte) error) error {
	if _, err := p.expect(name, "\n"); err != nil {
		return err
	}
	for first, comma := true, false; ; first = false {
		b, err := p.next()
		if err != nil {
			return err
		}
		p.hash.Write(b)
		b = b[:len(b)-1]
		switch {
		case string(b) == "],":
			if comma {
				return errors.New("the list ends behind a comma")
			}
			return nil
		case !first && !comma:
			return errors.New("want a comma before the next element")
		}
		b, comma = bytes.CutSuffix(b, []byte(","))
		if err := element(b); err != nil {
			return err
		}
	}
}

func (p *manifestParser) checksum() error {
	want := fmt.Sprintf("\"Manifest-Checksum\": \"%x\"}\n", p.hash.Sum(nil))
	b, err := p.next()
	if err != nil {
		return err
	}
	if string(b) != want {
		return fmt.Errorf("manifest checksum: have %.100q, want %q", b, want)
	}
	if _, err := p.in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("text behind the manifest's end")
	}
	return nil
}

func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text behind the element")
	}
	return nil
}

func parseManifestFile(b []byte) (ManifestFile, error) {
	var raw struct {
		Path      *string `json:"Path"`
		Encoded   *string `json:"Encoded-Path"`
		Size      *int64  `json:"Size"`
		Modified  string  `json:"Last-Modified"`
		Algorithm string  `json:"Checksum-Algorithm"`
		Checksum  string  `json:"Checksum"`
	}
	if err := strictJSON(b, &raw); err != nil {
		return ManifestFile{}, err
	}
	var f ManifestFile
	switch {
	case (raw.Path == nil) == (raw.Encoded == nil):
		return f, errors.New("want either Path or Encoded-Path")
	case raw.Path != nil:
		f.Path = *raw.Path
	default:
		name, err := hex.DecodeString(*raw.Encoded)
		if err != nil {
			return f, fmt.Errorf("encoded path: %w", err)
		}
		f.Path = string(name)
	}
	if err := checkManifestPath(f.Path); err != nil {
		return f, err
	}
	if raw.Size == nil || *raw.Size < 0 {
		return f, fmt.Errorf("%q: want a size", f.Path)
	}
	f.Size = *raw.Size
	var err error
	if f.Modified, err = time.Parse(manifestTime, raw.Modified); err != nil {
		return f, fmt.Errorf("%q: %w", f.Path, err)
	}
	f.Modified = f.Modified.UTC()
	sum, err := hex.DecodeString(raw.Checksum)
	if raw.Algorithm != "CRC32C" || err != nil || len(sum) != 4 {
		return f, fmt.Errorf("%q: checksum %q %q: want CRC32C and 8 digits", f.Path, raw.Algorithm, raw.Checksum)
	}
	f.CRC32C = binary.LittleEndian.Uint32(sum)
	return f, nil
}

func parseWALRange(b []byte) (WALRange, error) {
	var raw struct {
		Timeline uint32 `json:"Timeline"`
		Start    LSN    `json:"Start-LSN"`
		End      LSN    `json:"End-LSN"`
	}
	if err := strictJSON(b, &raw); err != nil {
		return WALRange{}, err
	}
	if raw.Timeline == 0 || raw.Start >= raw.End {
		return WALRange{}, fmt.Errorf("WAL range %s to %s of timeline %d is empty", raw.Start, raw.End, raw.Timeline)
	}
	return WALRange{Timeline: TimelineID(raw.Timeline), Start: raw.Start, End: raw.End}, nil
}
