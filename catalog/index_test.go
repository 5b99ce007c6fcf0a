package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// honest is a manifest and its index: two packs, of PGDATA and of a tablespace.
func honest() (Manifest, Index) {
	packs := []Pack{
		{Name: "base-0001.tar", Frames: []int{1000, 10}, Entries: []Entry{
			{Path: "base", Kind: Dir, Offset: 512, Mode: 0o700, Modified: testTime},
			{Path: "base/1", Offset: 1024, Size: FrameSize, Mode: 0o600, Modified: testTime}}},
		{Name: "16400-0001.tar", Frames: []int{77}, Entries: []Entry{
			{Path: "pg_tblspc/16400/PG_15_1/5/1", Offset: 512, Size: 100, Mode: 0o600, Modified: testTime}}},
	}
	sha := strings.Repeat("0", 64)
	m := testManifest(PackInfo{Name: "base-0001.tar", Size: 1010, Plain: FrameSize + 2048, SHA256: sha},
		PackInfo{Name: "16400-0001.tar", Size: 77, Plain: 2048, SHA256: sha})
	m.Format, m.ID, m.Run, m.System, m.Codec = Format, testID, "0123abcd", 42, codec.Zstd
	m.Tablespaces = []postgres.Tablespace{{OID: 16400, Path: "/space"}}
	m.Index.SHA256, m.BackupManifest.SHA256 = sha, sha
	return m, Index{Packs: packs}
}

func TestIndexRoundTrip(t *testing.T) {
	m, index := honest()
	index.Packs[0].Entries[1].Path = "base/\xff"
	var text bytes.Buffer
	if err := encodeIndex(&text, m.ID, m.Run, index); err != nil {
		t.Fatal(err)
	}
	got, err := decodeIndex(bytes.NewReader(text.Bytes()), m)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := asJSON(t, got), asJSON(t, index); a != b || got.Packs[0].Entries[1].Path != "base/\xff" {
		t.Errorf("index came back as\n%s\nwant\n%s", a, b)
	}
}

// What is larger than anybody reads is not committed: the backup would be there, and lost.
func TestCommitRefusesWhatNobodyReads(t *testing.T) {
	run, err := testRepository(mem.New(), codec.Zstd).StartRun(t.Context(), Started{ID: testID, Timeline: 1, StartLSN: 100, At: testTime})
	if err != nil {
		t.Fatal(err)
	}
	pack, err := run.NewPack(t.Context(), PackName(0, 1))
	if err != nil {
		t.Fatal(err)
	}
	index, info, err := pack.Close()
	if err != nil {
		t.Fatal(err)
	}
	_, err = run.Commit(t.Context(), testManifest(info), Index{Packs: []Pack{index}}, bytes.Repeat([]byte{' '}, 1<<20+1))
	if err == nil || !strings.Contains(err.Error(), "backup_manifest has") {
		t.Errorf("got %v", err)
	}
}

