package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
)

// What is no file is no object, nor proof that there is none; and nobody waits for it.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	make := func(name string, how func(path string) error) {
		t.Helper()
		if err := how(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	make("fifo", func(path string) error { return syscall.Mkfifo(path, 0o600) })
	make("socket", func(path string) error { return syscall.Mknod(path, syscall.S_IFSOCK|0o600, 0) })
	make("way", func(path string) error { return os.Symlink("fifo", path) })
	make("circle", func(path string) error { return os.Symlink("circle", path) })
	make("directory", func(path string) error { return os.Mkdir(path, 0o700) })
	b := file.New(dir)
	for _, name := range []storage.Key{"fifo", "socket", "way"} {
		_, err := b.Head(t.Context(), name)
		r, got := b.Get(t.Context(), name, storage.Whole)
		if r != nil || !errors.Is(err, storage.ErrSpoiled) || !errors.Is(got, storage.ErrSpoiled) || storage.IsRetryable(got) {
			t.Errorf("%s: %v, %v", name, err, got)
		}
		if e, ok := errors.AsType[*storage.Error](got); !ok || e.Hint() != "find out who put it into "+dir+", and take it away" {
			t.Errorf("%s: hint of %v", name, got)
		}
	}
	if _, err := b.Get(t.Context(), "circle", storage.Whole); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("circle: %v", err)
	}
	if _, err := b.Get(t.Context(), "directory", storage.Whole); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("directory: %v", err)
	}
	for _, prefix := range []storage.Key{"fifo", "way", "circle", ""} {
		for _, err := range b.List(t.Context(), prefix, "") {
			if !errors.Is(err, storage.ErrSpoiled) {
				t.Errorf("list of %q: %v", prefix, err)
			}
		}
	}
}

// Directories in directories without end are no keys, and end the list.
func TestDeepDirectories(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.MkdirAll(strings.Repeat("d/", 700), 0o700); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range file.New(dir).List(t.Context(), "", "") {
		if n++; !errors.Is(err, storage.ErrSpoiled) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d answers", n)
	}
}
