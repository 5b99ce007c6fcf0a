package restore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// grounds builds a directory to restore into and says what Check must think of it.
func TestCheck(t *testing.T) {
	plan := Plan{Backup: catalog.Manifest{System: testSystem, Version: 150018, Settings: catalog.Settings{CatalogVersion: 202209061}}}
	cluster := func(t *testing.T, dir string) {
		put(t, string(fakeControl(testSystem)), dir, controlFile)
		put(t, "15\n", dir, "PG_VERSION")
	}
	interrupted := func(t *testing.T, dir string, change func(*marker)) {
		put(t, "half", dir, "base/1/1259")
		m := marker{Format: 1, PGDATA: dir, System: testSystem, Tablespaces: []string{filepath.Join(filepath.Dir(dir), "ts")}, Versions: []string{"PG_15_202209061"}}
		change(&m)
		if err := m.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	same := func(*marker) {}
	for name, c := range map[string]struct {
		make  func(t *testing.T, dir string)
		force bool
		state State
		want  string // part of the refusal
	}{
		"absent":                {make: func(*testing.T, string) {}, state: Fresh},
		"empty":                 {make: func(t *testing.T, dir string) { put(t, "", dir, "x"); _ = os.Remove(filepath.Join(dir, "x")) }, state: Fresh},
		"a file":                {make: func(t *testing.T, dir string) { put(t, "", dir) }, want: "is not a directory"},
		"dangling link":         {make: func(t *testing.T, dir string) { _ = os.Symlink("/nowhere/x", dir) }, want: "leads nowhere"},
		"foreign directory":     {make: func(t *testing.T, dir string) { put(t, "", dir, "thesis.txt") }, want: "neither empty nor"},
		"foreign, forced":       {make: func(t *testing.T, dir string) { put(t, "", dir, "thesis.txt") }, force: true, want: "neither empty nor"},
		"cluster":               {make: cluster, want: "holds a cluster"},
		"cluster, forced":       {make: cluster, force: true, state: Replaced},
		"other cluster, forced": {make: func(t *testing.T, dir string) { cluster(t, dir); put(t, string(fakeControl(7)), dir, controlFile) }, force: true, want: "system identifier 7"},
		"torn control, forced":  {make: func(t *testing.T, dir string) { cluster(t, dir); put(t, strings.Repeat("x", 8192), dir, controlFile) }, force: true, want: "not a directory of this cluster"},
		"no PG_VERSION, forced": {make: func(t *testing.T, dir string) { put(t, string(fakeControl(testSystem)), dir, controlFile) }, force: true, want: "PG_VERSION"},
		"stale pid, forced":     {make: func(t *testing.T, dir string) { cluster(t, dir); put(t, "2147483646\n", dir, "postmaster.pid") }, force: true, state: Replaced},
		"other program's pid": {make: func(t *testing.T, dir string) {
			cluster(t, dir)
			put(t, fmt.Sprint(os.Getpid()), dir, "postmaster.pid")
		}, force: true, state: Replaced},
		"killed over its marker": {make: func(t *testing.T, dir string) { put(t, "{", dir, "."+MarkerFile+".tmp-1") }, state: Fresh},
		"interrupted":            {make: func(t *testing.T, dir string) { interrupted(t, dir, same) }, state: Interrupted},
		"interrupted, other one": {make: func(t *testing.T, dir string) { interrupted(t, dir, func(m *marker) { m.System = 7 }) }, force: true, want: "interrupted restore of system 7"},
		"interrupted, moved":     {make: func(t *testing.T, dir string) { interrupted(t, dir, func(m *marker) { m.PGDATA = "/other" }) }, force: true, want: "into /other"},
		"interrupted, newer":     {make: func(t *testing.T, dir string) { interrupted(t, dir, func(m *marker) { m.Format = 9 }) }, force: true, want: "not one of this version's markers"},
		"interrupted at the end": {make: func(t *testing.T, dir string) {
			cluster(t, dir)
			put(t, fakeLabel, dir, labelFile)
			interrupted(t, dir, same)
		}, state: Interrupted},
		"marker in a used one": {make: func(t *testing.T, dir string) { cluster(t, dir); interrupted(t, dir, same) }, want: "holds a cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "data")
			if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			c.make(t, dir)
			ground, err := Check(plan, dir, c.force)
			if c.want == "" {
				if err != nil || ground.State != c.state {
					t.Errorf("state %q, error %v, want %q", ground.State, err, c.state)
				}
				return
			}
			if _, ok := errors.AsType[*PreflightError](err); !ok || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want a refusal with %q", err, c.want)
			}
		})
	}
}

func TestCheckPaths(t *testing.T) {
	for _, dir := range []string{"", "/", "data", "./data", "/a/../b", "/a/"} {
		if _, err := Check(Plan{}, dir, true); err == nil {
			t.Errorf("%q was accepted", dir)
		}
	}
}

