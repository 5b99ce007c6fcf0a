package wal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// outage is a pusher with drop-and-record on a filesystem that counts as full, and a
// store that can be taken away.
type outage struct {
	*Pusher
	t        *testing.T
	dir      string
	segments []string
	store    *mem.Bucket
	calls    *faulty.Bucket
	down     func(faulty.Call) error // nil: the store answers
	said     bytes.Buffer
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	o := &outage{t: t, store: mem.New(), down: faulty.Passing}
	o.dir, o.segments = pgdata(t)
	o.calls = faulty.New(o.store, func(c faulty.Call) (f faulty.Fault) {
		if o.down != nil {
			f.Before = o.down(c)
		}
		return f
	})
	o.Pusher = pusher(o.calls, filepath.Join(t.TempDir(), "state"))
	o.DropBelow, o.Member, o.Log = math.MaxInt64, "n1", slog.New(slog.NewTextHandler(&o.said, nil))
	return o
}

func (o *outage) path(file string) string { return filepath.Join(o.dir, "pg_wal", file) }

// push pushes a file and tells how often the store was asked.
func (o *outage) push(file string) (asked int, outcome catalog.PutOutcome, err error) {
	before := len(o.calls.Calls())
	outcome, err = o.PushOrDrop(o.t.Context(), o.path(file))
	return len(o.calls.Calls()) - before, outcome, err
}

// aged makes the last failure that old.
func (o *outage) aged(age time.Duration) {
	at := time.Now().Add(-age)
	if err := os.Chtimes(filepath.Join(o.State, "archive-push.failed"), at, at); err != nil {
		o.t.Fatal(err)
	}
}

func (o *outage) drops() (names []string) {
	o.t.Helper()
	all, err := Drops(o.State)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, d := range all {
		names = append(names, d.File)
	}
	return names
}

// A file is given up only when the store was asked in vain, and its record says what
// it was; then one push in thirty seconds asks, and the first that succeeds ends it.
func TestDrop(t *testing.T) {
	o := newOutage(t)
	first := o.segments[0]
	if asked, outcome, err := o.push(first); outcome != Dropped || err != nil || asked == 0 {
		t.Fatalf("%s, %v, the store was asked %d times", outcome, err, asked)
	}
	b := read(t, filepath.Join(o.State, "dropped", first))
	var d Drop
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	plain := read(t, o.path(first))
	facts, err := postgres.ScanSegment(postgres.WALFile{Kind: postgres.WALSegment, Segment: segment(t, first)}, plain)
	if err != nil {
		t.Fatal(err)
	}
	want := Drop{File: first, System: must(t, o.dir), Size: len(plain), SHA256: fmt.Sprintf("%x", sha256.Sum256(plain)),
		MinTime: facts.MinTime, MaxTime: facts.MaxTime, At: d.At, Member: "n1"}
	if d != want || time.Since(d.At).Abs() > time.Minute {
		t.Errorf("recorded %+v, want %+v", d, want)
	}
	if said := o.said.String(); !strings.Contains(said, "level=ERROR msg=\"ALARM: pg_wal is nearly full") || !strings.Contains(said, "file="+first) {
		t.Error(said)
	}
	if asked, outcome, err := o.push(o.segments[1]); outcome != Dropped || err != nil || asked != 0 {
		t.Errorf("right after: %s, %v, the store was asked %d times", outcome, err, asked)
	}
	o.aged(dropEvery)
	if asked, outcome, err := o.push(o.segments[2]); outcome != Dropped || err != nil || asked == 0 {
		t.Errorf("later: %s, %v, the store was asked %d times", outcome, err, asked)
	}
	if asked, outcome, err := o.push(first); outcome != Dropped || err != nil || asked == 0 {
		t.Errorf("asked again for a dropped file: %s, %v, the store was asked %d times", outcome, err, asked)
	}
	if got := o.drops(); len(got) != 3 {
		t.Errorf("recorded are %v", got)
	}
	o.down = nil
	if _, outcome, err := o.push(o.segments[3]); outcome != Dropped || err != nil {
		t.Errorf("less than thirty seconds later: %s, %v", outcome, err)
	}
	if _, outcome, err := o.push(first); outcome != catalog.Stored || err != nil {
		t.Errorf("a dropped file, the store is back: %s, %v", outcome, err)
	}
	if _, outcome, err := o.push(o.segments[4]); outcome != catalog.Stored || err != nil {
		t.Errorf("the next file: %s, %v", outcome, err)
	}
	if got := o.drops(); len(got) != 3 {
		t.Errorf("recorded are %v", got)
	}
}

