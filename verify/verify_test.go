package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/verify"
)

func flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

func cut(b []byte) []byte { return b[:len(b)-1] }

// Each level finds what it promises of a damaged object, and nothing else.
func TestDamage(t *testing.T) {
	const wal = "/00000001000000000000000C"
	for _, c := range []struct {
		name     string
		object   string
		change   func([]byte) []byte
		presence string // a word of the problem; "" where presence cannot see it
		hashes   string
	}{
		{"nothing", "/index", func(b []byte) []byte { return b }, "", ""},
		{"pack removed", "/base-0001.tar", nil, "is missing", "is missing"},
		{"pack cut", "/base-0001.tar", cut, "the manifest says", "the manifest says"},
		{"pack flipped", "/base-0001.tar", flip, "", "corrupt"},
		{"index removed", "/index", nil, "is missing", "is missing"},
		{"index flipped", "/index", flip, "", "sha256 is"},
		{"backup_manifest flipped", "/backup_manifest", flip, "", "sha256 is"},
		{"backup_manifest removed", "/backup_manifest", nil, "is missing", "is missing"},
		{"WAL of the backup removed", wal, nil, "cannot become consistent", "cannot become consistent"},
		{"WAL of the backup flipped", wal, flip, "", "corrupt"},
		{"header of WAL flipped", wal, func(b []byte) []byte { b[20] ^= 1; return b }, "", "corrupt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWriter(t, "C")
			w.write()
			key := w.key(c.object)
			body := w.get(key)
			w.must(w.bucket.Delete(t.Context(), storage.Key(key)))
			if c.change != nil {
				w.put(key, c.change(body))
			}
			a, err := w.Archive(t.Context())
			w.must(err)
			for level, want := range map[verify.Level]string{verify.Presence: c.presence, verify.Hashes: c.hashes, verify.Full: c.hashes} {
				v := &verify.Verifier{Repository: w.Repository, Archive: a, Level: level}
				w.must(v.Backup(t.Context(), w.manifest))
				found, _ := v.Found()
				if want == "" && len(found) > 0 || want != "" && (len(found) != 1 || found[0].Object != key ||
					found[0].Backup != id || !strings.Contains(found[0].Problem, want)) {
					t.Errorf("%s: %+v, want %q of %s", level, found, want, key)
				}
			}
		})
	}
}

// A damaged pack is found with the file and the block that the damage lies in.
func TestDamageIsLocated(t *testing.T) {
	w := newWriter(t, "C")
	w.Repository = catalog.New(w.bucket, w.Location(), catalog.Options{Codec: "none"})
	w.write()
	key := w.key("/base-0001.tar")
	body := w.get(key)
	at := bytes.Index(body, w.page(5))
	body[at+4000] ^= 4
	w.put(key, body)
	found := w.findings(verify.Full)
	if len(found) != 2 || found[0].File != relation || !slices.Equal(found[0].Blocks, []uint32{5}) || found[1].Object != key || !strings.Contains(found[1].Problem, "CRC-32C") {
		t.Errorf("%+v", found)
	}
}

func TestWAL(t *testing.T) {
	w := newWriter(t, "89ABCDE")
	w.write()
	look := func(level verify.Level) (lines []string) {
		for _, f := range w.findings(level) {
			lines = append(lines, f.Object[strings.LastIndexByte(f.Object, '/')+1:]+" "+f.Problem)
		}
		slices.Sort(lines)
		return lines
	}
	for _, level := range []verify.Level{verify.Presence, verify.Hashes, verify.Full} {
		if found := look(level); len(found) > 0 {
			t.Fatal(level, found)
		}
	}
	first := w.key("/000000010000000000000009")
	w.put(first, flip(w.get(first)))
	w.must(w.bucket.Delete(t.Context(), storage.Key(w.key("/00000001000000000000000A"))))
	if found := look(verify.Presence); !slices.Equal(found, []string{"00000001000000000000000A is missing"}) {
		t.Error(found)
	}
	for _, level := range []verify.Level{verify.Hashes, verify.Full} {
		if found := look(level); len(found) != 2 || !strings.HasPrefix(found[0], "000000010000000000000009 ") || !strings.Contains(found[0], "corrupt") {
			t.Error(level, found)
		}
	}
	w.must(w.bucket.Delete(t.Context(), storage.Key(w.key("/00000002.history"))))
	if found := look(verify.Presence); len(found) != 2 || found[1] != "00000002.history is missing" {
		t.Error(found)
	}
}

