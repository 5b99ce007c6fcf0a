package wal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// A warm push is one request.
func TestPushCalls(t *testing.T) {
	dir, segments := pgdata(t)
	bucket, state := faulty.New(mem.New(), nil), t.TempDir()
	for i, segment := range segments[:3] {
		before := len(bucket.Calls())
		outcome, err := pusher(bucket, state).Push(t.Context(), filepath.Join(dir, "pg_wal", segment))
		if err != nil || outcome != catalog.Stored {
			t.Fatal(outcome, err)
		}
		calls := bucket.Calls()[before:]
		if i > 0 && (len(calls) != 1 || !strings.HasPrefix(calls[0], "put ") || !strings.HasSuffix(calls[0], "/00000000/"+segment)) {
			t.Errorf("warm push of %s: %q", segment, calls)
		}
	}
	if outcome, err := pusher(bucket, state).Push(t.Context(), filepath.Join(dir, "pg_wal", segments[0])); err != nil || outcome != catalog.Already {
		t.Errorf("pushed again: %s, %v", outcome, err)
	}
	if outcome, err := pusher(bucket, state).Push(t.Context(), filepath.Join(dir, "pg_wal", "00000002.history")); err != nil || outcome != catalog.Stored {
		t.Errorf("history: %s, %v", outcome, err)
	}
}

// Whichever call fails, before or after it took effect: an acknowledged file can be
// read back, and the next push of it succeeds.
func TestPushFaults(t *testing.T) {
	dir, segments := pgdata(t)
	control, err := ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pg_wal", segments[0])
	plain := read(t, path)
	file, _ := postgres.ParseWALFile(segments[0])
	for name, plan := range map[string]func(int, error) faulty.Plan{"nth": faulty.Nth, "nth after": faulty.NthAfter, "from": faulty.From} {
		for n := 1; ; n++ {
			inner := mem.New()
			bucket := faulty.New(inner, plan(n, faulty.ErrInjected))
			_, err := pusher(bucket, "").Push(t.Context(), path)
			acknowledged := err == nil
			if acknowledged && len(bucket.Calls()) < n {
				break // the fault was never met
			}
			repository := catalog.New(inner, catalog.Location{Scope: "main", System: control.System}, catalog.Options{})
			check := func(when string) {
				t.Helper()
				var got bytes.Buffer
				if _, err := repository.GetWAL(t.Context(), file, &got); err != nil || !bytes.Equal(got.Bytes(), plain) {
					t.Fatalf("%s %d, %s: the archive holds %d bytes, %v", name, n, when, got.Len(), err)
				}
			}
			if acknowledged {
				check("acknowledged")
			}
			if _, err := pusher(inner, "").Push(t.Context(), path); err != nil {
				t.Fatalf("%s %d: the next push: %v", name, n, err)
			}
			check("after the next push")
			if n > 50 {
				t.Fatal("no end")
			}
		}
	}
}