func segment(t *testing.T, name string) postgres.Segment {
	t.Helper()
	f, err := postgres.ParseWALFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return f.Segment
}

// Whatever else is wrong, PostgreSQL keeps the file.
func TestDropsNothing(t *testing.T) {
	denied := func(c faulty.Call) error { return &storage.Error{Op: c.Op, Key: c.Key, Err: storage.ErrDenied} }
	for name, change := range map[string]func(o *outage) (file string){
		"stop":        func(o *outage) string { o.DropBelow = 0; return o.segments[0] },
		"room enough": func(o *outage) string { o.DropBelow = 1; return o.segments[0] },
		"no state":    func(o *outage) string { o.State = ""; return o.segments[0] },
		"denied":      func(o *outage) string { o.down = denied; return o.segments[0] },
		"no bucket": func(o *outage) string {
			o.down = func(faulty.Call) error { return storage.ErrNoBucket }
			return o.segments[0]
		},
		"not a WAL file": func(o *outage) string {
			write(o.t, o.path("RECOVERYXLOG"), read(o.t, o.path(o.segments[0])))
			return "RECOVERYXLOG"
		},
		"missing":           func(*outage) string { return "0000000100000000000000FF" },
		"corrupt":           func(o *outage) string { write(o.t, o.path(o.segments[0]), make([]byte, 1<<20)); return o.segments[0] },
		"of another server": func(o *outage) string { return o.foreign(o.segments[0]) },
		"a restored copy":   func(o *outage) string { return o.restored(o.segments[0]) },
		"conflict":          func(o *outage) string { return o.conflicting(o.segments[0]) },
		"no room for the record": func(o *outage) string {
			if err := os.MkdirAll(o.State, 0o700); err != nil {
				o.t.Fatal(err)
			}
			write(o.t, filepath.Join(o.State, "dropped"), nil)
			return o.segments[0]
		},
	} {
		for _, lately := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, failed lately %v", name, lately), func(t *testing.T) {
				o := newOutage(t)
				file := change(o)
				if lately && o.State != "" {
					setNote(filepath.Join(o.State, "archive-push.failed"), true)
					if name == "denied" || name == "no bucket" || name == "conflict" {
						o.aged(dropEvery) // the one that asks
					}
				}
				if _, outcome, err := o.push(file); err == nil || outcome == Dropped {
					t.Errorf("%q, %v", outcome, err)
				}
				if all, _ := Drops(o.State); len(all) > 0 {
					t.Errorf("recorded are %+v", all)
				}
			})
		}
	}
}

func (o *outage) foreign(file string) string {
	b := read(o.t, o.path(file))
	b[24] ^= 1
	write(o.t, o.path(file), b)
	return file
}

func (o *outage) restored(file string) string {
	b, _ := json.Marshal(catalog.Origin{Format: 1, Scope: "main", System: must(o.t, o.dir)})
	write(o.t, filepath.Join(o.dir, catalog.OriginFile), b)
	return file
}

// conflicting stores other content under the name, in a store that answers.
func (o *outage) conflicting(file string) string {
	o.down = nil
	if _, err := pusher(o.store, "").Push(o.t.Context(), o.path(file)); err != nil {
		o.t.Fatal(err)
	}
	b := read(o.t, o.path(file))
	b[60] ^= 1
	write(o.t, o.path(file), b)
	return file
}

