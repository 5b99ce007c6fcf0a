// Package storagetest is the conformance suite of storage.Bucket: every driver and
// every decorator passes it.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
)

// racers is how many writers fight for one key.
const racers = 16

// Run holds a bucket to the contract. Open is called once per test and returns an
// empty bucket.
func Run(t *testing.T, open func(t *testing.T) storage.Bucket) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, storage.Bucket)
	}{
		{"put and get", putGet}, {"spans", spans}, {"head", head}, {"absent", absentObject},
		{"create once", createOnce}, {"race put", racePut}, {"race upload", raceUpload},
		{"list", list}, {"list stops", listStops}, {"list pages", listPages}, {"odd keys", oddKeys}, {"bad keys", badKeys},
		{"delete", remove}, {"upload", upload}, {"upload once", uploadOnce}, {"abort", abort},
		{"missing part", missingPart}, {"writer", writer}, {"cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

// RunMissing holds a bucket that does not exist to the contract.
func RunMissing(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	_, getErr := b.Get(ctx, "a/b", storage.Whole)
	_, headErr := b.Head(ctx, "a/b")
	_, listErr := keys(ctx, b, "", "")
	_, beginErr := b.Begin(ctx, "a/b", storage.PutOptions{})
	for name, err := range map[string]error{
		"get": getErr, "head": headErr, "list": listErr, "begin": beginErr,
		"put":      b.Put(ctx, "a/b", []byte("x"), storage.PutOptions{}),
		"put once": b.Put(ctx, "a/b", []byte("x"), storage.PutOptions{IfAbsent: true}),
		"delete":   b.Delete(ctx, "a/b"),
	} {
		if !errors.Is(err, storage.ErrNoBucket) || errors.Is(err, storage.ErrNotExist) || storage.IsRetryable(err) {
			t.Errorf("%s in a missing bucket: got %v, want a final ErrNoBucket", name, err)
		}
	}
}

// Random is n bytes that look like nothing else.
func Random(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	body := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(body) // never fails
	return body
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want %v", err, kind)
	}
	if storage.IsRetryable(err) {
		t.Fatalf("%v: a final answer is called retryable", err)
	}
}

func read(t *testing.T, b storage.Bucket, key storage.Key, span storage.Span) []byte {
	t.Helper()
	r, err := b.Get(t.Context(), key, span)
	must(t, err)
	body, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	return body
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes that differ from the %d bytes written", len(got), len(want))
	}
}

func keys(ctx context.Context, b storage.Bucket, prefix, after storage.Key) (found []storage.Key, err error) {
	for o, err := range b.List(ctx, prefix, after) {
		if err != nil {
			return found, err
		}
		found = append(found, o.Key)
	}
	return found, nil
}

func wantKeys(t *testing.T, b storage.Bucket, prefix, after storage.Key, want ...storage.Key) {
	t.Helper()
	got, err := keys(t.Context(), b, prefix, after)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Fatalf("list of %q after %q:\n got %q\nwant %q", prefix, after, got, want)
	}
}

func putGet(t *testing.T, b storage.Bucket) {
	for _, n := range []int{0, 1, 4096, 1<<20 + 1} {
		body := Random(uint64(n), n)
		must(t, b.Put(t.Context(), "dir/one", body, storage.PutOptions{}))
		same(t, read(t, b, "dir/one", storage.Whole), body)
		all, err := storage.ReadAll(t.Context(), b, "dir/one", int64(n))
		must(t, err)
		same(t, all, body)
	}
	if _, err := storage.ReadAll(t.Context(), b, "dir/one", 1<<20); err == nil {
		t.Fatal("ReadAll returned more than its limit")
	}
	must(t, b.Put(t.Context(), "dir/one", []byte("shorter"), storage.PutOptions{}))
	same(t, read(t, b, "dir/one", storage.Whole), []byte("shorter"))
}

func spans(t *testing.T, b storage.Bucket) {
	body := Random(1, 1000)
	must(t, b.Put(t.Context(), "s", body, storage.PutOptions{}))
	must(t, b.Put(t.Context(), "empty", nil, storage.PutOptions{}))
	for _, s := range [][2]int64{{0, 1000}, {0, -1}, {10, 20}, {999, 1}, {990, -1}, {1000, -1}, {1000, 0}, {0, 0}, {5, 0}} {
		span := storage.Span{Offset: s[0], Length: s[1]}
		off, n, err := span.Within(1000)
		must(t, err)
		same(t, read(t, b, "s", span), body[off:off+n])
	}
	same(t, read(t, b, "empty", storage.Whole), nil)
	for _, s := range [][2]int64{{0, 1001}, {990, 11}, {1001, -1}, {1001, 0}, {5000, 10}, {-1, 2}} {
		r, err := b.Get(t.Context(), "s", storage.Span{Offset: s[0], Length: s[1]})
		if err == nil {
			r.Close()
		}
		if !errors.Is(err, storage.ErrSpan) {
			t.Fatalf("span %v of 1000 bytes: got %v, want ErrSpan", s, err)
		}
	}
}

