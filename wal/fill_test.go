package wal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

func repository(bucket storage.Bucket, system postgres.SystemIdentifier) *catalog.Repository {
	return catalog.New(bucket, catalog.Location{Scope: "main", System: system}, catalog.Options{})
}

// A member fills a hole with what is walked to its end or to a switch, and with nothing else.
func TestFill(t *testing.T) {
	dir, segments := pgdata(t)
	bucket := mem.New()
	fill := func(name string) (catalog.PutOutcome, error) {
		return pusher(bucket, t.TempDir()).Fill(t.Context(), filepath.Join(dir, "pg_wal", name))
	}
	for _, name := range []string{segments[0], "00000002.history"} {
		if outcome, err := fill(name); outcome != catalog.Stored || err != nil {
			t.Errorf("%s: %s, %v", name, outcome, err)
		}
		if outcome, err := fill(name); outcome != catalog.Already || err != nil {
			t.Errorf("%s again: %s, %v", name, outcome, err)
		}
	}
	// What a server was writing, and a recycled file's tail.
	whole := read(t, filepath.Join(dir, "pg_wal", segments[1]))
	old := read(t, filepath.Join(dir, "pg_wal", segments[0]))
	half := len(whole) / 2
	for what, plain := range map[string][]byte{
		"zeros":      slices.Concat(whole[:half], make([]byte, half)),
		"recycled":   slices.Concat(whole[:half], old[half:]),
		"short":      whole[:half],
		"no segment": old,
	} {
		write(t, filepath.Join(dir, "pg_wal", segments[1]), plain)
		if outcome, err := fill(segments[1]); err == nil {
			t.Errorf("%s: %s", what, outcome)
		} else if _, incomplete := errors.AsType[*IncompleteError](err); incomplete != (what == "zeros" || what == "recycled") {
			t.Errorf("%s: %v", what, err)
		}
	}
	write(t, filepath.Join(dir, "pg_wal", "00000002.history"), []byte("nonsense"))
	if _, err := fill("00000002.history"); !errors.As(err, new(*IncompleteError)) {
		t.Error(err)
	}
}

// The archive is asked for what is not known to be there: one LIST of a timeline from the
// lowest such segment on, and nothing once all is there.
func TestStockCalls(t *testing.T) {
	dir, segments := pgdata(t)
	control, err := ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	bucket := faulty.New(mem.New(), nil)
	r := repository(bucket, control.System)
	var stock Stock
	wanted := []postgres.WALFile{postgres.HistoryFile(2)}
	for _, name := range segments[:5] {
		wanted = append(wanted, file(t, name))
	}
	ask := func(lacking int, calls ...string) {
		t.Helper()
		before := len(bucket.Calls())
		lacks, err := stock.Lacks(t.Context(), r, wanted)
		if err != nil || len(lacks) != lacking {
			t.Errorf("lacks %v, %v; want %d", lacks, err, lacking)
		}
		asked := slices.DeleteFunc(bucket.Calls()[before:], func(c string) bool { return strings.Contains(c, "conflict") })
		if len(asked) != len(calls) {
			t.Fatalf("asked %q, want %q", asked, calls)
		}
		for i := range calls {
			if !strings.HasPrefix(asked[i], calls[i]) {
				t.Errorf("asked %q, want %q", asked, calls)
			}
		}
	}
	push := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if _, err := pusher(bucket, "").Push(t.Context(), filepath.Join(dir, "pg_wal", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(6, "head", "list")
	push(segments[0], segments[1], segments[3])
	ask(3, "head", "list")
	push("00000002.history", segments[2])
	ask(1, "head", "get", "list")
	push(segments[4])
	ask(0, "list")
	ask(0)
	wanted = wanted[3:]
	ask(0)
	bad := errors.New("away")
	fresh := Stock{}
	if _, err := fresh.Lacks(t.Context(), repository(faulty.New(mem.New(), faulty.From(1, bad)), control.System), wanted); !errors.Is(err, bad) {
		t.Error(err)
	}
}

// requeued lays out a standby's pg_wal: all of timeline 1 marked as archived, none of it so.
type standbyDir struct {
	*testing.T
	dir, state string
	segments   []string
	bucket     storage.Bucket
	system     postgres.SystemIdentifier
}

func newStandbyDir(t *testing.T) *standbyDir {
	dir, segments := pgdata(t)
	control, err := ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "pg_wal", "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &standbyDir{t, dir, t.TempDir(), segments, mem.New(), control.System}
	entries, err := os.ReadDir(filepath.Join(dir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			write(t, filepath.Join(dir, "pg_wal", "archive_status", e.Name()+".done"), nil)
		}
	}
	return s
}

func (s *standbyDir) requeue() Requeued {
	s.Helper()
	r, err := Requeue(s.Context(), s.dir, s.state, func(id postgres.SystemIdentifier) (*catalog.Repository, error) { return repository(s.bucket, id), nil })
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *standbyDir) ready() string {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "pg_wal", "archive_status", "*.ready"))
	if err != nil {
		s.Fatal(err)
	}
	for i, name := range found {
		name = strings.TrimSuffix(filepath.Base(name), ".ready")
		found[i] = strings.ReplaceAll(name[:8], "0", "") + "/" + strings.TrimLeft(name[min(len(name), 16):], "0")
	}
	return strings.Join(found, " ")
}

