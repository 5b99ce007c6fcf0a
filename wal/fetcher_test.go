package wal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

func fetcherOf(t *testing.T, bucket storage.Bucket, dir string) *Fetcher {
	t.Helper()
	g := getter(bucket, dir, hook.Rewind)
	g.Spool, g.State, g.Batch, g.Timeouts = t.TempDir(), t.TempDir(), 4, Timeouts{}
	return NewFetcher(*g)
}

// still tells whether nothing is on its way.
func (f *Fetcher) still() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.jobs) == 0
}

func gets(calls []string) []string {
	return slices.DeleteFunc(calls, func(c string) bool { return !strings.HasPrefix(c, "get ") })
}

// Recovery asks for one segment after the other, and the next ones are there.
func TestFetcher(t *testing.T) {
	dir, segments := pgdata(t)
	inner := mem.New()
	archive(t, inner, dir)
	bucket := faulty.New(inner, nil)
	f := fetcherOf(t, bucket, dir)
	defer f.Close()
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	for i, segment := range segments {
		asked := len(gets(bucket.Calls()))
		if err := fetched(t, f, segment, dest, hook.Recovery); err != nil {
			t.Fatal(segment, err)
		}
		if !bytes.Equal(read(t, dest), read(t, filepath.Join(dir, "pg_wal", segment))) {
			t.Errorf("%s differs", segment)
		}
		if int(f.Hits()) != i {
			t.Fatalf("%s: %d hits, and the store was asked %q", segment, f.Hits(), gets(bucket.Calls())[asked:])
		}
		eventually(t, "the window filled", f.still)
		if left := files(t, f.getter.Spool); len(left) != min(3, len(segments)-1-i) || slices.Contains(left, segment) {
			t.Errorf("behind %s there are %v", segment, left)
		}
	}
	// Each segment was asked for once, and twice what is not there.
	calls := gets(bucket.Calls())
	slices.Sort(calls)
	if n := len(slices.Compact(slices.Clone(calls))); n < len(segments) || len(calls) > n+3 {
		t.Errorf("the store was asked for %d segments %d times: %q", n, len(calls), calls)
	}
	if again := len(bucket.Calls()); !f.still() || len(bucket.Calls()) != again {
		t.Error("the end of the archive is asked for again and again")
	}
}

