package wal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

func getter(bucket storage.Bucket, dir string, mode hook.Mode) *Getter {
	return &Getter{Bucket: bucket, Identity: "test", Scope: "main", DataDir: dir, Mode: mode,
		Timeouts: Timeouts{Recovery: 300 * time.Millisecond, Standby: 300 * time.Millisecond, Rewind: 300 * time.Millisecond}}
}

// One call brings a batch; the following ones do not ask the store, and nothing is
// left behind.
func TestGetBatch(t *testing.T) {
	dir, segments := pgdata(t)
	inner := mem.New()
	archive(t, inner, dir)
	bucket := faulty.New(inner, nil)
	g := getter(bucket, dir, hook.Recovery)
	g.Spool, g.Timeouts = t.TempDir(), Timeouts{}
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	for i, segment := range segments {
		before := len(bucket.Calls())
		if err := g.Get(t.Context(), segment, dest); err != nil {
			t.Fatal(segment, err)
		}
		if !bytes.Equal(read(t, dest), read(t, filepath.Join(dir, "pg_wal", segment))) {
			t.Errorf("%s differs", segment)
		}
		if calls := bucket.Calls()[before:]; i > 0 && len(calls) > 0 {
			t.Errorf("%s was fetched ahead, but the store was asked %q", segment, calls)
		}
		if err := os.Remove(dest); err != nil {
			t.Fatal(err)
		}
	}
	if left := files(t, g.Spool); len(left) > 0 {
		t.Errorf("the spool keeps %v", left)
	}
}

func files(t *testing.T, root string) (found []string) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, filepath.Base(path))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// Only recovery itself is answered from the spool and fetches ahead.
func TestGetElsewhere(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	archive(t, bucket, dir)
	g := getter(bucket, dir, hook.Rewind)
	g.Spool = t.TempDir()
	dest := filepath.Join(t.TempDir(), segments[0])
	if err := g.Get(t.Context(), segments[0], dest); err != nil {
		t.Fatal(err)
	}
	if left := files(t, g.Spool); len(left) > 0 {
		t.Errorf("fetched ahead: %v", left)
	}
}

// The spool holds what comes next and nothing else: another timeline drops it.
func TestGetSpoolWindow(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	archive(t, bucket, dir)
	g := getter(bucket, dir, hook.Recovery)
	g.Spool, g.Batch, g.Timeouts = t.TempDir(), 3, Timeouts{}
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	if err := g.Get(t.Context(), segments[0], dest); err != nil {
		t.Fatal(err)
	}
	if left := files(t, g.Spool); len(left) != 2 {
		t.Errorf("batch of three: the spool holds %v", left)
	}
	if err := g.Get(t.Context(), "00000002000000000000000D", dest); err != nil {
		t.Fatal(err)
	}
	for _, name := range files(t, g.Spool) {
		if !strings.HasPrefix(name, "00000002") {
			t.Errorf("after the switch of the timeline the spool holds %s", name)
		}
	}
	// A file of the wrong size in it is dropped, not served.
	if err := g.Get(t.Context(), segments[0], dest); err != nil {
		t.Fatal(err)
	}
	spool := (&retrieval{Getter: g, system: must(t, dir), size: 1 << 20}).spoolDir(t)
	write(t, filepath.Join(spool, segments[1]), []byte("torn"))
	if err := g.Get(t.Context(), segments[1], dest); err != nil || !bytes.Equal(read(t, dest), read(t, filepath.Join(dir, "pg_wal", segments[1]))) {
		t.Errorf("a torn file in the spool: %v", err)
	}
}

// Absence is proven or it is trouble (R9).
func TestGetAbsent(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	archive(t, bucket, dir)
	dest := filepath.Join(t.TempDir(), "dest")
	absent := func(name string, bucket storage.Bucket) bool {
		err := getter(bucket, dir, hook.Rewind).Get(t.Context(), name, dest)
		if err == nil {
			t.Fatalf("%s is there", name)
		}
		_, is := errors.AsType[*AbsentError](err)
		return is
	}
	for name, want := range map[string]bool{
		"0000000100000000000000FF":                 true,
		"000000010000000000000001":                 false, // before the first
		"00000002000000000000000F":                 true,
		"000000030000000000000001":                 true,
		"00000003.history":                         true,
		"00000001.history":                         true,
		segments[0] + ".partial":                   false,
		"0000000100000000000000FF.00000028.backup": true,
		"nonsense":                                 false,
	} {
		if got := absent(name, bucket); got != want {
			t.Errorf("%s: absent %v, want %v", name, got, want)
		}
	}
	if absent("000000010000000000000001", mem.New()) {
		t.Error("everything is absent where there is no repository")
	}
	if absent("0000000100000000000000FF", &mem.Bucket{}) {
		t.Error("everything is absent in a missing bucket")
	}
	key := keyOf(t, bucket, "/00000002.history")
	if err := bucket.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if absent("00000002.history", bucket) {
		t.Error("a history is absent although its timeline is there")
	}
	// Whichever call fails, absence is not said.
	for n := 1; ; n++ {
		b := faulty.New(bucket, faulty.From(n, faulty.ErrInjected))
		err := getter(b, dir, hook.Rewind).Get(t.Context(), "0000000100000000000000FF", dest)
		_, is := errors.AsType[*AbsentError](err)
		if is && len(b.Calls()) < n {
			break
		}
		if is || n > 50 {
			t.Fatalf("call %d failed, and the file is called absent: %q", n, b.Calls())
		}
	}
}

