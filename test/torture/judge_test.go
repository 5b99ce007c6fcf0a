package torture

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/file"
)

const (
	goldenSystem = postgres.SystemIdentifier(7710502675433133063)
	goldenRoot   = "golden/7710502675433133063"
)

// doctored is a copy of the golden repository, after an operation.
func doctored(t *testing.T, operate func(root string)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	if err := Put("../golden/format-1/repository", dir); err != nil {
		t.Fatal(err)
	}
	operate(filepath.Join(dir, goldenRoot))
	return dir
}

func glob(t *testing.T, pattern ...string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(pattern...))
	if err != nil || len(found) == 0 {
		t.Fatalf("%v: %v, %v", pattern, found, err)
	}
	return found[0]
}

// spoil flips a bit in the middle of a file.
func spoil(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		content[len(content)/2] ^= 1
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Each lie of a repository is seen: a manifest without a pack is what a backup leaves that writes it first.
func TestJudgeRepository(t *testing.T) {
	const segment = "wal/00000001/00000000/000000010000000000000009"
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		operate func(root string)
		seen    int
		fault   string
	}{
		"nothing":               {func(string) {}, 1, ""},
		"manifest before packs": {func(root string) { must(os.Remove(glob(t, root, "backup/*/*/base-0002.tar"))) }, 1, "base-0002.tar"},
		"torn pack":             {func(root string) { cut(t, glob(t, root, "backup/*/*/base-0001.tar")) }, 1, "base-0001.tar"},
		"spoiled pack":          {func(root string) { spoil(t, glob(t, root, "backup/*/*/base-0001.tar")) }, 1, "base-0001.tar"},
		"spoiled index":         {func(root string) { spoil(t, glob(t, root, "backup/*/*/index")) }, 1, "index"},
		"torn manifest":         {func(root string) { cut(t, glob(t, root, "backup/*/manifest.json")) }, 0, "manifest.json"},
		"WAL of a backup gone":  {func(root string) { must(os.Remove(filepath.Join(root, segment))) }, 1, segment},
		"torn WAL":              {func(root string) { cut(t, filepath.Join(root, segment)) }, 1, segment},
		"history gone":          {func(root string) { must(os.Remove(filepath.Join(root, "wal/00000002.history"))) }, 1, "00000002.history"},
		"no manifest yet":       {func(root string) { must(os.Remove(glob(t, root, "backup/*/manifest.json"))) }, 0, ""},
		"hidden": {func(root string) {
			must(os.WriteFile(filepath.Join(filepath.Dir(glob(t, root, "backup/*/manifest.json")), "expired.json"), []byte("{}"), 0o600))
		}, 0, ""},
	} {
		dir := doctored(t, c.operate)
		r := catalog.New(file.New(dir), catalog.Location{Scope: "golden", System: goldenSystem}, catalog.Options{})
		seen, faults, err := JudgeRepository(t.Context(), r)
		if err != nil || len(seen) != c.seen || (len(faults) > 0) != (c.fault != "") || !strings.Contains(strings.Join(faults, "\n"), c.fault) {
			t.Errorf("%s: seen %v, faults %q, %v", name, seen, faults, err)
		}
	}
}

