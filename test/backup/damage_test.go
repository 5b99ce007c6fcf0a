package backup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"golang.org/x/sys/unix"
)

// Damaged pages are found by file and block, in any segment file of a relation and
// in an index, and a page written after the start is none.
func TestDamage(t *testing.T) {
	w := newWorld(t, lab.PGOptions{}, true)
	w.pg.Exec("create table t as select g, repeat('x', 200) pad from generate_series(1, 20000) g; create index i on t (g); checkpoint")
	var table, index string
	w.pg.QueryRow("select pg_relation_filepath('t'), pg_relation_filepath('i')", &table, &index)
	w.pg.Stop("fast")
	want := []catalog.Damage{{Path: table, Blocks: []uint32{3, 200}}, {Path: index, Blocks: []uint32{7}}}
	for _, d := range want {
		for _, block := range d.Blocks {
			flip(t, filepath.Join(w.pg.DataDir, d.Path), int64(block)*8192+4000)
		}
	}
	w.pg.Start()
	m, _, err := w.take(codec.Zstd, backup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	byPath := func(a, b catalog.Damage) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(m.Damage, byPath)
	slices.SortFunc(want, byPath)
	if fmt.Sprint(m.Damage) != fmt.Sprint(want) || !m.Damaged() {
		t.Errorf("damage %v, want %v", m.Damage, want)
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Reading the database leaves the page cache as it was: what was cached stays,
// what was not is given back (R17).
func TestPageCache(t *testing.T) {
	w := newWorld(t, lab.PGOptions{}, true)
	w.pg.Exec(`create table cold as select g, repeat(md5(g::text), 10) pad from generate_series(1, 200000) g;
		create table warm as select g, repeat(md5(g::text), 10) pad from generate_series(1, 100000) g; checkpoint`)
	var cold, warm string
	w.pg.QueryRow("select pg_relation_filepath('cold'), pg_relation_filepath('warm')", &cold, &warm)
	cold, warm = filepath.Join(w.pg.DataDir, cold), filepath.Join(w.pg.DataDir, warm)
	w.pg.Stop("fast")
	unix.Sync() // only clean pages can be dropped
	evict(t, cold, 0)
	evict(t, warm, 8<<20) // its end stays
	w.pg.Start()
	before := [2]float64{resident(t, cold), resident(t, warm)}
	if before[0] > 0.02 || before[1] < 0.5 || before[1] > 0.95 {
		t.Fatalf("the cache is not as the test needs it: %v", before)
	}
	if _, _, err := w.take(codec.None, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	after := [2]float64{resident(t, cold), resident(t, warm)}
	for i := range before {
		if d := after[i] - before[i]; d > 0.02 || d < -0.02 {
			t.Errorf("residency of file %d went from %.3f to %.3f", i, before[i], after[i])
		}
	}
}

func evict(t *testing.T, path string, bytes int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if bytes != 0 {
		content, err := os.ReadFile(path) // all of it is cached now
		if err != nil || int64(len(content)) < 2*bytes {
			t.Fatalf("%s: %d bytes, %v", path, len(content), err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, bytes, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// resident is the share of a file's pages in the page cache.
func resident(t *testing.T, path string) float64 {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	pages := make([]byte, (len(memory)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, p := range pages {
		n += int(p & 1)
	}
	return float64(n) / float64(len(pages))
}
