package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// readied is a data directory in which every WAL file waits for the archiver, and
// their names in the order of the archiver.
func readied(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir, _ = pgdata(t)
	status := filepath.Join(dir, "pg_wal", "archive_status")
	if err := os.Mkdir(status, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range files(t, filepath.Join(dir, "pg_wal")) {
		write(t, filepath.Join(status, name+".ready"), nil)
		names = append(names, name)
	}
	slices.SortFunc(names, archiveOrder)
	return dir, names
}

func aheadOf(t *testing.T, bucket storage.Bucket, dir string, workers int) *Ahead {
	t.Helper()
	p := pusher(bucket, t.TempDir())
	p.DataDir = dir
	a := NewAhead(*p, workers)
	t.Cleanup(a.Close)
	return a
}

func (a *Ahead) must(t *testing.T, name string, want catalog.PutOutcome) {
	t.Helper()
	if outcome, err := a.Push(t.Context(), filepath.Join(a.dir, name)); err != nil || outcome != want {
		t.Fatalf("%s: %q, %v; want %q", name, outcome, err, want)
	}
	ready := filepath.Join(a.dir, "archive_status", name+".ready")
	_ = os.Rename(ready, strings.TrimSuffix(ready, "ready")+"done") // once
}

// eventually waits for what goes on by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never seen: ", what)
		}
	}
}

// quiet tells whether nothing runs ahead and nothing is about to.
func (a *Ahead) quiet() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running == 0 && !a.looking && a.bytes == 0
}

func stored(bucket storage.Bucket) (names []string) {
	for o := range bucket.List(context.Background(), "", "") {
		if strings.Contains(string(o.Key), "/wal/") {
			names = append(names, filepath.Base(string(o.Key)))
		}
	}
	return names
}

// After the first push everything that waits is stored before it is asked for, and
// then asked of nobody.
func TestAhead(t *testing.T) {
	dir, names := readied(t)
	bucket := faulty.New(mem.New(), nil)
	a := aheadOf(t, bucket, dir, 4)
	if names[0] != "00000002.history" {
		t.Fatal(names)
	}
	a.must(t, names[0], catalog.Stored)
	eventually(t, "everything stored", func() bool { return len(stored(bucket)) == len(names) && a.quiet() })
	asked := len(bucket.Calls())
	for _, name := range names {
		a.must(t, name, catalog.Already)
	}
	for range 2 { // PostgreSQL asks again for what it was answered before it could note it
		a.must(t, names[3], catalog.Already)
	}
	if calls := bucket.Calls()[asked:]; len(slices.DeleteFunc(calls, func(c string) bool { return strings.HasPrefix(c, "list ") })) > 0 || int(a.Hits()) != len(names)+2 {
		t.Errorf("%d hits, and the store was asked %q", a.Hits(), calls)
	}
}

