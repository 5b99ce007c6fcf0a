package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// ours tells whether an error says what kind of trouble it is.
func ours(err error) bool {
	return err == nil || errors.Is(err, codec.ErrCorrupt) || errors.Is(err, ErrFormat) || errors.Is(err, storage.ErrNotExist)
}

// A manifest that is believed is one that we could have written.
func FuzzManifest(f *testing.F) {
	m, _ := honest()
	text, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		bucket := mem.New()
		r := testRepository(bucket, codec.Zstd)
		if err := bucket.Put(t.Context(), r.keys.backup(testID, manifestName), text, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := r.Manifest(t.Context(), testID)
		if err != nil {
			if !ours(err) {
				t.Error(err)
			}
			return
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var twice Manifest
		if err := decodeDocument("again", again, &twice); err != nil || twice.Validate() != nil {
			t.Errorf("%v, %v", err, twice.Validate())
		}
		for _, p := range got.Packs {
			if err := r.keys.run(got.ID, got.Run, p.Name).Validate(); err != nil {
				t.Error(err)
			}
		}
		a := Archive{SegmentSize: got.SegmentSize}
		if n := len(a.Lacks(got)); n > maxLacks {
			t.Errorf("lacks %d", n)
		}
	})
}

// The documents of a repository, whatever they say, end in words of ours.
func FuzzDocuments(f *testing.F) {
	f.Add(uint8(0), []byte(repositoryText))
	f.Add(uint8(1), []byte(`{"format":1,"at":"2026-11-21T02:00:00Z","reason":"old","by":"n1"}`))
	f.Add(uint8(2), []byte(`{"format":1,"at":"2026-11-21T02:00:00Z","by":"n1","run":"0123abcd"}`))
	f.Add(uint8(3), []byte(`{"format":1,"id":"20261121T020000Z-nightly","run":"0123abcd","member":"n1","timeline":1,"start_lsn":"0/5000028","at":"2026-11-21T02:00:00Z"}`))
	f.Add(uint8(4), []byte(`{"format":1,"backup":"20261121T020000Z-nightly","name":"x","reason":"","by":"n1","at":"2026-11-21T02:00:00Z"}`))
	f.Add(uint8(5), []byte(`{"format":1,"backup":"20261121T020000Z-nightly","reason":"no member","by":"n1","at":"2026-11-21T02:00:00Z"}`))
	f.Add(uint8(6), []byte(`{"format":1,"sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","by":"n1","reason":"","at":"2026-11-21T02:00:00Z"}`))
	f.Add(uint8(7), []byte(`{"format":1,"first":"000000010000000000000005","last":"000000010000000000000005","at":"2026-11-21T02:00:00Z","by":"n1","reason":"x"}`))
	f.Fuzz(func(t *testing.T, kind uint8, text []byte) {
		bucket := mem.New()
		r := testRepository(bucket, codec.Zstd)
		file := segmentFile(t, "000000010000000000000005")
		gap := Range{First: file.Segment, Last: file.Segment, Segments: 1}
		keys := []storage.Key{r.keys.repository(), r.keys.backup(testID, expiredName), r.keys.backup(testID, removalName), r.keys.run(testID, "0123abcd", startedName),
			r.keys.hold(testID, "x"), r.keys.missed(testID), r.keys.resolved(file), r.gapKey(gap, GapLost)}
		put := func(key storage.Key, text []byte) {
			if err := bucket.Put(t.Context(), key, text, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		put(r.keys.repository(), []byte(repositoryText))
		put(keys[int(kind)%len(keys)], text)
		info, err := r.Info(t.Context())
		if !ours(err) || err == nil && info.SegmentSize.Validate() != nil {
			t.Errorf("%+v, %v", info, err)
		}
		all, err := r.Inventory(t.Context())
		for _, b := range all.Backups {
			for _, run := range b.Unfinished() {
				if !runPattern.MatchString(string(run.Run)) {
					t.Errorf("run %q", run.Run)
				}
			}
		}
		_, err2 := r.Missed(t.Context(), testID)
		if d := r.decided(t.Context(), file); !ours(d.err) || d.err == nil && d.said.SHA256 != "" && !isSHA256(d.said.SHA256) {
			t.Errorf("%+v", d)
		}
		_, err3 := r.StatWAL(t.Context(), file)
		s, err4 := r.Survey(t.Context())
		if !ours(err) || !ours(err2) || !ours(err3) || !ours(err4) {
			t.Error(err, err2, err3, err4)
		}
		if _, err := json.Marshal(s); err4 == nil && err != nil {
			t.Error(err)
		}
	})
}

// A stored WAL file is what its header says, or damaged.
func FuzzWALObject(f *testing.F) {
	r := testRepository(mem.New(), codec.Zstd)
	for _, name := range []codec.Name{codec.Zstd, codec.S2} {
		file := postgres.HistoryFile(2)
		text := []byte("1\t0/5000000\tno recovery target specified\n")
		object, err := encodeWAL(nil, r.Describe(file, text, nil), text, Options{Codec: name})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, object)
		file = postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1, Seg: 5}}
		facts := postgres.SegmentFacts{Walked: true, ValidEnd: 9, RestorePoints: []postgres.RestorePoint{{Name: "x"}}}
		if object, err = encodeWAL(nil, r.Describe(file, text, &facts), text, Options{Codec: name}); err != nil {
			f.Fatal(err)
		}
		f.Add(false, object)
	}
	f.Fuzz(func(t *testing.T, history bool, object []byte) {
		r := testRepository(mem.New(), codec.Zstd)
		file := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1, Seg: 5}}
		if history {
			file = postgres.HistoryFile(2)
		}
		if err := r.bucket.Put(t.Context(), r.keys.wal(file), object, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		head, statErr := r.StatWAL(t.Context(), file)
		var plain bytes.Buffer
		got, err := r.GetWAL(t.Context(), file, AtMost(&plain, 1<<20))
		if !ours(err) || !ours(statErr) || plain.Len() > 1<<20 {
			t.Errorf("%v, %v, %d bytes", err, statErr, plain.Len())
		}
		if err == nil && (statErr != nil || got.Size != int64(plain.Len()) || got.SHA256 != hexSHA256(plain.Bytes()) || head.SHA256 != got.SHA256) {
			t.Errorf("%+v of %d bytes, %v", got, plain.Len(), statErr)
		}
		if _, _, err := r.Histories(t.Context()); !ours(err) {
			t.Error(err)
		}
	})
}