// A segment on its way is waited for, not fetched twice.
func TestFetcherOnItsWay(t *testing.T) {
	dir, segments := pgdata(t)
	inner := mem.New()
	archive(t, inner, dir)
	bucket := faulty.New(inner, func(c faulty.Call) (f faulty.Fault) {
		if strings.HasSuffix(string(c.Key), segments[1]) {
			f.Delay = 300 * time.Millisecond
		}
		return f
	})
	f := fetcherOf(t, bucket, dir)
	defer f.Close()
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	for _, segment := range segments[:2] {
		if err := fetched(t, f, segment, dest, hook.Recovery); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(strings.Join(bucket.Calls(), "\n"), "/"+segments[1]); n != 1 || f.Hits() != 1 {
		t.Errorf("%d requests, %d hits", n, f.Hits())
	}
}

// Another timeline, or a jump, drops what was fetched; others than recovery have nothing fetched ahead.
func TestFetcherJumps(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	archive(t, bucket, dir)
	f := fetcherOf(t, bucket, dir)
	dest := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	spooled := func(segment, dest string) []string {
		t.Helper()
		if err := fetched(t, f, segment, dest, hook.Standby); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the window filled", f.still)
		return files(t, f.getter.Spool)
	}
	if got := spooled(segments[0], filepath.Join(t.TempDir(), segments[0])); len(got) > 0 {
		t.Errorf("for pg_rewind: %v", got)
	}
	if got := spooled(segments[0], dest); !slices.Equal(got, segments[1:4]) {
		t.Errorf("behind the first: %v", got)
	}
	if got := spooled(segments[3], dest); !slices.Equal(got, segments[4:min(7, len(segments))]) {
		t.Errorf("behind a jump: %v", got)
	}
	if got := spooled(segments[1], dest); !slices.Equal(got, segments[2:5]) {
		t.Errorf("behind a jump back: %v", got)
	}
	for _, name := range spooled("00000002000000000000000D", dest) {
		if !strings.HasPrefix(name, "00000002") {
			t.Errorf("on another timeline: %s", name)
		}
	}
	f.Close()
	if left := files(t, f.getter.Spool); len(left) > 0 {
		t.Errorf("closed: %v", left)
	}
}

// Whatever is asked for, and whichever call fails: the answer is that of a Getter.
func TestFetcherAnswers(t *testing.T) {
	dir, segments := pgdata(t)
	inner := mem.New()
	archive(t, inner, dir)
	gone := keyOf(t, inner, "/"+segments[3])
	if err := inner.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	kind := func(err error) string {
		_, absent := errors.AsType[*AbsentError](err)
		_, gap := errors.AsType[*GapError](err)
		return map[bool]string{true: "there"}[err == nil] + map[bool]string{true: "absent"}[absent] + map[bool]string{true: "gap"}[gap]
	}
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	for n := 0; n < 12; n++ {
		plan := faulty.Nth(n, faulty.ErrInjected)
		f := fetcherOf(t, faulty.New(inner, plan), dir)
		for _, name := range slices.Concat(segments, []string{"00000002.history", "00000003.history", "0000000100000000000000FF", "nonsense"}) {
			err := fetched(t, f, name, dest, hook.Standby)
			want := getter(inner, dir, hook.Standby).Get(t.Context(), name, filepath.Join(t.TempDir(), "RECOVERYXLOG"))
			if kind(err) != kind(want) && (n == 0 || !errors.Is(err, faulty.ErrInjected) || kind(err) != "") {
				t.Errorf("call %d fails: %s: %v, without us %v", n, name, err, want)
			}
			if err == nil && !bytes.Equal(read(t, dest), read(t, filepath.Join(dir, "pg_wal", name))) {
				t.Errorf("call %d fails: %s differs", n, name)
			}
		}
		f.Close()
	}
}

// A segment that hangs on its way takes a standby no longer than one that is asked for
// without us (R11), and what it leaves is dropped when nobody asks any more.
func TestFetcherHangs(t *testing.T) {
	dir, segments := pgdata(t)
	inner := mem.New()
	archive(t, inner, dir)
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	synctest.Test(t, func(t *testing.T) {
		bucket := faulty.New(inner, func(c faulty.Call) (f faulty.Fault) {
			if strings.HasSuffix(string(c.Key), segments[2]) {
				f.Delay = time.Hour
			}
			return f
		})
		f := fetcherOf(t, bucket, dir)
		if err := fetched(t, f, segments[0], dest, hook.Standby); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if left := files(t, f.getter.Spool); len(left) != 3 || f.still() { // one of them unfinished
			t.Errorf("spooled: %v", left)
		}
		begin := time.Now()
		err := fetched(t, f, segments[2], dest, hook.Standby)
		if _, stall := errors.AsType[*StalledError](err); !stall || time.Since(begin) != 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if _, err := os.Stat(f.getter.failureNote()); err != nil {
			t.Error(err)
		}
		time.Sleep(fetcherIdle)
		synctest.Wait()
		if left := files(t, f.getter.Spool); len(left) > 0 || !f.still() {
			t.Errorf("a minute later: %v", left)
		}
		f.Close()
	})
}

// fetched asks as pgha-wal does.
func fetched(t *testing.T, f *Fetcher, name, dest string, mode hook.Mode) error {
	t.Helper()
	_ = os.Remove(dest)
	r := hook.Request{File: name, Path: dest, Mode: mode, Ticket: 7}
	err := f.Get(t.Context(), r)
	if _, there := os.Stat(dest); there == nil {
		t.Errorf("%s is where nobody may wait for it any more", dest)
	}
	if err == nil {
		err = os.Rename(r.Aside(), dest)
	}
	return err
}
