package verify_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/verify"
)

// page is page n of the relation of which only the main fork's content is there.
func (w *writer) page(n int) []byte {
	return (*w.content(relation))[n*postgres.PageSize:][:postgres.PageSize]
}

// A writer lies in one thing, and hashes agree with it: level hashes finds nothing.
// Full names object, file and block.
func TestLyingWriter(t *testing.T) {
	const (
		first, second = "/base-0001.tar", "/base-0002.tar"
		b, c, d       = "00000001000000000000000B", "00000001000000000000000C", "00000001000000000000000D"
	)
	file := func(path string, change func(*[]byte)) func(*writer) {
		return func(w *writer) { change(w.content(path)) }
	}
	text := func(path, old, with string) func(*writer) {
		return file(path, func(b *[]byte) { *b = bytes.Replace(*b, []byte(old), []byte(with), 1) })
	}
	control := func(change func([]byte)) func(*writer) {
		return file("global/pg_control", func(b *[]byte) { change(*b); resum(*b) })
	}
	manifest := func(change func(*catalog.Manifest)) func(*writer) {
		return func(w *writer) { change(&w.manifest) }
	}
	listed := func(change func([]postgres.ManifestFile) []postgres.ManifestFile) func(*writer) {
		return func(w *writer) { w.listed = change }
	}
	facts := func(name string, change func(*postgres.SegmentFacts)) func(*writer) {
		return func(w *writer) {
			w.facts = func(n string, f *postgres.SegmentFacts) {
				if n == name {
					change(f)
				}
			}
		}
	}
	for _, c := range []struct {
		name    string
		lie     func(*writer)
		object  string // its end; empty: there is nothing to find
		file    string
		blocks  []uint32
		problem string // a part
	}{
		{name: "none", lie: func(*writer) {}},
		{"a page", func(w *writer) { w.page(3)[5000] ^= 1; w.page(7)[6000] ^= 1 }, first, relation, []uint32{3, 7}, "2 pages fail their checksum"},
		{"a page of a later segment file", func(w *writer) {
			w.files[3].path += ".2"
			binary.LittleEndian.PutUint16(w.files[3].content[8:], 1)
		}, first, relation + ".2", nil, "first block 262144 of the relation"},
		{"a new page with something on it", func(w *writer) { (*w.content(relation + "_fsm"))[postgres.PageSize+100] = 1 }, first, relation + "_fsm", []uint32{1}, "1 pages fail"},
		{name: "a page that the backup saw", lie: func(w *writer) {
			w.page(3)[5000] ^= 1
			w.manifest.Damage = []catalog.Damage{{Path: relation, Blocks: []uint32{2, 3}}}
		}},
		{"a page beside one that it saw", func(w *writer) {
			w.page(3)[5000] ^= 1
			w.page(4)[5000] ^= 1
			w.manifest.Damage = []catalog.Damage{{Path: relation, Blocks: []uint32{3}}}
		}, first, relation, []uint32{4}, "1 pages fail"},
		{name: "a page that was written meanwhile", lie: func(w *writer) { binary.LittleEndian.PutUint32(w.page(3)[4:], 0xC00090) }},
		{"a page of the future", func(w *writer) { binary.LittleEndian.PutUint32(w.page(3)[4:], 0xC00101) }, first, relation, []uint32{3}, "1 pages fail"},
		{name: "pages without checksums", lie: func(w *writer) {
			w.page(3)[5000] ^= 1
			w.manifest.Settings.DataChecksumVersion = 0
			control(func(c []byte) { clear(c[252:256]) })(w)
		}},

		{"not in backup_manifest", listed(func(f []postgres.ManifestFile) []postgres.ManifestFile { return f[1:] }), "/backup_manifest", "PG_VERSION", nil, "is not in it, but in the index"},
		{"only in backup_manifest", listed(func(f []postgres.ManifestFile) []postgres.ManifestFile {
			return append(f, postgres.ManifestFile{Path: "base/5/9", Modified: noon})
		}), "/backup_manifest", "base/5/9", nil, "is in it, but not in the index"},
		{"another size in backup_manifest", listed(func(f []postgres.ManifestFile) []postgres.ManifestFile { f[1].Size++; return f }), "/backup_manifest", relation, nil, "114689 bytes"},
		{"another CRC in backup_manifest", listed(func(f []postgres.ManifestFile) []postgres.ManifestFile { f[1].CRC32C++; return f }), "/backup_manifest", relation, nil, "CRC-32C"},
		{"another time in backup_manifest", listed(func(f []postgres.ManifestFile) []postgres.ManifestFile {
			f[1].Modified = noon.Add(time.Second)
			return f
		}), "/backup_manifest", relation, nil, "12:00:01"},
		{"other WAL in backup_manifest", func(w *writer) { w.ranges[0].End++ }, "/backup_manifest", "", nil, "do not lead from 0/C00028"},
		{"files of the manifest", manifest(func(m *catalog.Manifest) { m.Files++ }), "/manifest.json", "", nil, "it counts 8 files"},
		{"bytes of the manifest", manifest(func(m *catalog.Manifest) { m.Bytes-- }), "/manifest.json", "", nil, "there are 7 of"},

		{"start", text("backup_label", "START WAL LOCATION: 0/C00028", "START WAL LOCATION: 0/C00030"), second, "backup_label", nil, "start 0/C00030"},
		{"checkpoint", text("backup_label", "CHECKPOINT LOCATION: 0/C00060", "CHECKPOINT LOCATION: 0/C00068"), second, "backup_label", nil, "checkpoint 0/C00068"},
		{"segment of the start", text("backup_label", "C)", "B)"), second, "backup_label", nil, "00000000B"},
		{"source", text("backup_label", "primary", "standby"), second, "backup_label", nil, "from a standby: true"},
		{"no label", text("backup_label", "START", "STOP"), second, "backup_label", nil, "no line START WAL LOCATION"},
		{"tablespace", text("tablespace_map", "16397", "16399"), second, "tablespace_map", nil, "16399"},
		{"version", text("PG_VERSION", "15", "16"), first, "PG_VERSION", nil, "version 16, the manifest says 15"},
		{"system", control(func(c []byte) { c[0]++ }), second, "global/pg_control", nil, "system identifier"},
		{"checksum version", control(func(c []byte) { c[252]++ }), second, "global/pg_control", nil, "data checksum version 2"},
		{"catalog version", control(func(c []byte) { c[12]++ }), second, "global/pg_control", nil, "catalog version"},
		{"timeline", control(func(c []byte) { c[48]++ }), second, "global/pg_control", nil, "timeline 2, the"},
		{"redo before the start", control(func(c []byte) { c[40]-- }), second, "global/pg_control", nil, "0/C00027"},
		{"CRC of pg_control", file("global/pg_control", func(b *[]byte) { (*b)[100]++ }), second, "global/pg_control", nil, "does not match its checksum"},
		{"stop of a standby", func(w *writer) {
			w.manifest.Role = "replica"
			text("backup_label", "primary", "standby")(w)
			control(func(c []byte) {
				c[16] = byte(postgres.StateInArchiveRecovery)
				binary.LittleEndian.PutUint64(c[136:], 0xC000F0)
				c[144] = 1
			})(w)
		}, second, "global/pg_control", nil, "consistent at 0/C000F0, the"},
		{"pg_control is not the last", func(w *writer) { w.files = append(w.files, file2("later")) }, second, "global/pg_control", nil, "must with"},

		{"WAL: commits", facts(b, func(f *postgres.SegmentFacts) { f.Commits++ }), b, "", nil, "commits is"},
		{"WAL: last record", facts(b, func(f *postgres.SegmentFacts) { f.LastLSN-- }), "", "", nil, ""}, // and what follows: below
		{"WAL: times", facts(d, func(f *postgres.SegmentFacts) { f.MaxTime = f.MaxTime.Add(time.Second) }), d, "", nil, "max_time is"},
		{"WAL: restore point", facts(d, func(f *postgres.SegmentFacts) { f.RestorePoints[0].Name = "x" }), d, "", nil, "restore_points is"},
		{"WAL: the valid end", facts(d, func(f *postgres.SegmentFacts) { f.ValidEnd-- }), d, "", nil, "valid_end is"},
		{name: "WAL: a segment that was not walked", lie: facts(b, func(f *postgres.SegmentFacts) { *f = postgres.SegmentFacts{ValidEnd: f.ValidEnd} })},
		{"WAL: a segment that says it was", func(w *writer) {
			w.wal[b] = bytes.Repeat([]byte("no log"), 1<<20/6+1)[:1<<20]
			facts(b, func(f *postgres.SegmentFacts) { *f = postgres.SegmentFacts{Walked: true, ValidEnd: 1 << 20} })(w)
		}, b, "", nil, "and its header says that it was read"},
		{"WAL: another server's", func(w *writer) { w.wal[b] = bytes.Clone(w.wal[b]); w.wal[b][24]++ }, b, "", nil, "it comes from system"},
		{"WAL: a short segment", func(w *writer) {
			w.wal[b] = w.wal[b][:1<<19]
		}, b, "", nil, "it holds 524288 bytes"},
		{"WAL: a start in a backup history file", func(w *writer) {
			w.wal["00000001000000000000000C.00000030.backup"] = w.wal["00000001000000000000000C.00000028.backup"]
		}, ".00000030.backup", "", nil, "started at 0/C00028"},
		{"WAL: another descent", func(w *writer) {
			w.wal["00000003.history"] = []byte("1\t0/D00200\tx\n2\t0/E00000\ty\n")
			w.wal["00000003000000000000000E"] = w.wal["00000002000000000000000E"]
		}, "00000003.history", "", nil, "another descent than 00000002.history"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wal := "C"
			if strings.HasPrefix(c.name, "WAL: ") || c.name == "none" {
				wal = "BCDE"
			}
			w := newWriter(t, wal)
			c.lie(w)
			w.write()
			if found := w.findings(verify.Hashes); len(found) > 0 {
				t.Fatalf("hashes: %+v", found)
			}
			found := w.findings(verify.Full)
			if c.name == "WAL: last record" {
				c.object = b // the segment itself; the one behind it does not join
				if len(found) != 2 || !strings.HasSuffix(found[1].Object, "/00000001000000000000000C") || !strings.Contains(found[1].Problem, "does not go on where "+b) {
					t.Errorf("the joint: %+v", found)
				}
				found = found[:1]
			}
			if c.object == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) == 0 || !strings.HasSuffix(found[0].Object, c.object) || found[0].File != c.file || !strings.Contains(found[0].Problem, c.problem) {
				t.Fatalf("%+v, want %s, %s, %q", found, c.object, c.file, c.problem)
			}
			if c.blocks != nil && !slices.Equal(found[0].Blocks, c.blocks) {
				t.Errorf("blocks %v, want %v", found[0].Blocks, c.blocks)
			}
		})
	}
}

func file2(path string) file { return file{path, []byte(path)} }
