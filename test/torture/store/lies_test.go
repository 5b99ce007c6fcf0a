package store_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/torture"
)

// gets never put bytes in place that are not the file's, though they decode and are as
// many: the store answers with another segment's below the header that is asked for.
func (w *world) gets() {
	w.Helper()
	w.reset()
	w.run.WriteFile(lab.User1, 0o600, "", "node/recovery.signal")
	target := filepath.Join(w.node, "pg_wal/RECOVERYXLOG")
	_, other := w.stored(w.old[1])
	for _, times := range []int{1, 0} {
		w.proxy.Set(faultproxy.Rule{Method: http.MethodGet, Match: "/" + w.old[0], Times: times, Fault: faultproxy.Fault{Answer: func(_ *http.Response, body *[]byte) {
			header, _ := w.stored(w.old[0])
			*body = slices.Concat(header, other)
		}}})
		o := w.call("hasty", w.node, "archive-get", w.old[0], "pg_wal/RECOVERYXLOG")
		want := map[int]int{1: 0, 0: 200}[times]
		if faults := torture.Whole(target, w.contents[w.old[0]], want != 0); o.code != want || len(faults) > 0 {
			w.Errorf("archive-get, answered %d times (0: always) with another segment's bytes, exits %d, want %d: %q\n%s", times, o.code, want, faults, o.output())
		}
		_ = os.Remove(target)
	}
	w.proxy.Set()
	w.must(os.Remove(filepath.Join(w.node, "recovery.signal")))
}

// stored is the object of a WAL file in ready, its header apart.
func (w *world) stored(name string) (header, frames []byte) {
	w.Helper()
	found, err := filepath.Glob(filepath.Join(w.ready, w.root(), "wal/*/*", name))
	if err != nil || len(found) != 1 {
		w.Fatalf("%s is stored as %q, %v", name, found, err)
	}
	object, err := os.ReadFile(found[0])
	w.must(err)
	prefix, payload, err := codec.HeaderLength(object[:codec.HeaderPrefix])
	w.must(err)
	return object[:prefix+payload], object[prefix+payload:]
}

const laterPages = "its later pages"

// refusals: of the lists that a command asks for each is refused once, and then the later
// pages of all, where pages are short. It says so, and takes none for a list that ends.
func (w *world) refusals() {
	w.Helper()
	_, final := w.expired()
	w.reset()
	stays := w.objects("work").Only(func(key string) bool { return final[key] != "" })
	w.run.WriteFile(lab.User1, 0o600, "", "node/recovery.signal")
	for _, c := range []struct {
		config string
		want   int
		args   []string
	}{
		{"work", 3, []string{"expire", "--yes"}},
		{"hasty", 200, []string{"archive-get", w.fresh[0], "pg_wal/RECOVERYXLOG"}},
	} {
		w.reset()
		w.proxy.Set()
		before := len(w.proxy.Requests())
		w.call(c.config, w.node, c.args...)
		lists := slices.DeleteFunc(w.proxy.Requests()[before:], func(r string) bool { return !strings.Contains(r, "list-type") })
		slices.Sort(lists)
		met := 0
		for _, list := range append(slices.Compact(lists), laterPages) {
			w.reset()
			var hit atomic.Bool
			w.proxy.Choose(func(r *http.Request) faultproxy.Fault {
				q := r.URL.Query()
				switch {
				case list == r.Method+" "+r.URL.RequestURI(), list == laterPages && q.Has("continuation-token"):
					hit.Store(true)
					return faultproxy.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
				case list == laterPages && q.Has("list-type"):
					return faultproxy.Fault{Request: func(r *http.Request) {
						q.Set("max-keys", "2")
						r.URL.RawQuery = q.Encode()
						*r = *signer.SignV4(*r, w.s3.AccessKey, w.s3.SecretKey, "", w.s3.Region)
					}}
				}
				return faultproxy.Fault{}
			})
			o := w.call(c.config, w.node, c.args...)
			w.proxy.Set()
			if !hit.Load() {
				continue // nothing was due for removal yet
			}
			met++
			if gone := stays.Lost(w.objects("work")); o.code != c.want || !strings.Contains(o.stderr, "error") || len(gone) > 0 {
				w.Errorf("%s, refused %s, exits %d, want %d: %q\n%s", c.args, list, o.code, c.want, gone, o.output())
			}
		}
		if w.Logf("%s: %d refusals", c.args, met); met < 2 {
			w.Errorf("%s met %d refusals of %q", c.args, met, lists)
		}
	}
	w.must(os.Remove(filepath.Join(w.node, "recovery.signal")))
}
