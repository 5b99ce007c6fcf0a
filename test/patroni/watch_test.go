package patroni_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// watcher collects what an observer tells.
type watcher struct {
	mu     sync.Mutex
	told   []cluster.Topology
	faults []error
}

func follow(t *testing.T, o *patroni.Observer) *watcher {
	t.Helper()
	w := &watcher{}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		o.Watch(ctx, func(got cluster.Topology, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told, w.faults = append(w.told, got), append(w.faults, err)
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-over
	})
	return w
}

// until waits for the newest news to be as wanted.
func (w *watcher) until(t *testing.T, what string, as func(cluster.Topology, error) bool) {
	t.Helper()
	lab.Poll(t, 60*time.Second, what, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := len(w.told)
		if n == 0 || !as(w.told[n-1], w.faults[n-1]) {
			return fmt.Errorf("%d news, the last of %+v and %v", n, w.told, w.faults)
		}
		return nil
	})
}

// leaders are those who led, one after the other; "" is nobody.
func (w *watcher) leaders() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, t := range w.told {
		all = append(all, t.Leader)
	}
	return slices.Compact(all)
}

// unreachable is how many times it was told that etcd is away.
func (w *watcher) unreachable() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.faults {
		if _, ok := errors.AsType[*patroni.UnreachableError](err); ok {
			n++
		}
	}
	return n
}

func at(position postgres.LSN) func(cluster.Topology, error) bool {
	return func(t cluster.Topology, err error) bool {
		return err == nil && t.Position == position && t.Leader == "n1"
	}
}

// settle puts the keys of a cluster of one member, whose API says that it leads.
func settle(t *testing.T, e *lab.Etcd) {
	t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(api.Close)
	for name, value := range map[string]string{
		"initialize": "7301234567890123456", "config": `{"ttl":20,"loop_wait":2}`, "status": `{"optime":1}`, "leader": "n1",
		"members/n1": fmt.Sprintf(`{"api_url":"%s/patroni","role":"primary","state":"running","timeline":1,"version":"4.1.4"}`, api.URL),
	} {
		e.Ctl("put", "/service/main/"+name, value)
	}
}

func TestWatchThroughDeathsOfEtcd(t *testing.T) {
	t.Parallel()
	e := lab.StartSecureEtcd(t, 3, lab.EtcdUser{Name: "pgha", Read: []string{"/service/"}, Write: []string{"/pgha-backup/"}})
	settle(t, e)
	o, err := patroni.New(options(e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	w := follow(t, o)
	w.until(t, "the first look", at(1))
	e.Ctl("put", "/service/main/status", `{"optime":2}`)
	w.until(t, "an event", at(2))
	position := postgres.LSN(2)
	for _, m := range e.Members {
		m.Kill9()
		position++
		e.Wait()
		e.Ctl("put", "/service/main/status", fmt.Sprintf(`{"optime":%d}`, position))
		w.until(t, "an event after the death of "+m.Name, at(position))
		m.Start()
		e.Wait()
	}
	before := w.unreachable()
	for _, m := range e.Members {
		m.Kill9()
	}
	w.until(t, "etcd to be away", func(got cluster.Topology, err error) bool {
		_, ok := errors.AsType[*patroni.UnreachableError](err)
		return ok && got.Leader == "n1" && len(got.Members) == 1 // its API still says so
	})
	// Two more looks of the watcher fail in this time, and say nothing.
	if _, err := o.Topology(t.Context()); err == nil {
		t.Error("nobody answered, and all is well")
	}
	if _, err := o.Topology(t.Context()); err == nil {
		t.Error("nobody answered, and all is well")
	}
	if n := w.unreachable() - before; n != 1 {
		t.Errorf("told %d times that etcd is away", n)
	}
	for _, m := range e.Members {
		m.Start()
	}
	e.Wait()
	w.until(t, "the return", at(position))
	e.Ctl("put", "/service/main/status", `{"optime":9}`)
	w.until(t, "an event after the return", at(9))
	if all := w.leaders(); !slices.Equal(all, []string{"n1"}) {
		t.Errorf("leaders: %v", all)
	}
}

// relay is a wire to a server that can be cut.
type relay struct {
	target   string
	listener net.Listener
	mu       sync.Mutex
	cut      bool
	open     []net.Conn
}

func startRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{target: target, listener: l}
	t.Cleanup(func() { r.set(true); _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			r.mu.Lock()
			r.open = append(r.open, client, server)
			cut := r.cut
			r.mu.Unlock()
			if cut {
				r.set(true)
			}
			go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
		}
	}()
	return r
}

func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut = cut; cut {
		for _, c := range r.open {
			_ = c.Close()
		}
		r.open = nil
	}
}

// While the watcher is cut off, what it has to hear next is compacted away.
func TestWatchThroughCompaction(t *testing.T) {
	t.Parallel()
	e := lab.StartEtcd(t, 1)
	settle(t, e)
	wire := startRelay(t, e.Members[0].Endpoint)
	o, err := patroni.New(patroni.Options{Scope: "main", Endpoints: []string{"http://" + wire.listener.Addr().String()}, Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	w := follow(t, o)
	w.until(t, "the first look", at(1))
	for round := range 2 {
		wire.set(true)
		for i := range 10 {
			e.Ctl("put", "/service/main/status", fmt.Sprintf(`{"optime":%d}`, 100*round+i+2))
		}
		_, revision, _ := strings.Cut(e.Ctl("get", "/service/main/leader", "-w", "fields"), `"Revision" : `)
		revision, _, _ = strings.Cut(revision, "\n")
		e.Ctl("compact", revision)
		wire.set(false)
		w.until(t, "what happened while cut off", at(postgres.LSN(100*round+11)))
		e.Ctl("put", "/service/main/status", fmt.Sprintf(`{"optime":%d}`, 100*round+50))
		w.until(t, "an event after it", at(postgres.LSN(100*round+50)))
	}
}