func head(t *testing.T, b storage.Bucket) {
	must(t, b.Put(t.Context(), "h/x", make([]byte, 77), storage.PutOptions{}))
	o, err := b.Head(t.Context(), "h/x")
	must(t, err)
	if o.Key != "h/x" || o.Size != 77 || o.Modified.IsZero() {
		t.Fatalf("head says %+v", o)
	}
}

func absentObject(t *testing.T, b storage.Bucket) {
	must(t, b.Put(t.Context(), "there/it/is", []byte("x"), storage.PutOptions{}))
	for _, key := range []storage.Key{"nothing", "there/it/is-not", "there/it", "no/such/dir"} {
		_, err := b.Head(t.Context(), key)
		want(t, err, storage.ErrNotExist)
		for _, s := range []storage.Span{storage.Whole, {Offset: 0, Length: 10}, {Offset: 3, Length: 0}} {
			_, err = b.Get(t.Context(), key, s)
			want(t, err, storage.ErrNotExist)
		}
	}
}

func createOnce(t *testing.T, b storage.Bucket) {
	once := storage.PutOptions{IfAbsent: true}
	must(t, b.Put(t.Context(), "once/a", []byte("first"), once))
	want(t, b.Put(t.Context(), "once/a", []byte("second"), once), storage.ErrExist)
	same(t, read(t, b, "once/a", storage.Whole), []byte("first"))
	must(t, b.Delete(t.Context(), "once/a"))
	must(t, b.Put(t.Context(), "once/a", []byte("third"), once))
	must(t, b.Put(t.Context(), "once/a", []byte("fourth"), storage.PutOptions{}))
	same(t, read(t, b, "once/a", storage.Whole), []byte("fourth"))
}

func racePut(t *testing.T, b storage.Bucket) {
	for round := range 5 {
		key := storage.Key("race/" + string(rune('a'+round)))
		race(t, b, key, func(body []byte) error {
			return b.Put(t.Context(), key, body, storage.PutOptions{IfAbsent: true})
		})
	}
}

func raceUpload(t *testing.T, b storage.Bucket) {
	race(t, b, "race/parts", func(body []byte) error {
		u, err := b.Begin(t.Context(), "race/parts", storage.PutOptions{IfAbsent: true})
		if err != nil {
			return err
		}
		if err = u.Part(t.Context(), 1, body); err == nil {
			err = u.Complete(t.Context())
		}
		if err != nil {
			_ = u.Abort(t.Context())
		}
		return err
	})
}