// A pack gives what index and manifest say of it, each byte once, or is damaged.
func FuzzPack(f *testing.F) {
	bucket := mem.New()
	r := testRepository(bucket, codec.Zstd)
	m, err := writeBackup(f.Context(), r, []testFile{{"base/5", nil}, {"base/5/1", []byte("one")}, {"PG_VERSION", []byte("15\n")}})
	if err != nil {
		f.Fatal(err)
	}
	b, err := r.Open(f.Context(), m)
	if err != nil {
		f.Fatal(err)
	}
	var text bytes.Buffer
	if err := encodeIndex(&text, m.ID, m.Run, b.Index); err != nil {
		f.Fatal(err)
	}
	stored, err := storage.ReadAll(f.Context(), bucket, r.keys.run(m.ID, m.Run, m.Packs[0].Name), 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes(), stored, m.Packs[0].Plain)
	f.Fuzz(func(t *testing.T, index, stored []byte, plain int64) {
		if plain < 0 || plain > 8<<20 {
			return
		}
		m, bucket := m, mem.New()
		r := testRepository(bucket, codec.Zstd)
		m.Run = "0123abcd"
		index = bytes.ReplaceAll(index, []byte(b.Manifest.Run), []byte(m.Run))
		m.Packs = []PackInfo{{Name: "base-0001.tar", Size: int64(len(stored)), Plain: plain, SHA256: hexSHA256(stored)}}
		decoded, err := decodeIndex(bytes.NewReader(index), m)
		if err != nil {
			if !ours(err) {
				t.Error(err)
			}
			return
		}
		if err := bucket.Put(t.Context(), r.keys.run(m.ID, m.Run, "base-0001.tar"), stored, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		pack, err := (&Backup{Manifest: m, Index: decoded, repository: r}).OpenPack(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer pack.Close()
		seen, read := 0, int64(0)
		for {
			e, err := pack.Next()
			if errors.Is(err, io.EOF) {
				if seen != len(decoded.Packs[0].Entries) {
					t.Errorf("%d of %d", seen, len(decoded.Packs[0].Entries))
				}
				break
			}
			if err != nil {
				if !ours(err) {
					t.Error(err)
				}
				return
			}
			n, err := io.Copy(io.Discard, pack)
			if seen, read = seen+1, read+n; err == nil && n != e.Size || read > plain {
				t.Errorf("%s: %d of %d bytes, %d of %d", e.Path, n, e.Size, read, plain)
			}
		}
	})
}

// A name that is taken for ours is written in one way only, and makes valid keys.
func FuzzNames(f *testing.F) {
	for _, name := range []string{string(testID), "20261121T020000Z-manual-1f0a", "20261332T020000Z-x", "000000010000000000000005-000000010000000000000007.lost", "../x"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		keys := newLayout(Location{Scope: "demo", System: 42})
		if id, err := ParseBackupID(name); err == nil {
			if string(id) != name || keys.backup(id, manifestName).Validate() != nil || id.Time().Format(idTime) != name[:16] {
				t.Errorf("%q", name)
			}
		}
		if ValidateScope(name) == nil && newLayout(Location{Scope: name, System: 42}).repository().Validate() != nil {
			t.Errorf("scope %q", name)
		}
		if ValidateSchedule(name) == nil {
			if id, err := ParseBackupID(string(ScheduledID(testTime, name))); err != nil || id.Schedule() != name {
				t.Errorf("schedule %q: %q, %v", name, id, err)
			}
		}
		bucket := mem.New()
		key := storage.Key("demo/42/gap/00000001/" + name)
		if key.Validate() != nil || bucket.Put(t.Context(), key, []byte("{}"), storage.PutOptions{}) != nil {
			return
		}
		r := testRepository(bucket, codec.Zstd)
		expired, known, err := r.listGaps(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range known {
			if r.gapKey(g.span(), g.state) != key {
				t.Errorf("%q is read as %s", key, r.gapKey(g.span(), g.state))
			}
			expired = append(expired, g.span())
		}
		for _, g := range expired {
			if g.First.Timeline != g.Last.Timeline || g.Last.Name() < g.First.Name() {
				t.Errorf("%q is read as %+v", key, g)
			}
		}
	})
}