// A segment is recycled under a name that it had before: what is remembered is the
// file, not its name (R12).
func TestAheadRecycled(t *testing.T) {
	for how, recycle := range map[string]func(t *testing.T, path string, b []byte){
		"in place": write,
		"renamed": func(t *testing.T, path string, b []byte) {
			write(t, path+".new", b)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		dir, names := readied(t)
		bucket := faulty.New(mem.New(), nil)
		a := aheadOf(t, bucket, dir, 0)
		path := filepath.Join(a.dir, names[1])
		old, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		a.must(t, names[1], catalog.Stored)
		a.must(t, names[1], catalog.Already)
		if a.Hits() != 1 {
			t.Fatal(a.Hits())
		}
		b := read(t, path)
		b[9000] ^= 1
		recycle(t, path, b)
		if err := os.Chtimes(path, old.ModTime(), old.ModTime()); err != nil {
			t.Fatal(err)
		}
		_, err = a.Push(t.Context(), path)
		if _, conflict := errors.AsType[*catalog.ConflictError](err); !conflict || a.Hits() != 1 {
			t.Errorf("%s: other content under a known name: %v, %d hits", how, err, a.Hits())
		}
	}
}

// A file that changes while it is pushed is not remembered.
func TestAheadChanging(t *testing.T) {
	dir, names := readied(t)
	path := filepath.Join(dir, "pg_wal", names[1])
	touched := false
	bucket := faulty.New(mem.New(), func(c faulty.Call) (f faulty.Fault) {
		if strings.HasSuffix(string(c.Key), names[1]) && !touched {
			touched = true
			before, _ := identify(path)
			began := time.Now()
			for now := before; now == before && time.Since(began) < time.Minute; now, _ = identify(path) { // the kernel's clock of files ticks some hundred times a second
				write(t, path, read(t, path))
			}
		}
		return f
	})
	a := aheadOf(t, bucket, dir, 0)
	a.must(t, names[1], catalog.Stored)
	a.must(t, names[1], catalog.Already)
	if a.Hits() != 0 {
		t.Error("remembered")
	}
}

// Another life of the server, or another system, begins with nothing remembered (R12).
func TestAheadLife(t *testing.T) {
	dir, names := readied(t)
	bucket := faulty.New(mem.New(), nil)
	a := aheadOf(t, bucket, dir, 0)
	pid := filepath.Join(dir, "postmaster.pid")
	for i, change := range []func(){
		func() {},
		func() { write(t, pid, []byte("1")) },
		func() { write(t, pid, []byte("2")) },
		func() {
			if err := os.Remove(pid); err != nil {
				t.Fatal(err)
			}
		},
	} {
		change()
		before, puts := a.Hits(), len(bucket.Calls())
		if _, err := a.Push(t.Context(), filepath.Join(a.dir, names[0])); err != nil || a.Hits() != before || len(bucket.Calls()) == puts {
			t.Fatalf("change %d: %v, %d hits", i, err, a.Hits()-before)
		}
		a.must(t, names[0], catalog.Already)
		if a.Hits() != before+1 {
			t.Fatalf("change %d: nothing is remembered", i)
		}
	}
	d := durable{of: life{system: 1}}
	d.add(identity{name: "x"}, true)
	if d.in(life{system: 1}); len(d.known) != 1 {
		t.Error("forgotten without a reason")
	}
	if d.in(life{system: 2}); len(d.known) != 0 {
		t.Error("another system")
	}
	for i := range 3 * durableMost {
		d.add(identity{name: fmt.Sprint(i)}, true)
		d.add(identity{name: fmt.Sprint(i)}, true)
	}
	if len(d.known) != durableMost || len(d.order) != durableMost || !d.known[identity{name: fmt.Sprint(3*durableMost - 1)}] {
		t.Errorf("%d of %d remembered", len(d.known), len(d.order))
	}
}

// many makes a pg_wal with n files that wait, all as cheap as histories can be.
func many(t *testing.T, n int) (dir string, names []string) {
	t.Helper()
	dir, _ = pgdata(t)
	for i := range n {
		name := fmt.Sprintf("%08X.history", i+2)
		names = append(names, name)
		write(t, filepath.Join(dir, "pg_wal", name), fmt.Appendf(nil, "%d\t0/5000100\tbecause\n", i+1))
	}
	status := filepath.Join(dir, "pg_wal", "archive_status")
	if err := os.Mkdir(status, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		write(t, filepath.Join(status, name+".ready"), nil)
	}
	return dir, names
}

// The workers keep within their number and their window, which moves with PostgreSQL.
func TestAheadWindow(t *testing.T) {
	dir, names := many(t, 300)
	var mu sync.Mutex
	pushing, most := 0, 0
	bucket := around{mem.New(), func(put func() error) error {
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			pushing += n
			most = max(most, pushing)
		}
		count(1)
		defer count(-1)
		time.Sleep(time.Millisecond)
		return put()
	}}
	a := aheadOf(t, bucket, dir, 3)
	a.must(t, names[0], catalog.Stored)
	for i, name := range names[1:] {
		eventually(t, "quiet", a.quiet)
		if n := len(stored(bucket)); n > i+1+3*windowFiles || n < min(i+2, len(names)) || i == 0 && n != 1+3*windowFiles {
			t.Fatalf("%d stored when %d were asked for", n, i+1)
		}
		a.must(t, name, catalog.Already)
	}
	if most < 2 || most > 3 || int(a.Hits()) != len(names)-1 {
		t.Errorf("%d at once, %d hits", most, a.Hits())
	}
}

