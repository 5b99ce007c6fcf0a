package patroni

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// member serves the REST API of a member of a cluster whose keys v3 does not show.
func member(t *testing.T, primary http.HandlerFunc, cluster string) *Observer {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("/cluster", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.ReplaceAll(cluster, "API", server.URL+"/patroni"))
	})
	mux.HandleFunc("/patroni", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"database_system_identifier":"7301234567890123456","patroni":{"scope":"main"}}`)
	})
	mux.HandleFunc("/primary", primary)
	o, err := New(Options{Scope: "main", V2: true, Endpoints: []string{"http://127.0.0.1:1"}, API: server.URL, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	o.pause = time.Microsecond
	return o
}

const two = `{"members":[{"name":"n2","role":"leader","state":"running","api_url":"API","host":"10.0.0.2","port":5432,"timeline":3},
{"name":"n1","role":"sync_standby","state":"streaming","api_url":"API","host":"10.0.0.1","port":5432,"timeline":3,"lag":"unknown"}],"pause":true}`

func yes(http.ResponseWriter, *http.Request) {}

func TestTopologyThroughTheAPI(t *testing.T) {
	o := member(t, yes, two)
	var said strings.Builder
	o.o.Log = slog.New(slog.NewTextHandler(&said, nil))
	for range 2 {
		got, err := o.Topology(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const want = "7301234567890123456 leader=n2 paused n1:replica:running:00000003:0/0 n2:primary:running:00000003:0/0"
		if line := short(got); line != want {
			t.Errorf("\n got %s\nwant %s", line, want)
		}
		if m, _ := got.Member("n1"); m.ConnURL != "postgres://10.0.0.1:5432/postgres" {
			t.Errorf("connection of n1: %s", m.ConnURL)
		}
	}
	if n := strings.Count(said.String(), "shows no keys"); n != 1 {
		t.Errorf("the fallback was said %d times", n)
	}
}

func TestUnconfirmedLeaderIsNobody(t *testing.T) {
	asked := atomic.Int32{}
	o := member(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}, two)
	got, err := o.Topology(t.Context())
	unconfirmed, ok := errors.AsType[*UnconfirmedError](err)
	if !ok || unconfirmed.Leader != "n2" || got.Leader != "" || len(got.Members) != 2 {
		t.Errorf("%v, %v", short(got), err)
	}
	if asked.Load() != attempts {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestLeaderConfirmsLater(t *testing.T) {
	asked := atomic.Int32{}
	o := member(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}, two)
	if got, err := o.Topology(t.Context()); err != nil || got.Leader != "n2" {
		t.Errorf("%v, %v", short(got), err)
	}
}

func TestRedirectIsNoConfirmation(t *testing.T) {
	o := member(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/cluster", http.StatusFound) }, two)
	if got, err := o.Topology(t.Context()); err == nil || got.Leader != "" {
		t.Errorf("%v, %v", short(got), err)
	}
}

func TestForeignClusterIsRefused(t *testing.T) {
	o := member(t, yes, two)
	o.o.Scope = "other"
	_, err := o.Topology(t.Context())
	if err == nil || !strings.Contains(err.Error(), "belongs to cluster main, not to other") {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	o, err := New(Options{Scope: "main", V2: true, API: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.Topology(t.Context())
	if _, ok := errors.AsType[*UnreachableError](err); !ok {
		t.Error(err)
	}
	if _, err := New(Options{Scope: "main"}); err == nil {
		t.Error("an observer of nothing was made")
	}
}
