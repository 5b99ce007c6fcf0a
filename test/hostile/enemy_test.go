package hostile_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
)

// enemy can do what whoever may write into the bucket can.
type enemy struct {
	*testing.T
	dir      string // of the cluster: its repository.json
	backup   string // of the backup, and of its run
	run      string
	manifest map[string]any
	index    []string // lines
}

func openEnemy(t *testing.T, repository string) *enemy {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(repository, "golden", "*", "backup", "*", "manifest.json"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	e := &enemy{T: t, backup: filepath.Dir(found[0])}
	e.dir = filepath.Dir(filepath.Dir(e.backup))
	e.manifest = object(t, e.read(found[0]))
	e.run = filepath.Join(e.backup, e.manifest["run"].(string))
	e.index = strings.SplitAfter(string(e.unpack(e.read(filepath.Join(e.run, "index")))), "\n")
	e.index = e.index[:len(e.index)-1]
	return e
}

func (e *enemy) read(path string) []byte {
	e.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		e.Fatal(err)
	}
	return data
}

// write replaces an object.
func (e *enemy) write(path string, data []byte) {
	e.Helper()
	_ = os.Remove(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		e.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		e.Fatal(err)
	}
}

// writeJSON replaces a document.
func (e *enemy) writeJSON(path string, v any) {
	e.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		e.Fatal(err)
	}
	e.write(path, data)
}

// change rewrites a document.
func (e *enemy) change(path, key string, value any) {
	e.Helper()
	v := object(e.T, e.read(path))
	v[key] = value
	e.writeJSON(path, v)
}

func (e *enemy) unpack(stored []byte) []byte {
	e.Helper()
	r, err := codec.NewReader(codec.Zstd, bytes.NewReader(stored))
	if err != nil {
		e.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		e.Fatal(err)
	}
	return plain
}

func (e *enemy) frame(plain []byte) []byte {
	e.Helper()
	encoder, err := codec.NewEncoder(codec.Zstd, codec.Fastest)
	if err != nil {
		e.Fatal(err)
	}
	frame, err := encoder.AppendFrame(nil, plain)
	if err != nil {
		e.Fatal(err)
	}
	return frame
}

// bomb is n MiB of one byte, in little.
func (e *enemy) bomb(n int, b byte) []byte {
	e.Helper()
	return bytes.Repeat(e.frame(bytes.Repeat([]byte{b}, 1<<20)), n)
}

// file is what the enemy puts into a pack: what the tar says, and what the index does.
type file struct {
	name string // in the tar
	path string // in the index; "" is name
	kind byte   // of the tar; 0 is a file
	link string
	body string
	line map[string]any // replaces fields of the index
}

// pack adds a pack with files in it.
func (e *enemy) pack(name string, files ...file) {
	e.Helper()
	var plain bytes.Buffer
	out := tar.NewWriter(&plain)
	lines := []string{}
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: 0o600, Size: int64(len(f.body)), Format: tar.FormatPAX,
			ModTime: time.Date(2026, 11, 21, 6, 8, 22, 0, time.UTC)}
		line := map[string]any{"p": f.path, "n": len(f.body), "m": 0o600, "t": "2026-11-21T06:08:22Z", "c": crc32.Checksum([]byte(f.body), crc32.MakeTable(crc32.Castagnoli))}
		if f.path == "" {
			line["p"] = f.name
		}
		if f.kind == tar.TypeDir {
			h.Name, line["k"] = h.Name+"/", "d"
		}
		if err := out.WriteHeader(h); err != nil {
			e.Fatal(err)
		}
		line["o"] = plain.Len()
		for key, value := range f.line {
			line[key] = value
		}
		_, _ = io.WriteString(out, f.body)
		_ = out.Flush()
		text, _ := json.Marshal(line)
		lines = append(lines, string(text)+"\n")
	}
	_ = out.Close()
	e.addPack(name, plain.Bytes(), [][]byte{e.frame(plain.Bytes())}, int64(plain.Len()), lines)
}

// addPack adds a pack of such frames, and its lines to the index and the manifest.
func (e *enemy) addPack(name string, _ []byte, frames [][]byte, plain int64, lines []string) {
	e.Helper()
	var stored []byte
	lengths := []int{}
	for _, f := range frames {
		stored, lengths = append(stored, f...), append(lengths, len(f))
	}
	e.write(filepath.Join(e.run, name), stored)
	head, _ := json.Marshal(map[string]any{"pack": name, "frames": lengths, "entries": len(lines)})
	e.index = append(append(e.index, string(head)+"\n"), lines...)
	e.manifest["packs"] = append(e.manifest["packs"].([]any), map[string]any{"name": name, "size": len(stored), "plain": plain, "sha256": sum(stored)})
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// document stores the index or backup_manifest, as stored, and has the manifest vouch for it.
func (e *enemy) document(name string, stored []byte) {
	e.Helper()
	e.write(filepath.Join(e.run, name), stored)
	e.manifest[name] = map[string]any{"size": len(stored), "sha256": sum(stored)}
}

// sign corrects the index's count and every hash.
func (e *enemy) sign() {
	e.Helper()
	head := object(e.T, []byte(e.index[0]))
	head["packs"] = len(e.manifest["packs"].([]any))
	first, _ := json.Marshal(head)
	e.index[0] = string(first) + "\n"
	e.document("index", e.frame([]byte(strings.Join(e.index, ""))))
	e.commit()
}

// commit stores the manifest.
func (e *enemy) commit() {
	e.Helper()
	e.writeJSON(filepath.Join(e.backup, "manifest.json"), e.manifest)
}

// wal is the path of a WAL file's object.
func (e *enemy) wal(name string) string {
	if strings.HasSuffix(name, ".history") {
		return filepath.Join(e.dir, "wal", name)
	}
	return filepath.Join(e.dir, "wal", name[:8], name[8:16], name)
}

// header rewrites the header of a WAL file's object, and its data unless that is nil.
func (e *enemy) header(name string, change func(map[string]any), data []byte) {
	e.Helper()
	stored := e.read(e.wal(name))
	prefix, payload, err := codec.HeaderLength(stored[:codec.HeaderPrefix])
	if err != nil {
		e.Fatal(err)
	}
	head := object(e.T, stored[prefix:prefix+payload])
	change(head)
	text, _ := json.Marshal(head)
	out, err := codec.AppendHeader(nil, codec.Zstd, text)
	if err != nil {
		e.Fatal(err)
	}
	if data == nil {
		data = stored[prefix+payload:]
	}
	e.write(e.wal(name), append(out, data...))
}

// node puts a special file in an object's place.
func (e *enemy) node(path string, make func(path string) error) {
	e.Helper()
	_ = os.Remove(path)
	if err := make(path); err != nil {
		e.Fatal(err)
	}
}

func deep(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i+1)
	}
	return b.String()
}
