package file_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Bucket { return file.New(t.TempDir()) })
	t.Run("missing bucket", func(t *testing.T) {
		storagetest.RunMissing(t, file.New(filepath.Join(t.TempDir(), "not-mounted")))
	})
}

// No way leads out of the root, nor to the reserved directory.
func TestStaysInRoot(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	b := file.New(dir)
	if r, err := b.Get(t.Context(), "way/secret", storage.Whole); err == nil {
		r.Close()
		t.Error("read through a symbolic link out of the root")
	}
	if err := b.Put(t.Context(), "way/new", []byte("x"), storage.PutOptions{}); err == nil {
		t.Error("wrote through a symbolic link out of the root")
	}
	if err := b.Delete(t.Context(), "way/secret"); err == nil {
		t.Error("deleted through a symbolic link out of the root")
	}
	for _, err := range b.List(t.Context(), "", "") {
		if err == nil {
			t.Error("a list believes a symbolic link")
		}
	}
	if err := b.Put(t.Context(), ".tmp/x", nil, storage.PutOptions{}); !errors.Is(err, storage.ErrKey) {
		t.Errorf("put below .tmp: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in .tmp: %v %v", left, err)
	}
}

// A write that fails leaves no temporary file behind.
func TestLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	b := file.New(dir)
	once := storage.PutOptions{IfAbsent: true}
	for range 2 {
		_ = b.Put(t.Context(), "a/b", []byte("x"), once)
		w := storage.NewWriter(t.Context(), b, "a/c", storage.WriterOptions{PartSize: storage.MinPart, Put: once})
		_, _ = w.Write(make([]byte, storage.MinPart+1))
		_ = w.Commit()
	}
	if err := b.Put(t.Context(), "a/b/under-a-file", nil, once); err == nil {
		t.Error("put below a file succeeded")
	}
	for _, key := range []storage.Key{"a/b", "a/c"} {
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".", ".tmp"} {
		left, err := os.ReadDir(filepath.Join(dir, name))
		if err != nil || (name == "." && len(left) != 1) || (name == ".tmp" && len(left) != 0) {
			t.Errorf("left in %s: %v %v", name, left, err)
		}
	}
}

// What a killed process left unfinished goes with a later write, once nobody can be writing it.
func TestSweepsUnfinished(t *testing.T) {
	dir := t.TempDir()
	b := file.New(dir)
	begin := func(key storage.Key) storage.Upload {
		u, err := b.Begin(t.Context(), key, storage.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	begin("killed")
	left, err := filepath.Glob(filepath.Join(dir, ".tmp", "*"))
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	then := time.Now().Add(-49 * time.Hour)
	if err := os.Chtimes(left[0], then, then); err != nil {
		t.Fatal(err)
	}
	u := begin("slow")
	if err := b.Put(t.Context(), "a", []byte("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished file stays: %v", err)
	}
	if err := errors.Join(u.Part(t.Context(), 1, []byte("y")), u.Complete(t.Context())); err != nil {
		t.Errorf("a write under way was disturbed: %v", err)
	}
}

// Expiry deletes what lies in one directory by several hands at once.
func TestDeletesAtOnce(t *testing.T) {
	dir := t.TempDir()
	b := file.New(dir)
	for round := range 200 {
		var keys []storage.Key
		for i := range 6 {
			key := storage.Key(fmt.Sprintf("a/b%d/c/%d", round, i))
			if err := b.Put(t.Context(), key, []byte("x"), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
		var all errgroup.Group
		for _, key := range keys {
			all.Go(func() error { return b.Delete(t.Context(), key) })
		}
		if err := all.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty directory stays: %v", err)
	}
}