// One that is waited for never has to wait for those ahead of it: here they hang.
func TestAheadHanging(t *testing.T) {
	dir, names := many(t, 30)
	puts := 0
	bucket := faulty.New(mem.New(), func(call faulty.Call) (f faulty.Fault) {
		if call.Op == "put" && strings.HasSuffix(string(call.Key), ".history") {
			if puts++; puts > 1 && !strings.HasSuffix(string(call.Key), names[20]) {
				f.Delay = time.Hour
			}
		}
		return f
	})
	a := aheadOf(t, bucket, dir, 4)
	a.must(t, names[0], catalog.Stored)
	eventually(t, "four hang", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.running == 4 })
	a.must(t, names[20], catalog.Stored)
	if a.mu.Lock(); a.running != 4 {
		t.Error("the answer waited for what hangs")
	}
	a.mu.Unlock()
}

// The memory of all pushes is bounded, that of one that is waited for included; where
// segments are so large that only one has room, that is this one.
func TestAheadMemory(t *testing.T) {
	for _, c := range []struct{ limit, most int64 }{{32 << 20, 5}, {8 << 20, 5}, {6 << 20, 3}, {4 << 20, 1}, {1, 1}} {
		dir, names := readied(t)
		var a *Ahead
		var mu sync.Mutex
		pushing, most, stored := int64(0), int64(0), 0
		met := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return stored == 0 || most > 1 // nothing is pushed ahead of the first
		}
		a = aheadOf(t, around{mem.New(), func(put func() error) error {
			mu.Lock()
			pushing++
			most = max(most, pushing)
			mu.Unlock()
			a.memory.mu.Lock()
			lent, one := int64(a.memory.lent), room(1<<20)
			a.memory.mu.Unlock()
			if lent > 2 && lent*one > c.limit {
				t.Errorf("%d buffers are lent, of %d bytes, and %d is the limit", lent, one, c.limit)
			}
			for began := time.Now(); c.most > 1 && !met() && time.Since(began) < 20*time.Second; {
				time.Sleep(time.Millisecond) // another has room beside this one
			}
			mu.Lock()
			pushing--
			stored++
			mu.Unlock()
			return put()
		}}, dir, 4)
		a.limit = c.limit
		for _, name := range names {
			if _, err := a.Push(t.Context(), filepath.Join(a.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("limit %d: %d at once, %d hits", c.limit, most, a.Hits())
		if most > c.most || c.most > 1 && most < 2 || c.most == 1 && a.Hits() > 1 {
			t.Errorf("limit %d: %d at once, want %d; %d hits", c.limit, most, c.most, a.Hits())
		}
	}
}

// around is a bucket whose puts of WAL are done by a function.
type around struct {
	storage.Bucket
	put func(put func() error) error
}

func (a around) Put(ctx context.Context, key storage.Key, body []byte, o storage.PutOptions) error {
	put := func() error { return a.Bucket.Put(ctx, key, body, o) }
	if !strings.Contains(string(key), "/wal/") {
		return put()
	}
	return a.put(put)
}

// Whichever call of the store fails, before or after it took effect: what is answered
// with nil can be read back, and what fails ahead of a request is not its answer.
func TestAheadFaults(t *testing.T) {
	dir, names := readied(t)
	names = names[:6]
	for name, plan := range map[string]func(int, error) faulty.Plan{"nth": faulty.Nth, "nth after": faulty.NthAfter, "from": faulty.From} {
		for n := 1; n <= 12; n++ {
			inner := mem.New()
			bucket := faulty.New(inner, plan(n, faulty.ErrInjected))
			a := aheadOf(t, bucket, dir, 3)
			failed := 0
			for _, file := range names {
				if _, err := a.Push(t.Context(), filepath.Join(a.dir, file)); err != nil {
					failed++
					continue
				}
				parsed, _ := postgres.ParseWALFile(file)
				var got bytes.Buffer
				repository := catalog.New(inner, catalog.Location{Scope: "main", System: must(t, dir)}, catalog.Options{})
				if _, err := repository.GetWAL(t.Context(), parsed, &got); err != nil || !bytes.Equal(got.Bytes(), read(t, filepath.Join(a.dir, file))) {
					t.Fatalf("%s %d: %s was acknowledged, and the archive holds %d bytes, %v", name, n, file, got.Len(), err)
				}
			}
			if failed > 1 && name != "from" {
				t.Errorf("%s %d: %d requests failed", name, n, failed)
			}
			a.Close()
		}
	}
}

// A file that may not be stored under its name is refused when it is asked for, each
// time, and is not tried ahead again and again.
func TestAheadConflict(t *testing.T) {
	dir, names := readied(t)
	inner := mem.New()
	if _, err := pusher(inner, "").Push(t.Context(), filepath.Join(dir, "pg_wal", names[2])); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pg_wal", names[2])
	b := read(t, path)
	b[9000] ^= 1
	write(t, path, b)
	bucket := faulty.New(inner, nil)
	a := aheadOf(t, bucket, dir, 1)
	for _, name := range slices.Concat(names[:2], names[3:]) {
		if _, err := a.Push(t.Context(), filepath.Join(a.dir, name)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "quiet", a.quiet)
	}
	puts := func() int {
		return len(slices.DeleteFunc(bucket.Calls(), func(c string) bool {
			return !strings.HasPrefix(c, "put ") || !strings.HasSuffix(c, "/"+names[2]) || strings.Contains(c, "conflict/")
		}))
	}
	if puts() != 1 || int(a.Hits()) != len(names)-2 {
		t.Errorf("tried %d times, %d hits", puts(), a.Hits())
	}
	for i := range 2 {
		_, err := a.Push(t.Context(), path)
		if _, conflict := errors.AsType[*catalog.ConflictError](err); !conflict || puts() != 2+i {
			t.Errorf("asked: %v, %d puts", err, puts())
		}
	}
}

// One who asks for a file that is on its way waits for it, and its failure is not his.
func TestAheadOnItsWay(t *testing.T) {
	for _, fails := range []bool{false, true} {
		dir, names := readied(t)
		var puts atomic.Int64
		let := make(chan struct{})
		bucket := faulty.New(mem.New(), nil)
		a := aheadOf(t, around{bucket, func(put func() error) error {
			if puts.Add(1) == 2 { // the first is asked for, and one worker does the others
				<-let
				if fails {
					return faulty.ErrInjected
				}
			}
			return put()
		}}, dir, 1)
		a.must(t, names[0], catalog.Stored)
		eventually(t, "one on its way", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.running == 1 })
		want := map[bool]catalog.PutOutcome{false: catalog.Already, true: catalog.Stored}[fails]
		time.AfterFunc(50*time.Millisecond, func() { close(let) })
		a.must(t, names[1], want)
		a.Close()
		if hits := a.Hits(); hits != map[bool]int64{false: 1}[fails] {
			t.Errorf("fails %t: %d hits", fails, hits)
		}
		if n := strings.Count(strings.Join(bucket.Calls(), "\n"), names[1]); n != 1 {
			t.Errorf("fails %t: stored %d times", fails, n)
		}
	}
}