// Nor is a document: whoever deletes would stop at it for ever. A large cluster's manifest is read.
func TestDocumentsThatNobodyReads(t *testing.T) {
	r, m := stocked(t, mem.New())
	if err := r.Hold(t.Context(), Hold{Backup: m.ID, Name: "x", Reason: strings.Repeat("x", maxDocument)}); err == nil {
		t.Error("a hold that nobody reads is written")
	}
	if _, err := r.Holds(t.Context()); err != nil {
		t.Error(err)
	}
	for len(m.Packs) < 100_000 { // 24 TiB
		p := m.Packs[0]
		p.Name = PackName(0, len(m.Packs)+1)
		m.Packs = append(m.Packs, p)
	}
	m.ID = "20261122T020000Z-nightly"
	if err := r.createDocument(t.Context(), r.keys.backup(m.ID, manifestName), m); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Manifest(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
}

func asJSON(t *testing.T, index Index) string {
	t.Helper()
	var all []any
	for _, p := range index.Packs {
		all = append(all, p, p.Entries)
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHostileIndexIsRefused(t *testing.T) {
	entry := func(i *Index) *Entry { return &i.Packs[0].Entries[1] }
	for name, lie := range map[string]func(*Manifest, *Index){
		"traversal":          func(_ *Manifest, i *Index) { entry(i).Path = "../../etc/passwd" },
		"hidden traversal":   func(_ *Manifest, i *Index) { entry(i).Path = "base/../../x" },
		"absolute":           func(_ *Manifest, i *Index) { entry(i).Path = "/etc/passwd" },
		"PGDATA itself":      func(_ *Manifest, i *Index) { entry(i).Path = "." },
		"empty path":         func(_ *Manifest, i *Index) { entry(i).Path = "" },
		"null byte":          func(_ *Manifest, i *Index) { entry(i).Path = "a\x00b" },
		"through a link":     func(_ *Manifest, i *Index) { entry(i).Path = "pg_tblspc/16400/x" },
		"out of its volume":  func(_ *Manifest, i *Index) { i.Packs[1].Entries[0].Path = "base/1" },
		"another tablespace": func(_ *Manifest, i *Index) { i.Packs[1].Entries[0].Path = "pg_tblspc/16401/x" },
		"twice":              func(_ *Manifest, i *Index) { entry(i).Path = "base" },
		"twice in two packs": func(_ *Manifest, i *Index) {
			i.Packs[1].Entries = append(i.Packs[1].Entries, i.Packs[1].Entries[0])
			i.Packs[1].Entries[1].Offset = 1024
		},
		"overlap":              func(_ *Manifest, i *Index) { entry(i).Offset = 0 },
		"beyond the pack":      func(_ *Manifest, i *Index) { entry(i).Size = FrameSize + 2048 },
		"size near overflow":   func(_ *Manifest, i *Index) { entry(i).Size = 1<<63 - 1 },
		"negative size":        func(_ *Manifest, i *Index) { entry(i).Size = -1 },
		"offset off the grid":  func(_ *Manifest, i *Index) { entry(i).Offset = 1025 },
		"a link":               func(_ *Manifest, i *Index) { entry(i).Kind = "l" },
		"directory with bytes": func(_ *Manifest, i *Index) { entry(i).Kind = Dir },
		"setuid":               func(_ *Manifest, i *Index) { entry(i).Mode = 0o4755 },
		"frame too few":        func(_ *Manifest, i *Index) { i.Packs[0].Frames = []int{1010} },
		"frame of no bytes":    func(_ *Manifest, i *Index) { i.Packs[0].Frames = []int{1010, 0} },
		"frames of other size": func(_ *Manifest, i *Index) { i.Packs[0].Frames = []int{1000, 11} },
		"huge frame":           func(m *Manifest, i *Index) { i.Packs[0].Frames[0] = 1 << 30; m.Packs[0].Size = 1<<30 + 10 },
		"another pack":         func(_ *Manifest, i *Index) { i.Packs[0].Name = "base-0002.tar" },
		"a pack less":          func(_ *Manifest, i *Index) { i.Packs = i.Packs[:1] },
	} {
		m, index := honest()
		lie(&m, &index)
		var text bytes.Buffer
		if err := encodeIndex(&text, m.ID, m.Run, index); err != nil {
			t.Fatal(err)
		}
		if _, err := decodeIndex(&text, m); !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCutIndexIsRefused(t *testing.T) {
	m, index := honest()
	var text bytes.Buffer
	if err := encodeIndex(&text, m.ID, m.Run, index); err != nil {
		t.Fatal(err)
	}
	whole := text.String()
	for at := range len(whole) - 1 {
		if _, err := decodeIndex(strings.NewReader(whole[:at]), m); err == nil {
			t.Fatalf("an index cut at %d of %d is accepted", at, len(whole))
		}
	}
	if _, err := decodeIndex(strings.NewReader(whole+"{}\n"), m); err == nil {
		t.Error("an index with a line more is accepted")
	}
}

func FuzzDecodeIndex(f *testing.F) {
	m, index := honest()
	var text bytes.Buffer
	if err := encodeIndex(&text, m.ID, m.Run, index); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeIndex(bytes.NewReader(data), m)
		if err != nil {
			return
		}
		for _, pack := range got.Packs {
			for _, e := range pack.Entries {
				if err := checkPath(e.Path, volumeOf(pack.Name)); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestHostileManifestIsRefused(t *testing.T) {
	good, _ := honest()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*Manifest){
		"newer format":          func(m *Manifest) { m.Format = Format + 1 },
		"no format":             func(m *Manifest) { m.Format = 0 },
		"run that is a path":    func(m *Manifest) { m.Run = "../../x/y" },
		"ID that is a path":     func(m *Manifest) { m.ID = "20261121T020000Z-../x" },
		"pack that is a path":   func(m *Manifest) { m.Packs[0].Name = "base-0001.tar/../x" },
		"pack of no tablespace": func(m *Manifest) { m.Tablespaces = nil },
		"pack twice":            func(m *Manifest) { m.Packs[1] = m.Packs[0] },
		"no packs":              func(m *Manifest) { m.Packs = nil },
		"negative size":         func(m *Manifest) { m.Packs[0].Plain = -1 },
		"relative tablespace":   func(m *Manifest) { m.Tablespaces[0].Path = "../x" },
		"stop before start":     func(m *Manifest) { m.StopLSN = m.StartLSN - 1 },
		"unknown codec":         func(m *Manifest) { m.Codec = "lz4" },
		"incremental of none":   func(m *Manifest) { m.Type = Incremental },
		"no hash":               func(m *Manifest) { m.Index.SHA256 = "" },
	} {
		m, _ := honest()
		lie(&m)
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		bucket := mem.New()
		r := New(bucket, Location{Scope: "demo", System: good.System}, Options{})
		if err := bucket.Put(t.Context(), r.keys.backup(good.ID, manifestName), data, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		want := codec.ErrCorrupt
		if m.Format > Format {
			want = ErrFormat
		}
		if _, err := r.Manifest(t.Context(), good.ID); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// The documents of a backup of a hundred thousand files and more are read again.
func TestLargeDocument(t *testing.T) {
	var plain []byte
	for i := 0; len(plain) < 40<<20; i++ {
		plain = fmt.Appendf(plain, "{\"p\":\"base/%d/%d\",\"c\":%d}\n", i/300, i, i*7919)
	}
	stored, err := compressDocument(indexName, plain, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	bucket := mem.New()
	r := testRepository(bucket, codec.Zstd)
	m := Manifest{ID: testID, Run: "0123abcd"}
	if err := bucket.Put(t.Context(), r.keys.run(m.ID, m.Run, indexName), stored, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := r.document(t.Context(), m, indexName, Document{Size: int64(len(stored)), SHA256: hexSHA256(stored)}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(text); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d of %d bytes: %v", len(got), len(plain), err)
	}
}