// A content that was refused is looked at too; the one that counts is what must join.
func TestConflict(t *testing.T) {
	w := newWriter(t, "BC")
	w.write()
	file := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.SegmentAt(1, 0xB00000, size)}
	other := bytes.Clone(w.wal[file.String()])
	clear(other[1<<19:])
	facts, err := postgres.ScanSegment(file, other)
	w.must(err)
	_, err = w.PutWAL(t.Context(), file, other, &facts)
	conflict, ok := errors.AsType[*catalog.ConflictError](err)
	if !ok {
		t.Fatal(err)
	}
	if found := w.findings(verify.Full); len(found) > 0 {
		t.Errorf("undecided, the stored one counts: %+v", found)
	}
	all, err := w.Conflicting(t.Context(), file.String())
	w.must(err)
	_, err = w.Resolve(t.Context(), all[0], catalog.Resolution{SHA256: conflict.Ours.SHA256, By: "me", At: noon})
	w.must(err)
	w.Repository = catalog.New(w.bucket, w.Location(), catalog.Options{})
	found := w.findings(verify.Full)
	if len(found) != 1 || !strings.Contains(found[0].Problem, "before the segment does") {
		t.Errorf("the refused one counts now: %+v", found)
	}
	// The kept content under another's name.
	w.put(strings.Replace(string(conflict.Kept), conflict.Ours.SHA256, strings.Repeat("ab", 32), 1), w.get(string(conflict.Kept)))
	found = slices.DeleteFunc(w.findings(verify.Full), func(f catalog.Finding) bool { return !strings.Contains(f.Object, "/abab") })
	if len(found) != 1 || !strings.Contains(found[0].Problem, "is found with sha256") {
		t.Errorf("%+v", found)
	}
}

// Whoever reads a pack compares it with the index, modes and times included.
func TestTarAgainstIndex(t *testing.T) {
	for name, lie := range map[string]func(*catalog.Entry){
		"mode": func(e *catalog.Entry) { e.Mode = 0o644 },
		"time": func(e *catalog.Entry) { e.Modified = noon.Add(time.Second) },
	} {
		w := newWriter(t, "C")
		w.index = func(index *catalog.Index) { lie(&index.Packs[0].Entries[4]) } // not in backup_manifest's way
		w.write()
		for _, level := range []verify.Level{verify.Hashes, verify.Full} {
			found := slices.DeleteFunc(w.findings(level), func(f catalog.Finding) bool { return strings.HasSuffix(f.Object, "/backup_manifest") })
			if len(found) != 1 || !strings.HasSuffix(found[0].Object, "/base-0001.tar") || !strings.Contains(found[0].Problem, "with mode") {
				t.Errorf("%s, %s: %+v", name, level, found)
			}
		}
	}
}

// What a header says of the valid part is what duplicates are judged by.
func TestValidHash(t *testing.T) {
	w := newWriter(t, "C")
	w.write()
	key := w.key("/00000001000000000000000C")
	body := w.get(key)
	prefix, length, err := codec.HeaderLength(body)
	w.must(err)
	header := map[string]any{}
	w.must(json.Unmarshal(body[prefix:prefix+length], &header))
	delete(header, "seal")
	header["valid_sha256"] = strings.Repeat("ab", 32)
	text, err := json.Marshal(header)
	w.must(err)
	changed, err := codec.AppendHeader(nil, codec.Zstd, text)
	w.must(err)
	w.put(key, append(changed, body[prefix+length:]...))
	if found := w.findings(verify.Hashes); len(found) > 0 {
		t.Errorf("hashes: %+v", found)
	}
	if found := w.findings(verify.Full); len(found) != 1 || found[0].Object != key || !strings.Contains(found[0].Problem, "up to its valid end") {
		t.Errorf("%+v", found)
	}
}

