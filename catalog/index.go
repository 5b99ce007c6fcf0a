package catalog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgha-backup/pgha-backup/internal/codec"
)

// FrameSize is the plaintext of every frame of a pack but its last, in bytes.
const FrameSize = 1 << 20

var packPattern = regexp.MustCompile(`^(base|[1-9][0-9]{0,9})-[0-9]{4,6}\.tar$`)

// Index says where every file of a backup lies: one Pack for each stored pack.
// It can be made again from the packs.
type Index struct{ Packs []Pack }

// Pack is the table of contents of one stored tar.
type Pack struct {
	Name string `json:"pack"`
	// Frames are the stored lengths of the frames: frame i holds the tar's bytes from
	// i×FrameSize on.
	Frames  []int   `json:"frames"`
	Entries []Entry `json:"-"`
}

// Entry is one tar member. Path is relative to PGDATA, also inside a tablespace
// (pg_tblspc/<oid>/...). Offset is where its data begins in the tar's plaintext.
type Entry struct {
	Path     string    `json:"p"`
	Kind     EntryKind `json:"k,omitempty"`
	Offset   int64     `json:"o"`
	Size     int64     `json:"n"`
	Mode     uint32    `json:"m"` // permission bits
	Modified time.Time `json:"t"` // whole seconds
	CRC32C   uint32    `json:"c"`
}

// EntryKind is File or Dir.
type EntryKind string

// The kinds of entry. A backup holds no links: tablespace links come from the manifest.
const (
	File EntryKind = ""
	Dir  EntryKind = "d"
)

type indexHeader struct {
	Format int      `json:"format"`
	ID     BackupID `json:"id"`
	Run    RunID    `json:"run"`
	Packs  int      `json:"packs"`
	Frame  int      `json:"frame"`
}

type packHeader struct {
	Pack
	Count int `json:"entries"`
}

// entryLine is an Entry as a line; a name that is not UTF-8 travels as bytes.
type entryLine struct {
	Entry
	Raw []byte `json:"pb,omitempty"`
}

// encodeIndex writes one JSON line for the index, each pack and each entry.
func encodeIndex(w io.Writer, id BackupID, run RunID, index Index) error {
	files := 0
	for _, pack := range index.Packs {
		files += len(pack.Entries)
	}
	if files > MaxEntries {
		return fmt.Errorf("%d files are more than a backup can hold, %d", files, MaxEntries)
	}
	out := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(indexHeader{Format, id, run, len(index.Packs), FrameSize}); err != nil {
		return err
	}
	for _, pack := range index.Packs {
		if err := encoder.Encode(packHeader{pack, len(pack.Entries)}); err != nil {
			return err
		}
		for _, entry := range pack.Entries {
			line := entryLine{Entry: entry}
			if !utf8.ValidString(entry.Path) {
				line.Raw, line.Path = []byte(entry.Path), ""
			}
			if err := encoder.Encode(line); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

// Limits of an index, so that a hostile one cannot take the memory.
const (
	maxIndexLine = 16 << 20
	maxFrames    = 1 << 20 // of a pack: 1 TiB
	maxAllFrames = 1 << 26
	// MaxEntries bounds the files and directories of a backup.
	MaxEntries = 1 << 23
)

// made are the directories of every copy, whatever the index says.
var made = []string{"global/x", "pg_tblspc/x", "pg_wal/archive_status/x"}

// decodeIndex reads an index and refuses one that contradicts the manifest,
// overlaps, or names a path outside PGDATA.
func decodeIndex(r io.Reader, m Manifest) (Index, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxIndexLine)
	n := 0
	next := func(v any) error {
		n++
		if !lines.Scan() {
			if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
				return fmt.Errorf("%w: index line %d is longer than %d bytes", codec.ErrCorrupt, n, maxIndexLine)
			} else if err != nil {
				return fmt.Errorf("index line %d: %w", n, err)
			}
			return fmt.Errorf("%w: index ends at line %d", codec.ErrCorrupt, n)
		}
		if err := json.Unmarshal(lines.Bytes(), v); err != nil {
			return fmt.Errorf("%w: index line %d: %v", codec.ErrCorrupt, n, err)
		}
		return nil
	}
	var header indexHeader
	if err := next(&header); err != nil {
		return Index{}, err
	}
	if err := checkFormat("index of "+string(m.ID), header.Format); err != nil {
		return Index{}, err
	}
	if header.ID != m.ID || header.Run != m.Run || header.Packs != len(m.Packs) || header.Frame != FrameSize {
		return Index{}, fmt.Errorf("%w: index is of backup %s run %s with %d packs", codec.ErrCorrupt, header.ID, header.Run, header.Packs)
	}
	index := Index{}
	seen := map[string]EntryKind{}
	frames := 0
	for i := range header.Packs {
		var head packHeader
		if err := next(&head); err != nil {
			return Index{}, err
		}
		pack, info := head.Pack, m.Packs[i]
		if err := checkFrames(pack, info); err != nil {
			return Index{}, err
		}
		if frames += len(pack.Frames); frames > maxAllFrames || head.Count < 0 || len(seen)+head.Count > MaxEntries {
			return Index{}, fmt.Errorf("%w: index line %d: %d frames and %d entries are too many", codec.ErrCorrupt, n, frames, len(seen)+head.Count)
		}
		end := int64(0)
		for range head.Count {
			var line entryLine
			if err := next(&line); err != nil {
				return Index{}, err
			}
			entry := line.Entry
			if line.Raw != nil {
				entry.Path = string(line.Raw)
			}
			if err := checkEntry(entry, pack.Name, end, info.Plain); err != nil {
				return Index{}, fmt.Errorf("%w: index line %d: %w", codec.ErrCorrupt, n, err)
			}
			if _, twice := seen[entry.Path]; twice {
				return Index{}, fmt.Errorf("%w: index line %d: %q comes twice", codec.ErrCorrupt, n, entry.Path)
			}
			seen[entry.Path] = entry.Kind
			end = entry.Offset + entry.Size
			pack.Entries = append(pack.Entries, entry)
		}
		index.Packs = append(index.Packs, pack)
	}
	if lines.Scan() {
		return Index{}, fmt.Errorf("%w: index goes on after line %d", codec.ErrCorrupt, n)
	}
	for _, pack := range index.Packs {
		for _, entry := range pack.Entries {
			if above := fileAbove(seen, entry.Path); above != "" {
				return Index{}, fmt.Errorf("%w: index: %q is a file and holds %q", codec.ErrCorrupt, above, entry.Path)
			}
		}
	}
	for _, name := range made {
		if above := fileAbove(seen, name); above != "" {
			return Index{}, fmt.Errorf("%w: index: %q is a file", codec.ErrCorrupt, above)
		}
	}
	return index, lines.Err()
}

// fileAbove is the file that stands where a directory above name is needed.
func fileAbove(seen map[string]EntryKind, name string) string {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if kind, there := seen[dir]; there && kind != Dir {
			return dir
		}
	}
	return ""
}