// What holds no WAL of its own must not hold up what does.
func TestDropOthers(t *testing.T) {
	o := newOutage(t)
	partial, backup := o.segments[0]+".partial", o.segments[0]+".00000028.backup"
	write(t, o.path(partial), read(t, o.path(o.segments[0])))
	write(t, o.path(backup), []byte("START WAL LOCATION\n"))
	write(t, o.path("00000002.history"), []byte("1\t0/3000000\tno recovery target specified\n"))
	for _, file := range []string{partial, backup, "00000002.history"} {
		if _, outcome, err := o.push(file); outcome != Dropped || err != nil {
			t.Errorf("%s: %s, %v", file, outcome, err)
		}
	}
}

// Who is ended in the middle gives nothing up, and a store in a black hole costs a
// full push once, and ten seconds afterwards.
func TestDropWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.Bucket = slow{o.store, 0}
		ended, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		if outcome, err := o.PushOrDrop(ended, o.path(o.segments[0])); err == nil || len(o.drops()) > 0 {
			t.Errorf("ended: %s, %v", outcome, err)
		}
		begin := time.Now()
		took := func(i int, want time.Duration) {
			t.Helper()
			if outcome, err := o.PushOrDrop(t.Context(), o.path(o.segments[i])); outcome != Dropped || err != nil {
				t.Errorf("%s, %v", outcome, err)
			}
			if got := time.Since(begin); got != want {
				t.Errorf("segment %d took %s, want %s", i, got, want)
			}
			begin = time.Now()
		}
		at := func(age time.Duration) { // the filesystem's clock is real, ours is not
			when := time.Now().Add(-age)
			if err := os.Chtimes(filepath.Join(o.State, "archive-push.failed"), when, when); err != nil {
				t.Fatal(err)
			}
		}
		took(0, DefaultPushTimeout)
		at(0)
		took(1, 0)
		at(time.Minute)
		took(2, dropTimeout)
		at(dropLately)
		took(3, DefaultPushTimeout)
	})
}

// A record that cannot be read is not silently none.
func TestDropsUnreadable(t *testing.T) {
	o := newOutage(t)
	for _, file := range o.segments[:2] {
		if _, _, err := o.push(file); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(o.State, "dropped", "."+o.segments[2]+".tmp-1"), nil)
	write(t, filepath.Join(o.State, "dropped", o.segments[0]), []byte("{"))
	all, err := Drops(o.State)
	if err == nil || len(all) != 1 || all[0].File != o.segments[1] {
		t.Errorf("%v, %v", all, err)
	}
	if err := all[0].Forget(o.State); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(o.State, "dropped", o.segments[0]), []byte(`{"file": "`+o.segments[1]+`"}`))
	if all, err := Drops(o.State); err == nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := Drops(t.TempDir()); err != nil || len(all) != 0 {
		t.Errorf("without any: %v, %v", all, err)
	}
	if all, err := Drops("/proc/self/exe"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v", all, err)
	}
}

// Ahead gives up what is asked for and nothing else, and does not take it for stored.
func TestAheadDrops(t *testing.T) {
	o := newOutage(t)
	o.down = nil
	dir, names := readied(t)
	o.dir, o.DataDir = dir, dir
	names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, ".") })
	a := NewAhead(*o.Pusher, 2)
	t.Cleanup(a.Close)
	var down atomic.Bool
	o.down = func(c faulty.Call) error {
		if down.Load() {
			return faulty.Passing(c)
		}
		return nil
	}
	a.must(t, names[0], catalog.Stored)
	eventually(t, "all pushed ahead", func() bool { return a.quiet() })
	down.Store(true)
	for _, name := range names[len(names)-2:] {
		b := read(t, o.path(name))
		write(t, o.path(name), b) // another file, by its times
		a.must(t, name, Dropped)
	}
	eventually(t, "rest", func() bool { return a.quiet() })
	if got := o.drops(); !slices.Equal(got, names[len(names)-2:]) {
		t.Errorf("recorded are %v, asked for was %v", got, names[len(names)-2:])
	}
	down.Store(false)
	o.aged(dropEvery)
	a.must(t, names[len(names)-1], catalog.Already) // pushed ahead before it changed
	if got := o.drops(); len(got) != 1 || a.Hits() > 0 {
		t.Errorf("recorded are %v, %d from memory", got, a.Hits())
	}
}