// Every document is read and compared with its key, also those that nobody asks for.
func TestDocuments(t *testing.T) {
	w := newWriter(t, "C")
	w.write()
	ctx := t.Context()
	w.must(w.Hold(ctx, catalog.Hold{Backup: id, Name: "court", Reason: "ticket", By: "me", At: noon}))
	w.must(w.ReportMissed(ctx, catalog.Missed{Backup: "20261120T020000Z-nightly", Reason: "no leader", By: "pg1", At: noon}))
	for _, state := range []catalog.GapState{catalog.GapLost, catalog.GapAccepted} {
		_, err := w.RecordGap(ctx, catalog.GapRecord{First: postgres.SegmentAt(1, 0x100000, size), Last: postgres.SegmentAt(1, 0x300000, size), At: noon}, state)
		w.must(err)
	}
	w.must(w.Expire(ctx, "20261119T020000Z-nightly", catalog.Expired{At: noon, Reason: "old", By: "me"}))
	w.must(w.BeginRemoval(ctx, "20261119T020000Z-nightly", catalog.Removal{At: noon, By: "me", Run: "0123abcd"}))
	v, err := w.look(verify.Full)
	w.must(err)
	if found, n := v.Found(); len(found) > 0 || n.Documents != 9 {
		t.Fatalf("%+v, %+v", n, found)
	}
	for key, swap := range map[string][2]string{
		"/started":                              {string(w.manifest.Run), "00000000"},
		"/court":                                {`"court"`, `"other"`},
		"missed/20261120T020000Z-nightly":       {"20261120T02", "20261120T03"},
		".lost":                                 {"000000010000000000000001", "000000010000000000000002"},
		".accepted":                             {"000000010000000000000003", "000000010000000000000004"},
		"20261119T020000Z-nightly/removal.json": {"0123abcd", "Xx"},
	} {
		key = w.key(key)
		body := w.get(key)
		before, _, _ := bytes.Cut(body, []byte(",\n \"seal\"")) // as an early version left it, or one who lies
		changed := append(bytes.Replace(before, []byte(swap[0]), []byte(swap[1]), 1), "\n}\n"...)
		if !json.Valid(changed) || bytes.HasPrefix(changed, before) {
			t.Fatalf("%s", changed)
		}
		w.put(key, changed)
		found := w.findings(verify.Full)
		if len(found) != 1 || found[0].Object != key || !strings.Contains(found[0].Problem, "something else than its key") {
			t.Errorf("%s: %+v", key, found)
		}
		if found := w.findings(verify.Hashes); len(found) > 0 {
			t.Errorf("%s: hashes: %+v", key, found)
		}
		w.put(key, body)
	}
}

// A store that fails is not a damaged repository, and not a sound one either: for
// every call that may fail.
func TestTroubleIsNoDamage(t *testing.T) {
	w := newWriter(t, "C")
	w.write()
	broken := errors.New("connection reset")
	for n, done := 1, false; !done; n++ {
		b := faulty.New(w.bucket, func(c faulty.Call) faulty.Fault {
			if c.N == n {
				return faulty.Fault{Before: &storage.Error{Op: c.Op, Key: c.Key, Err: broken, Retry: true}}
			}
			return faulty.Fault{}
		})
		v, err := look(t, catalog.New(b, w.Location(), catalog.Options{}), verify.Full)
		if err == nil {
			if found, _ := v.Found(); len(found) > 0 {
				t.Fatalf("call %d: trouble was taken for damage: %v", n, found)
			}
		}
		if done = err == nil; !done && !errors.Is(err, broken) {
			t.Fatalf("call %d: %v", n, err)
		}
		if done && n < 30 {
			t.Fatalf("only %d calls", n)
		}
	}
}

// Who interrupts it is obeyed between two objects.
func TestInterrupted(t *testing.T) {
	w := newWriter(t, "89ABC")
	w.write()
	a, err := w.Archive(t.Context())
	w.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	var read atomic.Int64
	v := &verify.Verifier{Repository: w.Repository, Archive: a, Level: verify.Full, Read: func(int64) { read.Add(1); cancel() }}
	err = v.WAL(ctx)
	if found, _ := v.Found(); !errors.Is(err, context.Canceled) || len(found) > 0 {
		t.Errorf("%d objects read: %v %v", read.Load(), err, found)
	}
}

// The report is bounded, and says that it is.
func TestFindingsAreBounded(t *testing.T) {
	w := newWriter(t, "C")
	w.listed = func(all []postgres.ManifestFile) []postgres.ManifestFile {
		for i := range 1500 {
			all = append(all, postgres.ManifestFile{Path: fmt.Sprintf("no/such/%d", i), Modified: noon})
		}
		return all
	}
	w.write()
	found := w.findings(verify.Full)
	if len(found) != 1001 || found[1000].Problem != "and 500 findings more" {
		t.Errorf("%d, the last %+v", len(found), found[len(found)-1])
	}
}
