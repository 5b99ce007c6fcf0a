package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// large makes the only segment of a data directory one of 64 MiB, of a real header and
// of noise.
func large(t *testing.T) (path string) {
	t.Helper()
	dir, segments := pgdata(t)
	real := read(t, filepath.Join(dir, "pg_wal", segments[0]))
	whole := make([]byte, 64<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(whole); i += 8 {
		binary.LittleEndian.PutUint64(whole[i:], random.Uint64())
	}
	copy(whole, real[:8192])
	binary.LittleEndian.PutUint64(whole[8:], 64<<20) // its position
	binary.LittleEndian.PutUint32(whole[32:], 64<<20)
	path = filepath.Join(dir, "pg_wal", "000000010000000000000001")
	write(t, path, whole)
	return path
}

// once runs something before the first upload begins.
type once struct {
	storage.Bucket
	before func()
}

func (b *once) Begin(ctx context.Context, key storage.Key, o storage.PutOptions) (storage.Upload, error) {
	if b.before != nil {
		b.before()
		b.before = nil
	}
	return b.Bucket.Begin(ctx, key, o)
}

// A large segment goes through in parts, create-once, and is settled by comparing.
func TestPushLarge(t *testing.T) {
	path := large(t)
	store := &once{Bucket: mem.New()}
	bucket := faulty.New(store, nil)
	push := func() (catalog.PutOutcome, error) { return pusher(bucket, t.TempDir()).Push(t.Context(), path) }
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	scribble := func(at int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			b := []byte{0}
			_, err = f.ReadAt(b, at)
			b[0] ^= 1
			_, writeErr := f.WriteAt(b, at)
			err = errors.Join(err, writeErr, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	store.before = func() { scribble(60 << 20) }
	if outcome, err := push(); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Fatalf("of a file that changes meanwhile: %s, %v", outcome, err)
	}
	plain := read(t, path)
	if outcome, err := push(); err != nil || outcome != catalog.Stored {
		t.Fatal(outcome, err)
	}
	before := len(bucket.Calls())
	if outcome, err := push(); err != nil || outcome != catalog.Already {
		t.Fatal(outcome, err)
	}
	for _, call := range bucket.Calls()[before:] {
		if strings.HasPrefix(call, "begin ") || strings.HasPrefix(call, "part ") {
			t.Errorf("what is there is sent again: %s", call)
		}
	}
	file, _ := postgres.ParseWALFile(filepath.Base(path))
	system := postgres.SystemIdentifier(binary.LittleEndian.Uint64(plain[24:]))
	repository := catalog.New(bucket, catalog.Location{Scope: "main", System: system}, catalog.Options{})
	var got bytes.Buffer
	object, err := repository.GetWAL(t.Context(), file, &got)
	if err != nil || !bytes.Equal(got.Bytes(), plain) {
		t.Fatalf("%d bytes come back, %v", got.Len(), err)
	}
	facts, _ := postgres.ScanSegment(file, plain)
	if want := repository.Describe(file, plain, &facts); object.SHA256 != want.SHA256 || object.ValidSHA256 != want.ValidSHA256 || object.Facts.ValidEnd != facts.ValidEnd || !object.Facts.Walked {
		t.Errorf("header %+v, want %+v", object, want)
	}

	scribble(100) // within the WAL
	var conflict *catalog.ConflictError
	if outcome, err := push(); !errors.As(err, &conflict) {
		t.Fatalf("other content: %s, %v", outcome, err)
	}
	kept, err := bucket.Head(t.Context(), conflict.Kept)
	if err != nil || kept.Size < 63<<20 {
		t.Errorf("kept: %+v, %v", kept, err)
	}
}

func TestLargeFileUnchanged(t *testing.T) {
	path := large(t)
	f, err := openLarge(path, 1<<30)
	if err != nil || f == nil {
		t.Fatal(f, err)
	}
	defer f.Close()
	b := make([]byte, 10)
	if _, err := f.ReadAt(b, 60<<20); err != nil {
		t.Fatal(err)
	}
	write(t, path, make([]byte, 64<<20))
	if _, err := f.ReadAt(b, 60<<20); err == nil {
		t.Error("a file that was written is taken for unchanged")
	}
}