// race has exactly one of many writers win, and the winner's bytes stand.
func race(t *testing.T, b storage.Bucket, key storage.Key, write func([]byte) error) {
	t.Helper()
	var wins, last atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		wg.Go(func() {
			<-start
			body := Random(uint64(i), 100+i)
			err := write(body)
			for storage.IsRetryable(err) { // a conflict of two writers may be answered so
				err = write(body)
			}
			switch {
			case err == nil:
				wins.Add(1)
				last.Store(int32(i))
			case !errors.Is(err, storage.ErrExist):
				t.Errorf("writer %d: %v, want ErrExist", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of %d create-once writers of %s won, want one", wins.Load(), racers, key)
	}
	i := int(last.Load())
	same(t, read(t, b, key, storage.Whole), Random(uint64(i), 100+i))
}

func list(t *testing.T, b storage.Bucket) {
	all := []storage.Key{"a-b", "a.b", "a/b", "a/b-c/d", "a/b.c", "a/c/d", "a/c/e", "a0", "ab/c", "b"}
	for _, i := range rand.Perm(len(all)) {
		must(t, b.Put(t.Context(), all[i], []byte(all[i]), storage.PutOptions{}))
	}
	wantKeys(t, b, "", "", all...)
	wantKeys(t, b, "a/", "", "a/b", "a/b-c/d", "a/b.c", "a/c/d", "a/c/e")
	wantKeys(t, b, "a/b", "", "a/b", "a/b-c/d", "a/b.c")
	wantKeys(t, b, "a/c/", "a/c/d", "a/c/e")
	wantKeys(t, b, "a/c/d", "", "a/c/d")
	wantKeys(t, b, "a/c/d/", "")
	wantKeys(t, b, "", "a/c/d", "a/c/e", "a0", "ab/c", "b")
	wantKeys(t, b, "", "a/bb", "a/c/d", "a/c/e", "a0", "ab/c", "b")
	wantKeys(t, b, "a", "a/c", "a/c/d", "a/c/e", "a0", "ab/c")
	wantKeys(t, b, "a/", "b")
	wantKeys(t, b, "zz", "")
	for o, err := range b.List(t.Context(), "a/", "") {
		must(t, err)
		if o.Size != int64(len(o.Key)) || o.Modified.IsZero() {
			t.Fatalf("list says %+v", o)
		}
	}
}

func listStops(t *testing.T, b storage.Bucket) {
	for _, k := range []storage.Key{"x/1", "x/2", "x/3"} {
		must(t, b.Put(t.Context(), k, nil, storage.PutOptions{}))
	}
	for o, err := range b.List(t.Context(), "x/", "") {
		must(t, err)
		if o.Key == "x/2" {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := keys(ctx, b, "x/", ""); !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled list ended with %v", err)
	}
}

// listPages crosses the 1000 keys that an S3 store returns at a time.
func listPages(t *testing.T, b storage.Bucket) {
	var all []storage.Key
	var wg sync.WaitGroup
	free := make(chan struct{}, 8)
	for i := range 1050 {
		key := storage.Key("pages/" + string([]byte{byte('a' + i/676), byte('a' + i/26%26), byte('a' + i%26)}))
		all = append(all, key)
		free <- struct{}{}
		wg.Go(func() {
			if err := b.Put(t.Context(), key, nil, storage.PutOptions{}); err != nil {
				t.Error(err)
			}
			<-free
		})
	}
	wg.Wait()
	wantKeys(t, b, "pages/", "", all...)
	wantKeys(t, b, "pages/", all[10], all[11:]...)
}

func oddKeys(t *testing.T, b storage.Bucket) {
	for _, key := range []storage.Key{
		"odd/with space", "odd/plus+and&amp;=", "odd/percent%2F41", "odd/ünïcode/日本", "odd/hash#query?x=1",
		"odd/quo'te\"s", "odd/..two-dots", "odd/tilde~", "odd/colon:20261121T020000Z", "odd/(brackets)[x]{y}", "odd/.hidden",
	} {
		must(t, b.Put(t.Context(), key, []byte(key), storage.PutOptions{IfAbsent: true}))
		same(t, read(t, b, key, storage.Whole), []byte(key))
		wantKeys(t, b, key, "", key)
		must(t, b.Delete(t.Context(), key))
		_, err := b.Head(t.Context(), key)
		want(t, err, storage.ErrNotExist)
	}
}

func badKeys(t *testing.T, b storage.Bucket) {
	for _, key := range []storage.Key{"", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\nb", "a\x00b", "\xff", storage.Key(strings.Repeat("k", 1025))} {
		want(t, b.Put(t.Context(), key, nil, storage.PutOptions{}), storage.ErrKey)
		_, err := b.Get(t.Context(), key, storage.Whole)
		want(t, err, storage.ErrKey)
		_, err = b.Head(t.Context(), key)
		want(t, err, storage.ErrKey)
		_, err = b.Begin(t.Context(), key, storage.PutOptions{})
		want(t, err, storage.ErrKey)
		want(t, b.Delete(t.Context(), key), storage.ErrKey)
	}
}

func remove(t *testing.T, b storage.Bucket) {
	must(t, b.Put(t.Context(), "d/1/x", []byte("x"), storage.PutOptions{}))
	must(t, b.Put(t.Context(), "d/2", []byte("x"), storage.PutOptions{}))
	must(t, b.Delete(t.Context(), "d/never"))
	must(t, b.Delete(t.Context(), "d/1")) // not an object
	must(t, b.Delete(t.Context(), "d"))
	must(t, b.Delete(t.Context(), "d/2/below"))
	wantKeys(t, b, "d/", "", "d/1/x", "d/2")
	must(t, b.Delete(t.Context(), "d/1/x"))
	must(t, b.Delete(t.Context(), "d/1/x"))
	wantKeys(t, b, "d/", "", "d/2")
	must(t, b.Put(t.Context(), "d/1/x", []byte("x"), storage.PutOptions{IfAbsent: true}))
}