// R24: every path, old or future.
func TestCheckTablespaces(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	put(t, "neighbour's", at("full"), "PG_15_202209061", "5", "1")
	put(t, "", at("empty"), "x")
	if err := os.Remove(at("empty/x")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spaces []TablespacePlan
		want   string
	}{
		"absent":                  {[]TablespacePlan{{OID: 1, From: at("new"), To: at("new")}}, ""},
		"empty":                   {[]TablespacePlan{{OID: 1, From: at("empty"), To: at("empty")}}, ""},
		"occupied":                {[]TablespacePlan{{OID: 1, From: at("full"), To: at("full")}}, "is not empty"},
		"occupied, mapped":        {[]TablespacePlan{{OID: 1, From: at("full"), To: at("new")}}, ""},
		"mapped onto occupied":    {[]TablespacePlan{{OID: 1, From: at("gone"), To: at("full")}}, "is not empty"},
		"later, absent":           {[]TablespacePlan{{OID: 1, From: at("new"), To: at("new"), Later: true}}, ""},
		"later, occupied":         {[]TablespacePlan{{OID: 1, From: at("full"), To: at("full"), Later: true}}, "is not empty"},
		"later, mapped":           {[]TablespacePlan{{OID: 1, From: at("gone"), To: at("new"), Later: true}}, ""},
		"later, mapped in vain":   {[]TablespacePlan{{OID: 1, From: at("full"), To: at("new"), Later: true}}, "cannot be led elsewhere"},
		"two in one":              {[]TablespacePlan{{OID: 1, From: at("a"), To: at("new")}, {OID: 2, From: at("b"), To: at("new")}}, "overlaps"},
		"one in the other":        {[]TablespacePlan{{OID: 1, From: at("a"), To: at("new")}, {OID: 2, From: at("b"), To: at("new/in")}}, "overlaps"},
		"in PGDATA":               {[]TablespacePlan{{OID: 1, From: at("a"), To: at("data/ts")}}, "overlaps"},
		"relative":                {[]TablespacePlan{{OID: 1, From: at("a"), To: "ts"}}, "clean absolute"},
		"below a file":            {[]TablespacePlan{{OID: 1, From: at("a"), To: at("full/PG_15_202209061/5/1/ts")}}, "not a directory"},
		"in the backup and again": {[]TablespacePlan{{OID: 1, From: at("a"), To: at("a")}, {OID: 1, From: at("a"), To: at("a"), Later: true}}, ""},
	} {
		_, err := Check(Plan{Backup: catalog.Manifest{System: testSystem}, Tablespaces: c.spaces}, at("data"), false)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if exists(at("data")) || exists(at("new")) {
			t.Fatalf("%s: a check changed something", name)
		}
	}
}

func TestCheckSpace(t *testing.T) {
	plan := Plan{Backup: catalog.Manifest{Packs: []catalog.PackInfo{{Name: "base-0001.tar", Plain: 1 << 60}}}}
	if _, err := Check(plan, filepath.Join(t.TempDir(), "data"), false); err == nil || !strings.Contains(err.Error(), "MiB free") {
		t.Errorf("%v", err)
	}
}

// A server that runs is found by its process, whatever its files say.
func TestCheckLivingServer(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "postgres")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o700); err != nil {
		t.Fatal(err)
	}
	pgdata, space := filepath.Join(dir, "data"), filepath.Join(dir, "space")
	put(t, "15\n", pgdata, "PG_VERSION")
	put(t, string(fakeControl(testSystem)), pgdata, controlFile)
	put(t, "theirs", space, "PG_15_202209061/5/1")
	if err := os.Mkdir(filepath.Join(pgdata, "pg_tblspc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(space, filepath.Join(pgdata, "pg_tblspc/16400")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "600")
	cmd.Dir = pgdata
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	plan := Plan{Backup: catalog.Manifest{System: testSystem}}
	for _, c := range []struct {
		pgdata string
		spaces []TablespacePlan
	}{
		{pgdata, nil},
		{filepath.Join(pgdata, "inside"), nil},
		{filepath.Join(dir, "copy"), []TablespacePlan{{OID: 1, From: "/x", To: space}}},
		{filepath.Join(dir, "copy"), []TablespacePlan{{OID: 1, From: "/x", To: filepath.Join(space, "in")}}},
	} {
		plan.Tablespaces = c.spaces
		if _, err := Check(plan, c.pgdata, true); err == nil || !strings.Contains(err.Error(), "running server") {
			t.Errorf("%s %v: %v", c.pgdata, c.spaces, err)
		}
	}
	// A stopped copy whose tablespace link leads into the living cluster: its force
	// must not reach there.
	copied := filepath.Join(dir, "copied")
	put(t, "15\n", copied, "PG_VERSION")
	put(t, string(fakeControl(testSystem)), copied, controlFile)
	if err := os.Mkdir(filepath.Join(copied, "pg_tblspc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(space, filepath.Join(copied, "pg_tblspc/16400")); err != nil {
		t.Fatal(err)
	}
	plan.Tablespaces = nil
	if _, err := Check(plan, copied, true); err == nil || !strings.Contains(err.Error(), "running server") {
		t.Errorf("a tablespace of the neighbour would be emptied: %v", err)
	}
}