// A promotion queues again what the archive lacks of the own branch, never the fork's
// segment under the former timeline's name, nor one that was still being written (R14).
func TestRequeue(t *testing.T) {
	s := newStandbyDir(t)
	for _, name := range s.segments[:3] {
		if _, err := pusher(s.bucket, "").Push(t.Context(), filepath.Join(s.dir, "pg_wal", name)); err != nil {
			t.Fatal(err)
		}
	}
	// 1/D holds the fork, and 2/E was the last that was received: it ends early.
	if r := s.requeue(); r != (Requeued{4, 4, "the archive"}) || s.ready() != "1/B 1/C 2/ 2/D" {
		t.Errorf("%+v: %s", r, s.ready())
	}
	if r := s.requeue(); r != (Requeued{0, 0, "the archive"}) {
		t.Errorf("again: %+v", r)
	}
}

// Without an answer within 300 ms the daemon's last word counts, and without that one the
// newest are taken.
func TestRequeueWithoutTheArchive(t *testing.T) {
	for name, c := range map[string]struct {
		frontier func(s *standbyDir) Frontier
		by, want string
	}{
		"the daemon's": {func(s *standbyDir) Frontier {
			return Frontier{s.system, file(t, s.segments[4]).Segment, time.Unix(0, 0)}
		},
			"the daemon at 1970-01-01T00:00:00Z", "1/C 2/ 2/D"},
		"of another system": {func(s *standbyDir) Frontier { return Frontier{1, file(t, s.segments[4]).Segment, time.Time{}} },
			"nobody: the newest are taken", "1/8 1/9 1/A 1/B 1/C 2/ 2/D"},
		"of another branch": {func(s *standbyDir) Frontier {
			return Frontier{s.system, file(t, s.segments[5]).Segment.On(7), time.Time{}}
		},
			"nobody: the newest are taken", "1/8 1/9 1/A 1/B 1/C 2/ 2/D"},
	} {
		s := newStandbyDir(t)
		if err := c.frontier(s).Write(s.state); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			hang := make(chan struct{})
			r, err := Requeue(t.Context(), s.dir, s.state, func(postgres.SystemIdentifier) (*catalog.Repository, error) {
				<-hang // as a directory on a dead server does, whatever the context
				return nil, errors.New("away")
			})
			if took := time.Since(began); err != nil || r.By != c.by || s.ready() != c.want || took != askLimit {
				t.Errorf("%s: %+v %v after %s: %s", name, r, err, took, s.ready())
			}
			close(hang)
			synctest.Wait()
		})
	}
}

// A promotion takes the mark of each file or leaves it, and never loses one.
func TestRequeueEndsInTime(t *testing.T) {
	s := newStandbyDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := Requeue(ctx, s.dir, s.state, func(id postgres.SystemIdentifier) (*catalog.Repository, error) { return repository(s.bucket, id), nil })
	if err != nil || r.Queued != 0 || s.ready() != "" {
		t.Errorf("%+v %v: %s", r, err, s.ready())
	}
	if _, err := Requeue(t.Context(), t.TempDir(), "", nil); err == nil {
		t.Error("no data directory, and no error")
	}
}

func TestFrontierFile(t *testing.T) {
	dir := t.TempDir()
	if f, err := ReadFrontier(dir); !errors.Is(err, os.ErrNotExist) || f.System != 0 {
		t.Error(f, err)
	}
	want := Frontier{7, postgres.Segment{Timeline: 2, Seg: 9}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFrontier(dir); got != want || err != nil {
		t.Error(got, err)
	}
	if b := read(t, filepath.Join(dir, "frontier.json")); !bytes.Contains(b, []byte(`"000000020000000000000009"`)) {
		t.Errorf("%s", b)
	}
}
