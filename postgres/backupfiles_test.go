package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBackupLabelRoundTrip(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		text := string(s["backup_label"])
		l, err := ParseBackupLabel(text)
		if err != nil {
			t.Fatal(err)
		}
		if l.String() != text || l.Raw != text {
			t.Errorf("have %q, want %q", l.String(), text)
		}
		if l.Label != "a label" || l.From != "primary" || l.Method != "streamed" || l.StartLSN != l.StartFile.Segment.Start(1<<20)+0x28 {
			t.Errorf("%+v", l)
		}
		text += "INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n"
		inc, err := ParseBackupLabel(text)
		if err != nil || inc.String() != text || inc.IncrementalFrom != 0x2000028 {
			t.Errorf("%+v %v", inc, err)
		}
		if inc.Full() != l {
			t.Errorf("full label %+v, want %+v", inc.Full(), l)
		}
	})
}

func TestBackupLabelRefuses(t *testing.T) {
	good := string(loadSample(t, "15")["backup_label"])
	for name, text := range map[string]string{
		"empty":         "",
		"no checkpoint": strings.ReplaceAll(good, "CHECKPOINT LOCATION", "X"),
		"bad LSN":       strings.ReplaceAll(good, "CHECKPOINT LOCATION: 0", "CHECKPOINT LOCATION: z"),
		"other file":    strings.ReplaceAll(good, "(file 00000001", "(file 00000002"),
		"history file":  strings.ReplaceAll(good, "(file ", "(file x"),
		"twice":         good + good,
		"half":          good + "INCREMENTAL FROM LSN: 0/1\n",
		"timeline 0":    strings.ReplaceAll(good, "START TIMELINE: 1", "START TIMELINE: 0"),
		"huge":          good + strings.Repeat("x", maxBackupLabel),
	} {
		if l, err := ParseBackupLabel(text); err == nil {
			t.Errorf("%s: accepted as %+v", name, l)
		}
	}
}

// formatTablespaceMap writes as the server does.
func formatTablespaceMap(list []Tablespace) string {
	escape := strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r")
	var b strings.Builder
	for _, t := range list {
		fmt.Fprintf(&b, "%d %s\n", t.OID, escape.Replace(t.Path))
	}
	return b.String()
}

func TestTablespaceMap(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		text := string(s["tablespace_map"])
		list, err := ParseTablespaceMap(text)
		if err != nil {
			t.Fatal(err)
		}
		plain := slices.IndexFunc(list, func(x Tablespace) bool { return strings.HasSuffix(x.Path, "/ts") })
		odd := slices.IndexFunc(list, func(x Tablespace) bool { return strings.HasSuffix(x.Path, "/two\nlines\\") })
		if len(list) != 2 || plain+odd != 1 {
			t.Errorf("%+v", list)
		}
		if got := formatTablespaceMap(list); got != text {
			t.Errorf("have %q, want %q", got, text)
		}
	})
	odd := []Tablespace{{OID: 7, Path: "/a\rb\\\\c\n"}, {OID: 8, Path: "/with blank "}}
	if got, err := ParseTablespaceMap(formatTablespaceMap(odd)); err != nil || !slices.Equal(got, odd) {
		t.Errorf("%+v %v", got, err)
	}
	for _, text := range []string{"x /p\n", "1\n", "1 \n", "0 /p\n", "1 /p", "1 /p\\", "1 /p\n1 /q\n", "1 /" + strings.Repeat("p", 1024) + "\n", "1 /a\x00b\n"} {
		if list, err := ParseTablespaceMap(text); err == nil {
			t.Errorf("%q: accepted as %+v", text, list)
		}
	}
}

func TestBackupManifestRoundTrip(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		data := s["backup_manifest"]
		m, err := ParseBackupManifest(data)
		if err != nil {
			t.Fatal(err)
		}
		control, err := ParseControlData(s["pg_control"])
		if err != nil {
			t.Fatal(err)
		}
		version := Version(150000)
		if m.Version == 2 {
			version = 170000
			if m.System != control.System {
				t.Errorf("system %s, want %s", m.System, control.System)
			}
		}
		var again bytes.Buffer
		if err := WriteBackupManifest(&again, version, m.System, slices.Values(m.Files), m.Ranges); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), data) {
			t.Error("the manifest we write differs from the server's")
		}
		i := slices.IndexFunc(m.Files, func(f ManifestFile) bool { return f.Path == "backup_label" })
		if label := s["backup_label"]; m.Files[i].CRC32C != CRC32C(label) || m.Files[i].Size != int64(len(label)) {
			t.Errorf("%+v: have %08X", m.Files[i], CRC32C(label))
		}
	})
}

