package backup

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// archiveOf makes a tar as a server streams it; a name with a slash at its end is a
// directory.
func archiveOf(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h := &tar.Header{Name: entries[i], Typeflag: tar.TypeReg, Mode: 0o100640, Size: int64(len(entries[i+1])), ModTime: time.Unix(1e9, 0), Format: tar.FormatUSTAR}
		if target, ok := strings.CutPrefix(entries[i+1], "-> "); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, target, 0
		} else if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o40750
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, entries[i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	relation := func(pages int, bad ...int) string {
		var b bytes.Buffer
		for i := range pages {
			page := testPage(uint32(i), 5)
			if slices.Contains(bad, i) {
				page[5000] ^= 1
			}
			b.Write(page)
		}
		return b.String()
	}
	since := testPage(1, 1500) // torn, but written after the start: replay makes it whole
	since[5000] ^= 1
	c, r := testCopier(t)
	u := newUnpacker(c)
	u.oid = 16500
	large, damaged := relation(300), relation(9, 3, 8)
	if err := u.volume(t.Context(), bytes.NewReader(archiveOf(t, "PG_15_1/", "", "PG_15_1/5/", "", "PG_15_1/5/16390", large, "PG_15_1/pgsql_tmp/", "",
		"PG_15_1/pgsql_tmp/pgsql_tmp1.0", "x", "PG_15_1/5/16391", damaged))); err != nil {
		t.Fatal(err)
	}
	u.oid = 0
	if err := u.volume(t.Context(), bytes.NewReader(archiveOf(t, "backup_label", "the label", "tablespace_map", "the map", "standby.signal", "", "postgresql.auto.conf", "port = 1",
		"pgha.origin.json", "{}", "./pg_wal/", "", "./pg_wal/archive_status/", "", "base/", "", "base/5/", "", "base/5/16384", relation(1)+string(since), "base/5/PG_VERSION", "15",
		"global/pg_control", "control"))); err != nil {
		t.Fatal(err)
	}
	if u.last[labelFile] != "the label" || u.last[mapFile] != "the map" || u.last[controlFile] != "control" || !u.groupAccess {
		t.Errorf("kept for the end: %q, group access %v", u.last, u.groupAccess)
	}
	if want := []catalog.Damage{{Path: "pg_tblspc/16500/PG_15_1/5/16391", Blocks: []uint32{3, 8}}}; fmt.Sprint(c.damage) != fmt.Sprint(want) {
		t.Errorf("damage %v, want %v", c.damage, want)
	}
	if len(c.packs) != 3 { // 2 MiB of the tablespace fill one
		t.Errorf("%d packs", len(c.packs))
	}
	if e := c.packs[2].index.Entries; c.packs[2].tablespace != 0 || e[0].Path != "postgresql.auto.conf" || e[0].Mode != 0o640 || e[0].Modified.Unix() != 1e9 || e[1].Mode != 0o750 {
		t.Errorf("entries %+v", e)
	}
	got := stored(t, c, r)
	want := map[string][]byte{"postgresql.auto.conf": []byte("port = 1"), "pg_wal": {}, "pg_wal/archive_status": {}, "base": {}, "base/5": {},
		"base/5/16384": append([]byte(relation(1)), since...), "base/5/PG_VERSION": []byte("15"), "pg_tblspc/16500/PG_15_1": {}, "pg_tblspc/16500/PG_15_1/5": {},
		"pg_tblspc/16500/PG_15_1/5/16390": []byte(large), "pg_tblspc/16500/PG_15_1/5/16391": []byte(damaged)}
	if !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("stored %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// A file that would not go into the parts of the pack that is open begins one of its own.
func TestUnpackLarge(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "base/", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "base/core", Mode: 0o600, Size: 100 << 30}} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := testCopier(t)
	err := newUnpacker(c).volume(t.Context(), &b)
	if err == nil || err.Error() != "back up base/core: at offset 0: unexpected EOF" || len(c.packs) != 2 {
		t.Errorf("%d packs, %v", len(c.packs), err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	whole := archiveOf(t, "base/", "", "base/1", "content")
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"a link":         {archiveOf(t, "pg_tblspc/16500", "-> /space"), `back up pg_tblspc/16500: an entry of type '2' is neither file nor directory`},
		"a way out":      {archiveOf(t, "../etc/passwd", "x"), `back up ../etc/passwd: path "../etc/passwd" does not stay inside PGDATA`},
		"a file twice":   {archiveOf(t, "base/1", "", "./base/1", ""), "back up base/1: it came twice"},
		"a long label":   {archiveOf(t, "backup_label", strings.Repeat("x", maxLast+1)), "back up backup_label: 1048577 bytes are too many"},
		"half a header":  {whole[:700], "read the archive of volume 0: unexpected EOF"},
		"half a file":    {whole[:1027], "back up base/1: at offset 0: unexpected EOF"},
		"half a label":   {archiveOf(t, "backup_label", "label")[:514], "back up backup_label: unexpected EOF"},
		"something else": {[]byte(strings.Repeat("no tar", 200)), "read the archive of volume 0: archive/tar: invalid tar header"},
	} {
		copier, _ := testCopier(t)
		if err := newUnpacker(copier).volume(t.Context(), bytes.NewReader(c.archive)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	u := newUnpacker(nil)
	for name := range needed {
		u.seen[name] = true
	}
	u.last = map[string]string{labelFile: "x", controlFile: "x"}
	if err := u.complete(); err != nil {
		t.Error(err)
	}
	delete(u.seen, "pg_xact")
	if err := u.complete(); err == nil || err.Error() != "the server sent no directory pg_xact: if it is a symbolic link, use a tablespace or a mount instead" {
		t.Error(err)
	}
	u.seen["pg_xact"], u.last[controlFile] = true, ""
	if err := u.complete(); err == nil || err.Error() != "the server sent no global/pg_control" {
		t.Error(err)
	}
}

// Whatever a server sends as an archive, what is stored of it can be read back.
func FuzzUnpack(f *testing.F) {
	f.Add(archiveOf(f, "base/", "", "base/5/16384", string(testPage(0, 5)), "backup_label", "x", "global/pg_control", "c"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		c, r := testCopier(t)
		if err := newUnpacker(c).volume(t.Context(), bytes.NewReader(archive)); err == nil && len(c.packs) > 0 {
			stored(t, c, r)
		}
	})
}
