package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// tree makes files of a data directory; a name with a slash at its end is a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		switch target, link := strings.CutPrefix(content, "-> "); {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o700)
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWalk(t *testing.T) {
	space := tree(t, map[string]string{"PG_15_202209061/5/16390": "a", "PG_15_202209061/5/16390_init": "", "PG_15_202209061/5/16391": "b",
		"PG_14_202107181/5/1": "of another server", "stray": "x"})
	elsewhere := tree(t, map[string]string{"0000": "wal", "archive_status/": ""})
	root := tree(t, map[string]string{
		"PG_VERSION": "15\n", "postmaster.pid": "1", "postgresql.auto.conf.tmp": "", "pgha.origin.json": "{}",
		"global/pg_control": "c", "global/1262": "", "global/pg_filenode.map": "m", "global/pg_internal.init": "i",
		"base/5/16384": "t", "base/5/16384.1": "t", "base/5/16384_fsm": "t", "base/5/16384_vm": "v", "base/5/t3_16400": "temp",
		"base/5/16385": "unlogged", "base/5/16385.1": "u", "base/5/16385_fsm": "u", "base/5/16385_init": "i", "base/5/16385_vm": "v",
		"base/5/163850": "another", "base/pgsql_tmp/pgsql_tmp1.0": "x", "base/5/pg_internal.init.12": "x",
		"pg_stat_tmp/db.stat": "s", "pg_replslot/one/state": "s", "pg_notify/0000": "n", "pg_stat/": "",
		"pg_wal": "-> " + elsewhere, "pg_tblspc/16500": "-> " + space, "log": "-> /var/log", "pg_dynshmem": "-> /dev/shm"})
	w := walker{pgdata: root, version: "PG_15_202209061", summary: true}
	if err := w.list([]postgres.Tablespace{{OID: 16500, Path: space}, {OID: 16501, Path: "/gone"}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range w.items {
		name := it.path
		if it.dir {
			name += "/"
		}
		if (it.tablespace != 0) != strings.HasPrefix(name, "pg_tblspc/16500/") {
			t.Errorf("%s is of tablespace %d", name, it.tablespace)
		}
		got = append(got, name)
	}
	slices.Sort(got)
	want := []string{"PG_VERSION", "base/", "base/5/", "base/5/16384", "base/5/16384.1", "base/5/163850", "base/5/16384_fsm", "base/5/16384_vm",
		"base/5/16385_init", "global/", "global/1262", "global/pg_filenode.map", "pg_dynshmem/", "pg_notify/", "pg_replslot/",
		"pg_stat/", "pg_stat_tmp/", "pg_tblspc/", "pg_tblspc/16500/PG_15_202209061/", "pg_tblspc/16500/PG_15_202209061/5/",
		"pg_tblspc/16500/PG_15_202209061/5/16390_init", "pg_tblspc/16500/PG_15_202209061/5/16391",
		"pg_wal/", "pg_wal/archive_status/", "pg_wal/summaries/"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("walk found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "/log is a symbolic link") {
		t.Errorf("warnings %q", w.warnings)
	}
}

func TestLinkInPlaceOfDataIsRefused(t *testing.T) {
	for _, name := range []string{"pg_xact", "base/5", "global/1262"} {
		root := tree(t, map[string]string{name: "-> /tmp"})
		w := walker{pgdata: root, version: "PG_15_1"}
		if err := w.list(nil); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testCopier(t *testing.T) (*copier, *catalog.Repository) {
	t.Helper()
	r := catalog.New(mem.New(), catalog.Location{Scope: "demo", System: 42}, catalog.Options{PartSize: 5 << 20})
	run, err := r.StartRun(t.Context(), catalog.Started{ID: "20261121T020000Z-nightly"})
	if err != nil {
		t.Fatal(err)
	}
	return &copier{run: run, packSize: 2 << 20, checksums: true, perFile: 131072, start: 1000, numbers: map[uint32]int{},
		position: func(context.Context) (postgres.LSN, error) { return 2000, nil }, warn: func(text string) { t.Log(text) }}, r
}

// stored reads back what a copier has stored.
func stored(t *testing.T, c *copier, r *catalog.Repository) map[string][]byte {
	t.Helper()
	now := time.Unix(0, 0)
	m := catalog.Manifest{Type: catalog.Full, Timeline: 1, StopTLI: 1, StartLSN: 1, StopLSN: 2, StartTime: now, StopTime: now, SegmentSize: 1 << 24,
		Tablespaces: []postgres.Tablespace{{OID: 16500, Path: "/space"}}}
	var index catalog.Index
	for _, p := range c.packs {
		m.Packs, index.Packs = append(m.Packs, p.info), append(index.Packs, p.index)
	}
	m, err := c.run.Commit(t.Context(), m, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for i := range m.Packs {
		pack, err := b.OpenPack(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		for {
			e, err := pack.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if files[e.Path], err = io.ReadAll(pack); err != nil {
				t.Fatal(err)
			}
		}
		_ = pack.Close()
	}
	return files
}

// Files that vanished, grew and shrank since they were listed, two volumes, packs
// that fill.
func TestCopy(t *testing.T) {
	large := func(n int) string {
		var b bytes.Buffer
		for i := range n {
			b.Write(testPage(uint32(i), 5))
		}
		return b.String()
	}
	root := tree(t, map[string]string{"base/5/16384": large(300), "base/5/16385": large(200), "base/5/16386": large(100),
		"base/5/16387": large(400), "postgresql.conf": "port = 1", "base/5/16388": "", "empty/": "", "space/16390": large(3)})
	c, r := testCopier(t)
	at := func(name string) string { return filepath.Join(root, name) }
	items := []item{{path: "base/5/1", disk: at("base/5/1"), size: 8192}, {path: "base/5/2", disk: at("base/5/2"), dir: true},
		{path: "postgresql.conf", disk: at("postgresql.conf"), size: 3}, // has grown since
		{path: "empty", disk: at("empty"), dir: true},
		{path: "pg_tblspc/16500/PG_15_1/5/16390", disk: at("space/16390"), tablespace: 16500, size: 3 * 8192}}
	for _, name := range []string{"16384", "16385", "16386", "16387", "16388"} {
		items = append(items, item{path: "base/5/" + name, disk: at("base/5/" + name), size: 1})
	}
	if err := c.copyAll(t.Context(), items, 2); err != nil {
		t.Fatal(err)
	}
	got := stored(t, c, r)
	want := map[string][]byte{"empty": {}, "postgresql.conf": []byte("port = 1"), "base/5/16388": {}, "base/5/16384": []byte(large(300)), "base/5/16385": []byte(large(200)),
		"base/5/16386": []byte(large(100)), "base/5/16387": []byte(large(400)), "pg_tblspc/16500/PG_15_1/5/16390": []byte(large(3))}
	if !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("stored %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	if c.vanished != 1 || len(c.damage) != 0 || len(c.packs) < 4 {
		t.Errorf("%d vanished, damage %v, %d packs", c.vanished, c.damage, len(c.packs))
	}
}

// What a file lacks since it was opened reads as zeros.
func TestShrunkFileIsPadded(t *testing.T) {
	p := []byte("old content")
	if err := readPadded(strings.NewReader("abcdef"), p, 4); err != nil || string(p) != "ef"+strings.Repeat("\x00", 9) {
		t.Errorf("%q, %v", p, err)
	}
	if err := readPadded(strings.NewReader("abc"), p, 100); err != nil || string(p) != strings.Repeat("\x00", 11) {
		t.Errorf("%q, %v", p, err)
	}
}

func TestQueueKeepsVolumesTogether(t *testing.T) {
	q := newQueue([]item{{path: "s", size: 1}, {path: "l", size: 9}, {path: "d", dir: true}, {path: "t1", tablespace: 7, size: 5}, {path: "t2", tablespace: 7, size: 6}})
	var got []string
	volume := uint32(7)
	for {
		it, ok := q.next(volume)
		if !ok {
			break
		}
		got, volume = append(got, it.path), it.tablespace
	}
	if want := "t2 t1 d l s"; strings.Join(got, " ") != want {
		t.Errorf("order %v, want %s", got, want)
	}
}

// A tablespace that the server has and this host does not show would be left out of
// the backup in silence.
func TestTablespaceOutOfSightIsRefused(t *testing.T) {
	empty := t.TempDir()
	for _, to := range []string{"/nonexistent", empty} {
		root := tree(t, map[string]string{"pg_tblspc/16500": "-> " + to})
		w := walker{pgdata: root, version: "PG_15_1"}
		if err := w.list([]postgres.Tablespace{{OID: 16500, Path: to}}); err == nil || !strings.Contains(err.Error(), "tablespace 16500") {
			t.Errorf("link to %s: %v", to, err)
		}
	}
}