func TestBackupManifestNames(t *testing.T) {
	files := []ManifestFile{
		{Path: "a \"b\"\\\n\x01<&>\u00e9", Size: 1, Modified: time.Unix(1, 0).UTC(), CRC32C: 0x01020304},
		{Path: "latin\xe9/x", Modified: time.Unix(2, 0).UTC()},
	}
	ranges := []WALRange{{1, 1, 2}, {2, 2, 3}}
	for _, files := range [][]ManifestFile{files, nil} {
		var b bytes.Buffer
		if err := WriteBackupManifest(&b, 170004, 7, slices.Values(files), ranges); err != nil {
			t.Fatal(err)
		}
		m, err := ParseBackupManifest(b.Bytes())
		if err != nil || !slices.Equal(m.Files, files) || !slices.Equal(m.Ranges, ranges) || m.System != 7 {
			t.Errorf("%+v %v", m, err)
		}
	}
}

const aFile = `{ "Path": "a", "Size": 0, "Last-Modified": "2026-11-21 04:51:38 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }`

func readManifestFile(path string) (f ManifestFile, err error) {
	name, err := json.Marshal(path)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal([]byte(strings.Replace(aFile, `"a"`, string(name), 1)), &f)
}

func TestBackupManifestRefuses(t *testing.T) {
	for _, path := range []string{"../x", "/etc/passwd", "a//b", "a/../b", "", "a/", "./a", "a\x00b"} {
		err := WriteBackupManifest(io.Discard, 150000, 1, slices.Values([]ManifestFile{{Path: path}}), nil)
		if err == nil {
			t.Errorf("path %q was written", path)
		}
		if _, err := readManifestFile(path); err == nil {
			t.Errorf("path %q was read", path)
		}
	}
	sealed := func(body string) string {
		return fmt.Sprintf("%s\"Manifest-Checksum\": \"%x\"}\n", body, sha256.Sum256([]byte(body)))
	}
	if _, err := ParseBackupManifest([]byte(sealed("{ \"PostgreSQL-Backup-Manifest-Version\": 1, \"Files\": [], \"WAL-Ranges\": [],\n"))); err != nil {
		t.Error(err)
	}
	good := string(loadSample(t, "15")["backup_manifest"])
	for name, text := range map[string]string{
		"changed":   strings.Replace(good, `"Size": 0`, `"Size": 1`, 1),
		"truncated": good[:len(good)-10],
		"appended":  good + "\n",
		"version 3": strings.Replace(good, "Version\": 1", "Version\": 3", 1),
		"no files":  "{}",
		"no lists":  sealed("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"),
		"a system":  sealed("{ \"PostgreSQL-Backup-Manifest-Version\": 1, \"System-Identifier\": 7, \"Files\": [], \"WAL-Ranges\": [],\n"),
		"no system": sealed("{ \"PostgreSQL-Backup-Manifest-Version\": 2, \"Files\": [], \"WAL-Ranges\": [],\n"),
		"twice":     sealed("{ \"PostgreSQL-Backup-Manifest-Version\": 1, \"Files\": [" + aFile + "," + aFile + "], \"WAL-Ranges\": [],\n"),
		"unknown":   sealed("{ \"PostgreSQL-Backup-Manifest-Version\": 1, \"New\": 1, \"Files\": [], \"WAL-Ranges\": [],\n"),
		"long line": strings.Repeat("x", 1<<20),
	} {
		if _, err := ParseBackupManifest([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	fail := errors.New("disk full")
	if err := WriteBackupManifest(failing{fail}, 150000, 1, slices.Values([]ManifestFile{{Path: "a"}}), nil); !errors.Is(err, fail) {
		t.Errorf("%v, want %v", err, fail)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzBackupLabel(f *testing.F) {
	f.Add(string(loadSample(f, "15")["backup_label"]))
	f.Add("START WAL LOCATION: 0/1 (file x)\nSTART TIMELINE: 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseBackupLabel(text)
		if err != nil {
			return
		}
		again, err := ParseBackupLabel(l.String())
		if again.Raw = l.Raw; err != nil || again != l {
			t.Errorf("%+v reads back as %+v, %v", l, again, err)
		}
	})
}

func FuzzTablespaceMap(f *testing.F) {
	f.Add(string(loadSample(f, "15")["tablespace_map"]))
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseTablespaceMap(text)
		if err != nil {
			return
		}
		again, err := ParseTablespaceMap(formatTablespaceMap(list))
		if err != nil || !slices.Equal(again, list) {
			t.Errorf("%+v reads back as %+v, %v", list, again, err)
		}
	})
}

func FuzzBackupManifest(f *testing.F) {
	var b bytes.Buffer
	files := []ManifestFile{{Path: "a\xff"}, {Path: "b/c", Size: 3, CRC32C: 9}}
	if err := WriteBackupManifest(&b, 170000, 7, slices.Values(files), []WALRange{{1, 1, 2}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseBackupManifest(b)
		if err == nil && slices.ContainsFunc(m.Files, func(f ManifestFile) bool { return checkManifestPath(f.Path) != nil }) {
			t.Error(m)
		}
	})
}
