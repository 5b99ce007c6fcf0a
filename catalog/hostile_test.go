package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// hostile is a repository in which an enemy has put objects.
func hostile(t *testing.T, objects map[string]string) *Repository {
	t.Helper()
	bucket := mem.New()
	for key, text := range objects {
		if err := bucket.Put(t.Context(), storage.Key("demo/42/"+key), []byte(text), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return testRepository(bucket, codec.Zstd)
}

const repositoryText = `{"format":1,"scope":"demo","system_identifier":"42","wal_segment_size":16777216}`

// Every document, in a format of the future, deep, long or not of its place: whoever
// reads it says so, and takes it for nothing else.
func TestHostileDocuments(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	gap := "gap/00000001/000000010000000000000005-000000010000000000000005.lost"
	readers := map[string]struct {
		key, wrong string
		read       func(r *Repository) error
	}{
		"repository": {"repository.json", `{"format":1,"system_identifier":"43"}`, func(r *Repository) error { _, err := r.Info(t.Context()); return err }},
		"segment size": {"repository.json", `{"format":1,"system_identifier":"42","wal_segment_size":3}`,
			func(r *Repository) error { _, err := r.Info(t.Context()); return err }},
		"manifest": {"backup/" + string(testID) + "/manifest.json", `{"format":1,"id":"20261121T020000Z-other"}`,
			func(r *Repository) error { _, err := r.Manifest(t.Context(), testID); return err }},
		"tombstone": {"backup/" + string(testID) + "/expired.json", `{"format":1,"at":[]}`,
			func(r *Repository) error { _, err := r.Inventory(t.Context()); return err }},
		"removal": {"backup/" + string(testID) + "/removal.json", `{"format":1,"run":"../.."}`,
			func(r *Repository) error { _, err := r.Inventory(t.Context()); return err }},
		"started": {"backup/" + string(testID) + "/0123abcd/started", `{"format":1,"id":"20261121T020000Z-nightly","run":"11111111"}`,
			func(r *Repository) error { _, err := r.Inventory(t.Context()); return err }},
		"hold": {"hold/" + string(testID) + "/x", `{"format":1,"backup":"20261121T020000Z-nightly","name":"y"}`,
			func(r *Repository) error { _, err := r.Holds(t.Context()); return err }},
		"missed": {"report/missed/" + string(testID), `{"format":1,"backup":"x"}`,
			func(r *Repository) error { _, err := r.Missed(t.Context(), testID); return err }},
		"resolution": {"conflict/" + file.String() + "/resolved", `{"format":1,"sha256":"../../x"}`,
			func(r *Repository) error { return r.decided(t.Context(), file).err }},
		"resolution in a list": {"conflict/" + file.String() + "/resolved", `{"format":1,"sha256":""}`,
			func(r *Repository) error { _, err := r.StatWAL(t.Context(), file); return err }},
		"gap": {gap, `{"format":1,"at":5}`, func(r *Repository) error {
			expired, known, err := r.listGaps(t.Context())
			if err != nil || len(expired) != 0 || len(known) != 1 {
				return fmt.Errorf("%v %v %w", expired, known, err)
			}
			a := Archive{SegmentSize: 16 << 20, Timelines: []TimelineWAL{{Timeline: 1, Missing: []Range{{First: file.Segment, Last: file.Segment, Segments: 1}}}}, known: known}
			broken, err := r.readGaps(t.Context(), &a)
			if err == nil && len(broken) == 1 {
				err = broken[0].Err
			}
			return err
		}},
	}
	for name, c := range readers {
		for what, lie := range map[string]struct {
			text string
			want error
		}{
			"of the future": {`{"format":2,"at":7}`, ErrFormat}, "of no format": {`{}`, codec.ErrCorrupt}, "of another": {c.wrong, codec.ErrCorrupt},
			"deep": {`{"format":1,"x":` + strings.Repeat("[", 100_000), codec.ErrCorrupt}, "long": {strings.Repeat(" ", maxManifest+1), codec.ErrCorrupt},
			"of large numbers": {`{"format":1e300}`, codec.ErrCorrupt}, "of no number": {`{"format":NaN}`, codec.ErrCorrupt}, "cut": {`{"format":1`, codec.ErrCorrupt},
		} {
			err := c.read(hostile(t, map[string]string{c.key: lie.text}))
			if !errors.Is(err, lie.want) || storage.IsRetryable(err) {
				t.Errorf("%s %s: %v, want %v", name, what, err, lie.want)
			}
		}
	}
	if hint := ErrFormat.(interface{ Hint() string }).Hint(); hint != "upgrade pgha-backup on this host" {
		t.Error(hint)
	}
}

func TestHostileSizes(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(*Manifest, *Index)
		text func(string) string
		want string
	}{
		"millions of entries":      {nil, func(s string) string { return strings.Replace(s, `"entries":2`, `"entries":8388609`, 1) }, "8388609 entries are too many"},
		"fewer than none":          {nil, func(s string) string { return strings.Replace(s, `"entries":2`, `"entries":-2`, 1) }, "-2 entries are too many"},
		"a line of 16 MiB":         {nil, func(s string) string { return s + strings.Repeat(" ", maxIndexLine) }, ""},
		"no room for a tar header": {func(_ *Manifest, i *Index) { i.Packs[0].Entries[0].Offset = 0 }, nil, "overlap"},
		"a file with files in it": {func(_ *Manifest, i *Index) { i.Packs[0].Entries[0].Kind = File }, nil,
			`"base" is a file and holds "base/1"`},
		"pg_wal as a file":            {func(_ *Manifest, i *Index) { i.Packs[0].Entries[1].Path = "pg_wal" }, nil, `"pg_wal" is a file`},
		"a tablespace of other files": {func(_ *Manifest, i *Index) { i.Packs[1].Entries[0].Path = "pg_tblspc/16400/authorized_keys" }, nil, "does not belong to volume 16400"},
		"a name that is too long":     {func(_ *Manifest, i *Index) { i.Packs[0].Entries[1].Path = "base/" + strings.Repeat("x", 256) }, nil, "does not stay inside"},
	} {
		m, index := honest()
		if c.lie != nil {
			c.lie(&m, &index)
		}
		var text bytes.Buffer
		if err := encodeIndex(&text, m.ID, m.Run, index); err != nil {
			t.Fatal(err)
		}
		line := text.String()
		if c.text != nil {
			line = c.text(line)
		}
		if _, err := decodeIndex(strings.NewReader(line), m); !errors.Is(err, codec.ErrCorrupt) && name != "a line of 16 MiB" || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := encodeIndex(io.Discard, testID, "0123abcd", Index{Packs: []Pack{{Entries: make([]Entry, MaxEntries+1)}}}); err == nil {
		t.Error("an index is written that nobody reads")
	}
	for name, lie := range map[string]func(*Manifest){
		"16 TiB of WAL":     func(m *Manifest) { m.StopLSN = 1 << 60 },
		"a pack of 2^62":    func(m *Manifest) { m.Packs[0].Plain = 1 << 62 },
		"settings below 0":  func(m *Manifest) { m.Settings.MaxWALSenders = -1 },
		"settings too high": func(m *Manifest) { m.Settings.MaxConnections = 1 << 31 },
	} {
		m, _ := honest()
		if lie(&m); m.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// endless is a body of one frame again and again.
func endless(t *testing.T, times int) []byte {
	t.Helper()
	encoder, err := codec.NewEncoder(codec.Zstd, codec.Fastest)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := encoder.AppendFrame(nil, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(frame, times)
}

func TestHostileWAL(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	history := postgres.HistoryFile(2)
	skip := append([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x01"), make([]byte, 1<<24)...)
	many := `{"walked":true,"restore_points":[` + strings.Repeat("{},", 4000) + "{}]}"
	for name, c := range map[string]struct {
		file   postgres.WALFile
		header string
		body   []byte
		want   error
	}{
		"more than it says":    {file, `{"format":1,"name":"%s","system_identifier":"42","size":1048576}`, endless(t, 4096), codec.ErrCorrupt},
		"less than it says":    {file, `{"format":1,"name":"%s","system_identifier":"42","size":1048576}`, nil, codec.ErrCorrupt},
		"a gigabyte more":      {file, `{"format":1,"name":"%s","system_identifier":"42","size":1073741825}`, nil, codec.ErrCorrupt},
		"fewer than no bytes":  {file, `{"format":1,"name":"%s","system_identifier":"42","size":-1}`, nil, codec.ErrCorrupt},
		"frames of nothing":    {file, `{"format":1,"name":"%s","system_identifier":"42","size":5}`, bytes.Repeat(skip, 4), codec.ErrCorrupt},
		"of the future":        {file, `{"format":2,"name":5}`, nil, ErrFormat},
		"another name":         {file, `{"format":1,"name":"%s.x","system_identifier":"42","size":5}`, nil, codec.ErrCorrupt},
		"another system":       {file, `{"format":1,"name":"%s","system_identifier":"43","size":5}`, nil, codec.ErrCorrupt},
		"a header of names":    {file, `{"format":1,"name":"%s","system_identifier":"42","size":5,"facts":` + many + `}`, nil, codec.ErrCorrupt},
		"a deep header":        {file, `{"format":1,"x":` + strings.Repeat("[", 20_000), nil, codec.ErrCorrupt},
		"a header of 2 MiB":    {file, `{"format":1,"x":"` + strings.Repeat("x", 2<<20) + `"}`, nil, codec.ErrCorrupt},
		"more WAL than bytes":  {file, `{"format":1,"name":"%s","system_identifier":"42","size":5,"facts":{"valid_end":6}}`, nil, codec.ErrCorrupt},
		"a history of 2 MiB":   {history, `{"format":1,"name":"%s","system_identifier":"42","size":2097152}`, endless(t, 2), codec.ErrCorrupt},
		"a history of no hash": {history, `{"format":1,"name":"%s","system_identifier":"42","size":1048576}`, endless(t, 1), codec.ErrCorrupt},
	} {
		for _, format := range []codec.Name{codec.Zstd, codec.S2} {
			object, err := codec.AppendHeader(nil, format, []byte(strings.Replace(c.header, "%s", c.file.String(), 1)))
			if err != nil {
				t.Fatal(err)
			}
			r := hostile(t, nil)
			if err := r.bucket.Put(t.Context(), r.keys.wal(c.file), append(object, c.body...), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			written := counter(0)
			if _, err := r.GetWAL(t.Context(), c.file, &written); !errors.Is(err, c.want) || written > 2<<20 {
				t.Errorf("%s, %s: %v after %d bytes, want %v", name, format, err, written, c.want)
			}
		}
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// A segment with more names than a header takes is stored, and read, as one that nobody
// could follow.
func TestTooManyNames(t *testing.T) {
	file := segmentFile(t, "000000010000000000000005")
	body, facts := segment(5000, 'a', 0)
	for i := range 10_000 {
		facts.RestorePoints = append(facts.RestorePoints, postgres.RestorePoint{Name: fmt.Sprint("point ", i)})
	}
	r := hostile(t, nil)
	if _, err := r.PutWAL(t.Context(), file, body, facts); err != nil {
		t.Fatal(err)
	}
	got, err := r.GetWAL(t.Context(), file, io.Discard)
	if err != nil || got.Facts == nil || got.Facts.Walked || got.Facts.ValidEnd != 5000 || len(got.Facts.RestorePoints) != 0 {
		t.Errorf("%+v, %v", got.Facts, err)
	}
	if outcome, err := r.PutWAL(t.Context(), file, body, facts); err != nil || outcome != Already {
		t.Errorf("%s, %v", outcome, err)
	}
}

func TestAtMost(t *testing.T) {
	var b bytes.Buffer
	w := AtMost(&b, 5)
	_, first := w.Write([]byte("1234"))
	_, second := w.Write([]byte("56"))
	if first != nil || !errors.Is(second, codec.ErrCorrupt) || b.String() != "1234" {
		t.Errorf("%v, %v, %q", first, second, b.String())
	}
}

// Names that are none of ours are neither read nor told.
func TestHostileNames(t *testing.T) {
	objects := map[string]string{"repository.json": repositoryText}
	for _, name := range []string{"../../etc/passwd", "x", "00000000.history", "000000010000000000000005x", "hint: obey"} {
		objects["conflict/"+strings.ReplaceAll(name, "../", "..x/")+"/resolved"] = "{}"
		objects["wal/"+strings.ReplaceAll(name, "../", "..x/")] = "x"
		objects["backup/"+strings.ReplaceAll(name, "../", "..x/")+"/manifest.json"] = "x"
		objects["gap/00000001/"+strings.ReplaceAll(name, "../", "..x/")] = "x"
	}
	objects["conflict/000000010000000000000005/not-a-hash"] = "x"
	objects["wal/00000001/00000000/0000000100000000FFFFFFFF"] = "x" // another segment's number
	objects["gap/00000001/000000010000000000000009-000000010000000000000005.lost"] = "x"
	objects["gap/00000001/000000010000000000000000-00000001FFFFFFFFFFFFFFFF.lost"] = "x"
	r := hostile(t, objects)
	names, broken, err := r.Conflicts(t.Context())
	if err != nil || len(names) != 0 || len(broken) != 0 {
		t.Errorf("conflicts: %q %v %v", names, broken, err)
	}
	all, err := r.Inventory(t.Context())
	if err != nil || len(all.Backups) != 0 {
		t.Errorf("backups: %+v %v", all, err)
	}
	a, err := r.Archive(t.Context())
	if err != nil || len(a.Missing()) != 0 || len(a.known) != 1 {
		t.Errorf("archive: %+v %v", a, err)
	}
	if a.Has(postgres.Segment{Timeline: 1, Log: 0xFFFFFF, Seg: 255}) {
		t.Error("a segment is found under another one's name")
	}
	if err := r.RecordExpired(t.Context(), a, func(postgres.Segment) bool { return true }, testTime); err != nil {
		t.Error(err)
	}
}

// What is found of an archive does not depend on how it is looked for: the archive of
// thousands of timelines and holes, and a backup over all of it, are judged at all.
func TestWideArchive(t *testing.T) {
	const size = postgres.SegmentSize(16 << 20)
	histories := map[postgres.TimelineID]postgres.TimelineHistory{}
	h := postgres.TimelineHistory{Timeline: 20_001}
	for i := range 10_000 {
		h.Entries = append(h.Entries, postgres.HistoryEntry{Parent: postgres.TimelineID(2*i + 1), Switch: postgres.LSN(i+1) * postgres.LSN(size) * 3})
	}
	histories[h.Timeline] = h
	own, first := TimelineWAL{Timeline: h.Timeline}, TimelineWAL{Timeline: 1}
	first.add(WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1}}}, size)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	at, here := postgres.SegmentAt(h.Timeline, h.Entries[9_999].Switch, size), map[postgres.Segment]bool{}
	for range 100_000 {
		for range 1 + random.IntN(2) {
			at = at.Next(size)
		}
		here[at] = true
		own.add(WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: at}}, size)
	}
	a := newArchive(size, []TimelineWAL{first, own}, histories)
	for s := postgres.SegmentAt(h.Timeline, h.Entries[9_999].Switch, size); s.Number(size) <= at.Number(size)+1; s = s.Next(size) {
		if a.Has(s) != here[s] {
			t.Fatalf("seed %d: %s: %v", seed, s, a.Has(s))
		}
	}
	if a.Has(at.On(2)) || !a.Has(postgres.Segment{Timeline: 1}) || a.Has(postgres.Segment{Timeline: 3}) {
		t.Error("timelines are mixed up")
	}
	if n := len(a.Gaps()); n < 10_000 {
		t.Errorf("%d gaps", n)
	}
	m, _ := honest()
	m.SegmentSize, m.Timeline, m.StartLSN, m.StopTLI, m.StopLSN = size, 1, 1, h.Timeline, at.End(size)
	if lacks := a.Lacks(m); len(lacks) != maxLacks {
		t.Errorf("lacks %d", len(lacks))
	}
	if a.WAL(m) != nil {
		t.Error("a backup with holes is whole")
	}
}

// All histories together are bounded; those that are too many are told as unreadable.
func TestTooManyForks(t *testing.T) {
	r := hostile(t, map[string]string{"repository.json": repositoryText})
	var text bytes.Buffer
	for i := range 9_999 {
		fmt.Fprintf(&text, "%d\t0/0\n", i+1)
	}
	for i := range maxAllForks/9_999 + 3 {
		file := postgres.HistoryFile(postgres.TimelineID(20_000 + i))
		if _, err := r.PutWAL(t.Context(), file, text.Bytes(), nil); err != nil {
			t.Fatal(err)
		}
	}
	found, broken, err := r.Histories(t.Context())
	if err != nil || len(found) != maxAllForks/9_999 || len(broken) != 3 {
		t.Errorf("%d found, %d broken, %v", len(found), len(broken), err)
	}
}

func TestHostileBackupManifest(t *testing.T) {
	r := hostile(t, nil)
	if _, err := writeBackup(t.Context(), r, testFiles(3)); err != nil {
		t.Fatal(err)
	}
	m, err := r.Manifest(t.Context(), testID)
	if err != nil {
		t.Fatal(err)
	}
	bomb := endless(t, 64)
	m.BackupManifest = Document{Size: int64(len(bomb)), SHA256: hexSHA256(bomb)}
	if err := r.bucket.Put(t.Context(), r.keys.run(m.ID, m.Run, backupManifestName), bomb, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err := r.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := b.BackupManifest(t.Context()); !errors.Is(err, errTooLong) || !errors.Is(err, codec.ErrCorrupt) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	m.Index = Document{Size: maxStored + 1}
	if _, err := r.Open(t.Context(), m); !errors.Is(err, errTooLong) {
		t.Error(err)
	}
}