func checkFrames(pack Pack, info PackInfo) error {
	total := int64(0)
	for _, length := range pack.Frames {
		if length <= 0 || length > FrameSize*2 {
			return fmt.Errorf("%w: pack %s has a frame of %d bytes", codec.ErrCorrupt, pack.Name, length)
		}
		total += int64(length)
	}
	want := (info.Plain + FrameSize - 1) / FrameSize
	if pack.Name != info.Name || total != info.Size || int64(len(pack.Frames)) != want || len(pack.Frames) > maxFrames {
		return fmt.Errorf("%w: index of pack %s: %d frames of %d bytes do not fit the manifest's %s of %d bytes",
			codec.ErrCorrupt, pack.Name, len(pack.Frames), total, info.Name, info.Size)
	}
	return nil
}

// tarHeader is what every entry takes in the tar before its data, at least.
const tarHeader = 512

func checkEntry(e Entry, pack string, after, plain int64) error {
	if err := checkPath(e.Path, volumeOf(pack)); err != nil {
		return err
	}
	if e.Kind != File && e.Kind != Dir || e.Kind == Dir && e.Size != 0 {
		return fmt.Errorf("%q: kind %q with %d bytes", e.Path, e.Kind, e.Size)
	}
	if e.Size < 0 || e.Offset < after+tarHeader || e.Offset%tarHeader != 0 || e.Offset > plain-e.Size {
		return fmt.Errorf("%q: %d bytes at %d overlap or lie outside %d", e.Path, e.Size, e.Offset, plain)
	}
	if e.Mode&^0o777 != 0 {
		return fmt.Errorf("%q: mode %o", e.Path, e.Mode)
	}
	return nil
}

// longPart tells of a name in a path that no file system takes.
func longPart(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > 255 {
			return true
		}
	}
	return false
}

// checkPath keeps a name inside PGDATA, and a tablespace's names inside the tablespace.
func checkPath(name, volume string) error {
	if name == "" || len(name) > 4096 || strings.ContainsRune(name, 0) || path.Clean(name) != name ||
		path.IsAbs(name) || name == "." || name == ".." || strings.HasPrefix(name, "../") || longPart(name) {
		return fmt.Errorf("path %q does not stay inside PGDATA", name)
	}
	inside := strings.HasPrefix(name, "pg_tblspc/")
	// In a tablespace PostgreSQL has nothing but directories of its versions: whoever
	// makes somebody's home one must not fill it as he likes.
	if volume == "base" && inside || volume != "base" && !strings.HasPrefix(name, "pg_tblspc/"+volume+"/PG_") {
		return fmt.Errorf("path %q does not belong to volume %s", name, volume)
	}
	return nil
}

// tarName is an entry's name in its tar: as pg_basebackup -Ft writes it.
func tarName(path, volume string) string {
	if volume == "base" {
		return path
	}
	return strings.TrimPrefix(path, "pg_tblspc/"+volume+"/")
}

// PackName names pack n of a volume: 0 is PGDATA, others are tablespace OIDs.
func PackName(tablespace uint32, n int) string {
	volume := "base"
	if tablespace != 0 {
		volume = strconv.FormatUint(uint64(tablespace), 10)
	}
	return fmt.Sprintf("%s-%04d.tar", volume, n)
}

// packIndex compresses an index; it is always zstd, whatever the packs are.
func packIndex(id BackupID, run RunID, index Index) ([]byte, error) {
	var text bytes.Buffer
	if err := encodeIndex(&text, id, run, index); err != nil {
		return nil, fmt.Errorf("encode index: %w", err)
	}
	return compressDocument(indexName, text.Bytes(), maxIndex)
}

// compressDocument refuses what nobody would read again. Each frame is its own window: one
// of a large document would be more than a reader allows.
func compressDocument(name string, plain []byte, limit int64) (stored []byte, err error) {
	encoder, err := codec.NewEncoder(codec.Zstd, codec.Default)
	for at := 0; err == nil && (at == 0 || at < len(plain)); at += documentFrame {
		stored, err = encoder.AppendFrame(stored, plain[at:min(len(plain), at+documentFrame)])
	}
	if err == nil && (int64(len(plain)) > limit || len(stored) > maxStored) {
		err = fmt.Errorf("%s has %d bytes, %d stored, more than a backup can hold, %d and %d: it has too many files", name, len(plain), len(stored), limit, maxStored)
	}
	return stored, err
}

const documentFrame = 4 << 20

var errTooLong = fmt.Errorf("%w: document is longer than allowed", codec.ErrCorrupt)