func keyOf(t *testing.T, bucket storage.Bucket, suffix string) storage.Key {
	t.Helper()
	for o, err := range bucket.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(string(o.Key), suffix) {
			return o.Key
		}
	}
	t.Fatalf("nothing ends in %s", suffix)
	return ""
}

// What is damaged is never put in place.
func TestGetDamaged(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	archive(t, bucket, dir)
	key, other := keyOf(t, bucket, "/"+segments[1]), keyOf(t, bucket, "/"+segments[2])
	good, err := storage.ReadAll(t.Context(), bucket, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := storage.ReadAll(t.Context(), bucket, other, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 4
	for name, body := range map[string][]byte{"flipped": flipped, "cut": good[:len(good)-1], "empty": {}, "wrong": wrong, "bare": read(t, filepath.Join(dir, "pg_wal", segments[1]))} {
		if err := bucket.Put(t.Context(), key, body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		err := getter(bucket, dir, hook.Recovery).Get(t.Context(), segments[1], filepath.Join(to, "RECOVERYXLOG"))
		if !errors.Is(err, codec.ErrCorrupt) || ExitCode(hook.Recovery, err) != 200 || ExitCode(hook.Standby, err) != 75 {
			t.Errorf("%s: %v", name, err)
		}
		if left := files(t, to); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// Recovery outlives a short outage, and gives up only without progress.
func TestGetRecoveryWaits(t *testing.T) {
	dir, segments := pgdata(t)
	inner := mem.New()
	archive(t, inner, dir)
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		down := faulty.New(inner, func(faulty.Call) (f faulty.Fault) {
			if time.Since(begin) < 14*time.Minute {
				f.Before = faulty.ErrInjected
			}
			return f
		})
		g := getter(down, dir, hook.Recovery)
		g.Timeouts = Timeouts{}
		if err := g.Get(t.Context(), segments[0], dest); err != nil {
			t.Errorf("after an outage of 14 minutes: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		g := getter(faulty.New(inner, faulty.From(1, faulty.ErrInjected)), dir, hook.Recovery)
		g.Timeouts = Timeouts{}
		err := g.Get(t.Context(), segments[0], dest)
		if _, ok := errors.AsType[*StalledError](err); !ok || time.Since(begin) != 15*time.Minute {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
	// A body that breaks at the same place again and again is no progress.
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		cut := faulty.New(inner, func(faulty.Call) faulty.Fault {
			return faulty.Fault{Body: func(r io.ReadCloser) io.ReadCloser { return broken{io.LimitReader(r, 4000), r} }}
		})
		g := getter(cut, dir, hook.Recovery)
		g.Timeouts = Timeouts{}
		if err := g.Get(t.Context(), segments[0], dest); err == nil || time.Since(begin) > 16*time.Minute {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

type broken struct {
	io.Reader
	io.Closer
}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A standby is told within two seconds, and at once while the archive was silent a
// moment ago (R11).
func TestGetStandbyIsQuick(t *testing.T) {
	dir, segments := pgdata(t)
	hole := faulty.New(mem.New(), func(faulty.Call) faulty.Fault { return faulty.Fault{Delay: time.Hour} })
	g := getter(hole, dir, hook.Standby)
	g.State, g.Timeouts = t.TempDir(), Timeouts{}
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	get := func(ctx context.Context) (took time.Duration, err error) {
		begin := time.Now()
		err = g.Get(ctx, segments[0], dest)
		return time.Since(begin), err
	}
	// The note's age is the file's, so the clock of the bubble is not used for it.
	synctest.Test(t, func(t *testing.T) {
		if took, err := get(t.Context()); err == nil || took != 2*time.Second {
			t.Errorf("first: %v after %s", err, took)
		}
	})
	if _, err := os.Stat(g.failureNote()); err != nil {
		t.Fatal(err)
	}
	asked := len(hole.Calls())
	if _, err := get(t.Context()); err == nil || len(hole.Calls()) != asked || ExitCode(hook.Standby, err) != 75 {
		t.Errorf("second: %v after %d more calls", err, len(hole.Calls())-asked)
	}
	old := time.Now().Add(-failureAge)
	if err := os.Chtimes(g.failureNote(), old, old); err != nil {
		t.Fatal(err)
	}
	archived := mem.New()
	archive(t, archived, dir)
	g.Bucket = archived
	if _, err := get(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.failureNote()); err == nil {
		t.Error("the note of a failure outlives a success")
	}
}