func TestPushRefuses(t *testing.T) {
	dir, segments := pgdata(t)
	good := read(t, filepath.Join(dir, "pg_wal", segments[0]))
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, c := range map[string]struct {
		file string
		body []byte
		want string
	}{
		"empty":         {segments[0], nil, "want 40"},
		"short":         {segments[0], good[:len(good)/2], "not whole"},
		"long":          {segments[0], append(bytes.Clone(good), 0), "not whole"},
		"zeros":         {segments[0], make([]byte, len(good)), "magic"},
		"wrong magic":   {segments[0], change(0, 0x99), "magic"},
		"renamed":       {segments[1], good, "its name says"},
		"late timeline": {segments[0], change(4, 9), "later timeline"},
		"no name":       {"RECOVERYXLOG", good, "want a segment"},
		"foreign":       {segments[0], change(24, good[24]^1), "comes from system"},
		"empty history": {"00000003.history", nil, "empty"},
	} {
		path := filepath.Join(dir, "pg_wal", c.file)
		write(t, path, c.body)
		bucket := faulty.New(mem.New(), nil)
		_, err := pusher(bucket, "").Push(t.Context(), path)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if calls := bucket.Calls(); len(calls) > 0 {
			t.Errorf("%s: the store was asked %q", name, calls)
		}
		write(t, filepath.Join(dir, "pg_wal", segments[0]), good)
	}
	_, err := pusher(mem.New(), "").Push(t.Context(), filepath.Join(dir, "pg_wal", "missing", segments[0]))
	if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// What PostgreSQL hands over is archived even if it cannot be walked (R2).
func TestPushUnreadable(t *testing.T) {
	dir, segments := pgdata(t)
	path := filepath.Join(dir, "pg_wal", segments[0])
	b := read(t, path)
	copy(b[8192:], bytes.Repeat([]byte{0xEE}, 8192))
	write(t, path, b)
	var said bytes.Buffer
	p := pusher(mem.New(), "")
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	if outcome, err := p.Push(t.Context(), path); err != nil || outcome != catalog.Stored || !strings.Contains(said.String(), "cannot be read to its end") {
		t.Errorf("%s, %v, said %q", outcome, err, said.String())
	}
}

func TestPushFromRestoredCopy(t *testing.T) {
	dir, segments := pgdata(t)
	control, err := ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pg_wal", segments[0])
	name := filepath.Join(dir, catalog.OriginFile)
	b, _ := json.Marshal(catalog.Origin{Format: 1, Scope: "main", System: control.System})
	write(t, name, b)
	_, err = pusher(mem.New(), "").Push(t.Context(), path)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(refused.Hint(), "rm "+name) {
		t.Errorf("from a restored copy: %v", err)
	}
	write(t, name, []byte("not json"))
	if _, err := pusher(mem.New(), "").Push(t.Context(), path); err == nil {
		t.Error("an unreadable origin was taken for none")
	}
	write(t, name, b)
	other := pusher(mem.New(), "")
	other.Scope = "copy"
	if _, err := other.Push(t.Context(), path); err != nil {
		t.Errorf("into another archive: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := pusher(mem.New(), "").Push(t.Context(), path); err != nil {
		t.Errorf("released: %v", err)
	}
}

// A store without create-once writes is refused at the first push, and only then asked.
func TestPushProbes(t *testing.T) {
	dir, segments := pgdata(t)
	bucket, state, probed := mem.New(), t.TempDir(), 0
	var no error = errors.New("cannot")
	push := func(i int, emulate bool) error {
		p := pusher(bucket, state)
		p.Emulate, p.Probe = emulate, func(context.Context) error { probed++; return no }
		_, err := p.Push(t.Context(), filepath.Join(dir, "pg_wal", segments[i]))
		return err
	}
	if err := push(0, false); !errors.Is(err, no) || probed != 1 {
		t.Errorf("%v after %d probes", err, probed)
	}
	no = nil
	if err := push(0, false); err != nil || probed != 2 {
		t.Errorf("%v after %d probes", err, probed)
	}
	if err := push(1, false); err != nil || probed != 2 {
		t.Errorf("%v after %d probes", err, probed)
	}
	bucket, state = mem.New(), t.TempDir()
	if err := push(0, true); err != nil || probed != 2 {
		t.Errorf("emulate: %v after %d probes", err, probed)
	}
}

// A second system identifier under one scope is archived, with an alarm (R8).
func TestPushAlarm(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	older := catalog.New(bucket, catalog.Location{Scope: "main", System: 42}, catalog.Options{})
	if _, err := older.Create(t.Context(), postgres.DefaultSegmentSize, "required", time.Now()); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	p := pusher(bucket, "")
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	path := filepath.Join(dir, "pg_wal", segments[0])
	if _, err := p.Push(t.Context(), path); err != nil || !strings.Contains(said.String(), "ALARM") || !strings.Contains(said.String(), "others=[42]") {
		t.Errorf("%v, said %q", err, said.String())
	}
	// But two first pushes of one system at a time are none.
	said.Reset()
	p.Bucket = &overtaken{Bucket: mem.New(), by: func(b storage.Bucket) {
		if _, err := pusher(b, "").Push(t.Context(), path); err != nil {
			t.Error(err)
		}
	}}
	if _, err := p.Push(t.Context(), path); err != nil || said.Len() > 0 {
		t.Errorf("overtaken: %v, said %q", err, said.String())
	}
}

// A repository that was there and is gone is not made anew: the disk behind its
// path may only be unmounted, and what is archived beside it is lost to a restore.
func TestPushRepositoryGone(t *testing.T) {
	dir, segments := pgdata(t)
	p := pusher(mem.New(), t.TempDir())
	p.AskAlways = true
	push := func(i int) error {
		_, err := p.Push(t.Context(), filepath.Join(dir, "pg_wal", segments[i]))
		return err
	}
	if err := push(0); err != nil {
		t.Fatal(err)
	}
	empty := mem.New()
	p.Bucket = empty
	err := push(1)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(refused.Hint(), "remove "+p.State) {
		t.Errorf("got %v", err)
	}
	for object := range empty.List(t.Context(), "", "") {
		t.Errorf("stored %s", object.Key)
	}
	// An hour later a store that is not asked always is asked again.
	p.AskAlways, p.Now = false, func() time.Time { return time.Now().Add(2 * noteAge) }
	if _, ok := errors.AsType[*RefusedError](push(1)); !ok {
		t.Error("an old note lets a new repository be made")
	}
}

// A bit that turned in repository.json stops neither the archiver of a member that has
// archived there before, nor the end of a recovery.
func TestRepositoryDocumentDamaged(t *testing.T) {
	dir, segments := pgdata(t)
	p := pusher(mem.New(), t.TempDir())
	p.AskAlways = true
	push := func(i int) error {
		_, err := p.Push(t.Context(), filepath.Join(dir, "pg_wal", segments[i]))
		return err
	}
	if err := push(0); err != nil {
		t.Fatal(err)
	}
	key := keyOf(t, p.Bucket, "/repository.json")
	body, err := storage.ReadAll(t.Context(), p.Bucket, key, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	body[bytes.Index(body, []byte(`"created"`))+1] ^= 1
	if err := errors.Join(p.Bucket.Delete(t.Context(), key), p.Bucket.Put(t.Context(), key, body, storage.PutOptions{})); err != nil {
		t.Fatal(err)
	}
	if err := push(1); err != nil {
		t.Errorf("archiving stops: %v", err)
	}
	err = getter(p.Bucket, dir, hook.Rewind).Get(t.Context(), "0000000100000000000000FF", filepath.Join(t.TempDir(), "dest"))
	if _, absent := errors.AsType[*AbsentError](err); !absent {
		t.Errorf("recovery does not end: %v", err)
	}
	p.State = t.TempDir()
	if err := push(2); !errors.Is(err, codec.ErrCorrupt) {
		t.Errorf("who has archived nothing there yet believes it: %v", err)
	}
	// A leader that never archived finds the segment size in a backup.
	sum := strings.Repeat("0", 64)
	m := catalog.Manifest{Format: 1, ID: "20261128T120000Z-manual-0123", Run: "0123abcd", Type: catalog.Full, System: must(t, dir), SegmentSize: 1 << 20,
		Timeline: 1, StopTLI: 1, StartLSN: 1, StopLSN: 2, Codec: codec.Zstd, Packs: []catalog.PackInfo{{Name: "base-0001.tar", SHA256: sum}},
		Index: catalog.Document{SHA256: sum}, BackupManifest: catalog.Document{SHA256: sum}}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	at := storage.Key(strings.TrimSuffix(string(key), "repository.json") + "backup/" + string(m.ID) + "/manifest.json")
	if err := p.Bucket.Put(t.Context(), at, text, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := push(2); err != nil {
		t.Errorf("with a backup: %v", err)
	}
}

// overtaken lets another go first, right after it said for the first time that there is no repository.
type overtaken struct {
	storage.Bucket
	by func(storage.Bucket)
}

func (o *overtaken) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	body, err := o.Bucket.Get(ctx, key, span)
	if by := o.by; errors.Is(err, storage.ErrNotExist) && by != nil {
		o.by = nil
		by(o.Bucket)
	}
	return body, err
}

// A push ends a minute after the last byte moved, and not before (R12).
func TestPushStalls(t *testing.T) {
	dir, segments := pgdata(t)
	for _, bytesFor := range []time.Duration{0, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			_, err := pusher(slow{mem.New(), bytesFor}, "").Push(t.Context(), filepath.Join(dir, "pg_wal", segments[0]))
			if _, ok := errors.AsType[*StalledError](err); !ok {
				t.Error(err)
			}
			if took := time.Since(begin); took < bytesFor+time.Minute || took > bytesFor+time.Minute+30*time.Second {
				t.Errorf("gave up after %s", took)
			}
		})
	}
}

// slow moves a byte every thirty seconds for a while, and then nothing.
type slow struct {
	storage.Bucket
	moving time.Duration
}

func (s slow) Put(ctx context.Context, key storage.Key, body []byte, o storage.PutOptions) error {
	if !strings.Contains(string(key), "/wal/") {
		return s.Bucket.Put(ctx, key, body, o)
	}
	for moved := time.Duration(0); moved < s.moving && ctx.Err() == nil; moved += 30 * time.Second {
		time.Sleep(30 * time.Second)
		storage.Progress(ctx)(1)
	}
	<-ctx.Done()
	return fmt.Errorf("put: %w", ctx.Err())
}
