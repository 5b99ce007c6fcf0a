package patroni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// store is an etcd as far as a watcher sees it: keys with their revisions, events
// from a revision on, compaction. All of it runs in one synctest bubble.
type store struct {
	clientv3.KV      // what the watcher does not use is nil
	clientv3.Watcher // likewise

	mu sync.Mutex

	revision  int64
	compacted int64
	keys      map[string]pair
	history   []int64                              // revisions with an event
	watches   map[chan clientv3.WatchResponse]bool // alive
	gone      bool                                 // nobody answers
	mute      bool                                 // events are lost on their way
	stuck     bool                                 // a watch is never acknowledged
	reads     int                                  // of the whole prefix
	starts    []int64                              // from where each watch wanted to start
	before    func()                               // called once when a watch begins
}

func newStore() *store {
	return &store{revision: 100, keys: map[string]pair{}, watches: map[chan clientv3.WatchResponse]bool{}}
}

func (s *store) put(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	created := s.revision
	if old, ok := s.keys[base+"/"+name]; ok {
		created = old.created
	}
	s.keys[base+"/"+name] = pair{base + "/" + name, []byte(value), created}
	s.event()
}

func (s *store) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	delete(s.keys, base+"/"+name)
	s.event()
}

func (s *store) event() {
	s.history = append(s.history, s.revision)
	for w := range s.watches {
		if !s.mute {
			w <- response(s.revision)
		}
	}
}

func (s *store) set(flag *bool, to bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*flag = to
}

func (s *store) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = s.revision
}

// sever ends every watch with the answer, or without one.
func (s *store) sever(last *clientv3.WatchResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		if last != nil {
			w <- *last
		}
		close(w)
		delete(s.watches, w)
	}
}

func (s *store) Get(_ context.Context, prefix string, _ ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.gone {
		return nil, fmt.Errorf("dial attempt %d: connection refused", s.reads)
	}
	answer := &clientv3.GetResponse{}
	answer.Header = newOf(answer.Header)
	answer.Header.Revision = s.revision
	for _, p := range s.keys {
		if strings.HasPrefix(p.key, prefix) {
			kv := newOf(clientv3.Event{}.Kv)
			kv.Key, kv.Value, kv.CreateRevision = []byte(p.key), p.value, p.created
			answer.Kvs = append(answer.Kvs, kv)
		}
	}
	return answer, nil
}

func (s *store) Watch(ctx context.Context, prefix string, options ...clientv3.OpOption) clientv3.WatchChan {
	from := clientv3.OpGet(prefix, options...).Rev()
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	if s.stuck {
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts = append(s.starts, from)
	w := make(chan clientv3.WatchResponse, 10_000)
	if from > 0 && from <= s.compacted {
		w <- clientv3.WatchResponse{CompactRevision: s.compacted, Canceled: true}
		close(w)
		return w
	}
	s.watches[w] = true
	if i, _ := slices.BinarySearch(s.history, from); from > 0 {
		for _, revision := range s.history[i:] {
			w <- response(revision)
		}
	}
	return w
}

func (s *store) Close() error { return nil }

func response(revision int64) clientv3.WatchResponse {
	r := clientv3.WatchResponse{Events: []*clientv3.Event{{}}}
	r.Header = newOf(r.Header)
	r.Header.Revision = revision
	return r
}

// newOf makes a value of a type that this module does not name.
func newOf[T any](*T) *T { return new(T) }

// api answers for the members' REST APIs.
type api struct {
	sync.Mutex
	asked   []string
	answers map[string]string // by host and path; what is not here refuses
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	a.Lock()
	defer a.Unlock()
	a.asked = append(a.asked, r.URL.Host+r.URL.Path)
	body, ok := a.answers[r.URL.Host+r.URL.Path]
	if !ok {
		return nil, errors.New("connection refused")
	}
	status := http.StatusOK
	if body == "503" {
		status = http.StatusServiceUnavailable
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}}, nil
}

func (a *api) say(question, body string) {
	a.Lock()
	defer a.Unlock()
	a.answers[question] = body
}

func (a *api) refuse(question string) {
	a.Lock()
	defer a.Unlock()
	delete(a.answers, question)
}

func (a *api) count(question string) int {
	a.Lock()
	defer a.Unlock()
	n := 0
	for _, q := range a.asked {
		if q == question {
			n++
		}
	}
	return n
}

// watched is a cluster under Watch and what was told of it.
type watched struct {
	*store
	*api
	o    *Observer
	news []string
	last cluster.Topology
	err  error
}

// watch runs a test in a bubble of its own time against a healthy cluster that is
// watched already, its first news told.
func watch(t *testing.T, change func(*Options, *store), test func(t *testing.T, w *watched)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &watched{store: newStore(), api: &api{answers: map[string]string{"10.0.0.1:8008/primary": ""}}}
		for _, p := range keys("config", `{"ttl":3000,"loop_wait":1000}`) {
			w.put(strings.TrimPrefix(p.key, base+"/"), string(p.value))
		}
		options := Options{Scope: "main", Endpoints: []string{"http://127.0.0.1:1"}, API: "http://10.0.0.9:8008"}
		if change != nil {
			change(&options, w.store)
		}
		o, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		w.o = o
		o.client = clientv3.NewCtxClient(t.Context())
		o.client.KV, o.client.Watcher = w.store, w.store
		o.http.Transport = w.api
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			o.Watch(ctx, func(got cluster.Topology, err error) {
				w.api.Lock()
				defer w.api.Unlock()
				w.last, w.err = got, err
				w.news = append(w.news, fmt.Sprintf("%s@%d %q", got.Leader, got.Term, faultOf(err)))
			})
		}()
		synctest.Wait()
		test(t, w)
		cancel()
		<-over
	})
}

// after lets time pass and returns what was told since the last call.
func (w *watched) after(d time.Duration) string {
	w.set(&w.mute, w.mute) // orders what the test did before what comes: a bubble's time does not
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.api.Lock()
	defer w.api.Unlock()
	news := strings.Join(w.news, "; ")
	w.news = nil
	return news
}

func news(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// keyOf is the value of a key of the healthy cluster.
func keyOf(name string) []byte {
	for _, p := range keys() {
		if p.key == base+"/"+name {
			return p.value
		}
	}
	return nil
}