// What was acknowledged is there with its bytes, or the ledger says what is not.
func TestLedger(t *testing.T) {
	const name = "00000001000000000000000A"
	var plain []byte
	for what, c := range map[string]struct {
		operate func(path string)
		fault   string
	}{
		"nothing":               {func(string) {}, ""},
		"acknowledged too soon": {func(path string) { _ = os.Remove(path) }, "is not in the repository"},
		"torn":                  {func(path string) { cut(t, path) }, "cannot be read"},
		"overwritten": {func(path string) {
			other, err := os.ReadFile(strings.Replace(path, name, "000000010000000000000008", 1))
			if err == nil {
				err = os.WriteFile(path, other, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "other bytes"},
	} {
		dir := doctored(t, func(string) {})
		bucket := file.New(dir)
		var err error
		if plain, err = decoded(t.Context(), bucket, goldenRoot+"/wal/00000001/00000000/"+name); err != nil {
			t.Fatal(err)
		}
		c.operate(filepath.Join(dir, goldenRoot, "wal/00000001/00000000", name))
		ledger := Ledger{}
		ledger.Acknowledge(name, plain)
		faults, err := ledger.Judge(t.Context(), bucket, goldenRoot)
		if err != nil || (len(faults) > 0) != (c.fault != "") || !strings.Contains(strings.Join(faults, "\n"), c.fault) {
			t.Errorf("%s: %q, %v", what, faults, err)
		}
	}
}

// Files, spools and trees.
func TestJudgeFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "RECOVERYXLOG")
	want := []byte("a whole segment")
	for content, fault := range map[string]bool{"a whole segment": false, "a whole": true, "another segment": true, "": true} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Whole(path, want, true); (len(got) > 0) != fault {
			t.Errorf("%q: %q", content, got)
		}
		if got := JudgeSpool(dir, map[string][]byte{"RECOVERYXLOG": want}); (len(got) > 0) != fault {
			t.Errorf("spool with %q: %q", content, got)
		}
	}
	if got := JudgeSpool(dir, nil); len(got) != 1 {
		t.Errorf("a stranger in the spool: %q", got)
	}
	before, err := Snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := Whole(path, want, true); len(got) != 0 {
		t.Errorf("absent: %q", got)
	}
	if got := Whole(path, want, false); len(got) != 1 {
		t.Errorf("absent, and wanted: %q", got)
	}
	after, err := Snapshot(dir)
	if got := before.Lost(after); err != nil || len(got) != 1 || len(after.Lost(before)) != 0 {
		t.Errorf("lost: %q, %v", got, err)
	}
	for name, temp := range map[string]bool{".tmp/X": true, ".f.tmp-1": true, "RECOVERYXLOG.pgha-tmp-1": true, "f.tmp-1": false} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := Temps(dir)
		if err != nil || slices.Contains(found, at) != temp {
			t.Errorf("%s: %q, %v", name, found, err)
		}
	}
	if found, err := Temps(dir); err != nil || Age(found, time.Hour) != nil || len(found) != 3 {
		t.Errorf("%q, %v", found, err)
	}
}

// What a power failure could take is told, whatever is left out of write, fsync, rename, fsync.
func TestUndurable(t *testing.T) {
	all := []Call{{Name: "mkdirat", Path: "/r/d"}, {Name: "fsync", Path: "/r"}, {Name: "openat", Path: "/r/.tmp/X"}, {Name: "write", Path: "/r/.tmp/X"},
		{Name: "fsync", Path: "/r/.tmp/X"}, {Name: "linkat", Path: "/r/.tmp/X", To: "/r/d/f"}, {Name: "fsync", Path: "/r/d"}, {Name: "unlinkat", Path: "/r/.tmp/X"}}
	if got := Undurable(all, "/r"); len(got) != 0 {
		t.Errorf("all is well, and %q", got)
	}
	for i, c := range all {
		got := Undurable(slices.Delete(slices.Clone(all), i, i+1), "/r")
		if (c.Name == "fsync") != (len(got) > 0) {
			t.Errorf("without %s: %q", c, got)
		}
		failed := slices.Clone(all)
		failed[i].Err = "input/output error"
		if got := Undurable(failed, "/r"); (c.Name == "fsync") != (len(got) > 0) {
			t.Errorf("%s fails: %q", c, got)
		}
	}
	soon := slices.Clone(all)
	soon[4], soon[5] = soon[5], soon[4] // the name before the bytes
	if got := Undurable(soon, "/r"); len(got) == 0 {
		t.Error("a name that came before its bytes were safe is not seen")
	}
	renamed := []Call{{Name: "write", Path: "/r/.f.tmp-1"}, {Name: "renameat", Path: "/r/.f.tmp-1", To: "/r/f"}, {Name: "fsync", Path: "/r"}}
	if got := Undurable(renamed, "/r"); len(got) != 2 {
		t.Errorf("bytes that are not safe: %q", got)
	}
}

// A copy gets its pg_control when all else is safe, not before.
func TestControlLast(t *testing.T) {
	control := []Call{{Name: "openat", Path: "/d/global/pg_control.new"}, {Name: "write", Path: "/d/global/pg_control.new"}, {Name: "fsync", Path: "/d/global/pg_control.new"},
		{Name: "renameat", Path: "/d/global/pg_control.new", To: "/d/global/pg_control"}, {Name: "fsync", Path: "/d/global"}}
	others := []Call{{Name: "openat", Path: "/d/base/1"}, {Name: "write", Path: "/d/base/1"}, {Name: "fsync", Path: "/d/base/1"}, {Name: "fsync", Path: "/d/base"}}
	if got := before(slices.Concat(others, control), "/d"); len(got) > 1 { // its own unfinished name
		t.Errorf("pg_control last: %q", got)
	}
	if got := before(slices.Concat(others[:2], control, others[2:]), "/d"); len(got) < 2 {
		t.Errorf("pg_control before fsync: %q", got)
	}
}
