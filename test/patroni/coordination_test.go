package patroni_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// lease is short for tests: what is lost is lost soon.
const lease = 6 * time.Second

// options reach an etcd as a user who may read Patroni's keys and write ours, with an
// endpoint in front at which nobody is.
func options(e *lab.Etcd) patroni.Options {
	o := patroni.Options{Scope: "main", Lease: lease, Timeout: 3 * time.Second}
	scheme := "http"
	if e.CAFile != "" {
		scheme, o.Username, o.Password = "https", "pgha", "pgha"
		o.TLS = patroni.TLS{CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile}
	}
	o.Endpoints = []string{scheme + "://127.0.0.1:1"}
	for _, m := range e.Members {
		o.Endpoints = append(o.Endpoints, m.URL)
	}
	return o
}

func coordinate(t *testing.T, o patroni.Options) *patroni.Coordination {
	t.Helper()
	c, err := patroni.NewCoordination(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func claim(t *testing.T, c *patroni.Coordination, key, who string) *patroni.Claim {
	t.Helper()
	got, err := c.Claim(t.Context(), key, who)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(got.Release)
	return got
}

// lost waits for the end of a claim that nobody released.
func lost(t *testing.T, c *patroni.Claim) {
	t.Helper()
	select {
	case <-c.Context().Done():
		if cause := context.Cause(c.Context()); !errors.Is(cause, patroni.ErrClaimLost) {
			t.Errorf("the claim ended by %v", cause)
		}
	case <-time.After(30 * time.Second):
		t.Error("the claim is still held")
	}
}

// revoke ends every lease there is, as etcd does when their time is over.
func revoke(e *lab.Etcd) {
	for _, id := range strings.Fields(e.Ctl("lease", "list"))[3:] { // found N leases
		e.Ctl("lease", "revoke", id)
	}
}

func taken(t *testing.T, err error, key, by string) {
	t.Helper()
	if e, ok := errors.AsType[*patroni.ClaimedError](err); !ok || e.Error() != key+" is claimed by "+by {
		t.Errorf("%v, want %s to be claimed by %s", err, key, by)
	}
}

func TestCoordination(t *testing.T) {
	t.Parallel()
	e := lab.StartSecureEtcd(t, 3, lab.EtcdUser{Name: "pgha", Read: []string{"/service/"}, Write: []string{"/pgha-backup/"}})
	c := coordinate(t, options(e))

	t.Run("one of twenty wins", func(t *testing.T) {
		patient := options(e) // forty questions at once: what is tried is who wins, not how fast
		patient.Lease, patient.Timeout = 2*time.Minute, 30*time.Second
		one, other := coordinate(t, patient), coordinate(t, patient)
		for key, n := range map[string]int{"runs/20261121T020000Z-daily": 1, "replicas/slots": 3} {
			var mu sync.Mutex
			var won []*patroni.Claim
			var claimants sync.WaitGroup
			for i := range 20 {
				claimants.Go(func() {
					from, who := []*patroni.Coordination{one, other}[i%2], fmt.Sprintf("n%d", i)
					var got *patroni.Claim
					var err error
					if n > 1 {
						got, err = from.ClaimOneOf(t.Context(), key, n, who)
					} else {
						got, err = from.Claim(t.Context(), key, who)
					}
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						won = append(won, got)
					} else if e, ok := errors.AsType[*patroni.ClaimedError](err); !ok || len(strings.Split(e.By, ", ")) != n {
						t.Errorf("%v", err)
					}
				})
			}
			claimants.Wait()
			if len(won) != n {
				t.Errorf("%d of %s were given out, want %d", len(won), key, n)
			}
			for _, w := range won {
				w.Release()
				w.Release()
				if !errors.Is(context.Cause(w.Context()), context.Canceled) {
					t.Error("a released claim lives on")
				}
			}
		}
		if left := e.Ctl("get", "--prefix", "--keys-only", "/pgha-backup/"); left != "" {
			t.Errorf("left behind: %s", left)
		}
	})
	t.Run("a claim ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		first, err := c.Claim(ctx, "runs/a", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Claim(t.Context(), "runs/a", "n2"); err == nil || err.Error() != "runs/a is claimed by n1" {
			t.Error(err)
		}
		cancel()
		first.Release()
		claim(t, c, "runs/a", "n2")
		if got := e.Ctl("get", "--print-value-only", "/pgha-backup/service/main/runs/a"); got != "n2" {
			t.Errorf("runs/a is %q", got)
		}
	})
	t.Run("a lost lease, a removed key", func(t *testing.T) {
		first := claim(t, c, "runs/b", "n1")
		revoke(e)
		claim(t, c, "runs/b", "n2")
		lost(t, first)
		second := claim(t, c, "runs/c", "n1")
		e.Ctl("del", "/pgha-backup/service/main/runs/c")
		lost(t, second)
	})
	t.Run("daemons come and go", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		n1 := cluster.Daemon{Member: "n1", Host: "h1", DataDir: true, Version: "1.0.0", PID: 42, Since: time.Unix(1763704800, 0).UTC()}
		busy := n1
		busy.Running = []string{"20261121T020000Z-nightly"}
		var busyNow atomic.Bool
		entry := func() cluster.Daemon {
			if busyNow.Load() {
				return busy
			}
			return n1
		}
		over, changed := make(chan error, 1), make(chan struct{})
		go func() { over <- c.Join(ctx, entry, changed) }()
		joined := func(want ...cluster.Daemon) {
			t.Helper()
			lab.Poll(t, 20*time.Second, "the daemons", func() error {
				got, err := c.Daemons(t.Context())
				if err != nil || !slices.EqualFunc(got, want, func(a, b cluster.Daemon) bool { return reflect.DeepEqual(a, b) }) {
					return fmt.Errorf("%+v, %v", got, err)
				}
				return nil
			})
		}
		joined(n1)
		revoke(e)
		joined()
		joined(n1)
		created := e.Ctl("get", "-w", "fields", "/pgha-backup/service/main/members/n1")
		busyNow.Store(true)
		changed <- struct{}{}
		joined(busy)
		if now := e.Ctl("get", "-w", "fields", "/pgha-backup/service/main/members/n1"); field(now, "CreateRevision") != field(created, "CreateRevision") {
			t.Errorf("the daemon was away for a moment: %s, before %s", now, created)
		}
		busyNow.Store(false)
		changed <- struct{}{}
		joined(n1)
		e.Ctl("put", "/pgha-backup/service/main/members/n2", "no JSON")
		joined(n1)
		leave()
		if err := <-over; err != nil {
			t.Error(err)
		}
		joined()
		if err := c.Join(t.Context(), func() cluster.Daemon { return cluster.Daemon{Member: "a/b"} }, nil); err == nil || err.Error() != `join the daemons of the cluster: "a/b" cannot be a member's name` {
			t.Error(err)
		}
	})
	held := claim(t, c, "runs/d", "n1")
	// A member that starts again has forgotten every token, and a dead one answers nothing.
	t.Run("through the deaths of members", func(t *testing.T) {
		for _, m := range e.Members {
			m.Kill9()
			lab.Poll(t, 20*time.Second, "a claim through two members", func() error {
				other, err := c.Claim(t.Context(), "runs/e", "n1")
				if err == nil {
					other.Release()
				}
				return err
			})
			m.Start()
			e.Wait()
		}
		_, err := c.Claim(t.Context(), "runs/d", "n2")
		taken(t, err, "runs/d", "n1")
		if held.Context().Err() != nil {
			t.Error(context.Cause(held.Context()))
		}
	})
	t.Run("strangers", func(t *testing.T) {
		for name, change := range map[string]func(*patroni.Options){
			"a wrong password": func(o *patroni.Options) { o.Password = "unsaid" },
			"no password":      func(o *patroni.Options) { o.Username, o.Password = "", "" },
			"no certificate":   func(o *patroni.Options) { o.TLS.CertFile, o.TLS.KeyFile = "", "" },
			"no authority":     func(o *patroni.Options) { o.TLS.CAFile = "" },
			"plain http":       func(o *patroni.Options) { o.Endpoints = []string{"http://" + e.Members[0].Endpoint} },
		} {
			o := options(e)
			o.Timeout = time.Second
			change(&o)
			_, err := coordinate(t, o).Claim(t.Context(), "runs/f", "n1")
			if _, ok := errors.AsType[*patroni.UnreachableError](err); !ok || strings.Contains(err.Error(), "unsaid") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("etcd is gone", func(t *testing.T) {
		if held.Context().Err() != nil {
			t.Errorf("a claim longer than its lease: %v", context.Cause(held.Context()))
		}
		for _, m := range e.Members {
			m.Kill9()
		}
		lost(t, held)
		if _, err := c.Daemons(t.Context()); err == nil {
			t.Error("nobody answered, and the daemons are known")
		}
		for _, m := range e.Members {
			m.Start()
		}
		e.Wait()
		lab.Poll(t, 20*time.Second, "a claim after the return of etcd", func() error {
			again, err := c.Claim(t.Context(), "runs/d", "n1")
			if err == nil {
				again.Release()
			}
			return err
		})
	})
}

// holder is a process of its own that claims runs/x and writes what becomes of it.
func holder(endpoint string) {
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	c, err := patroni.NewCoordination(patroni.Options{Scope: "main", Lease: lease, Timeout: time.Minute, Endpoints: []string{endpoint}})
	if err != nil {
		say("%v", err)
		return
	}
	held, err := c.Claim(context.Background(), "runs/x", "the sleeper")
	if err != nil {
		say("%v", err)
		return
	}
	say("held")
	<-held.Context().Done()
	say("ended: %v", context.Cause(held.Context()))
}

// A process that slept longer than its lease knows so by itself: etcd sleeps when it wakes.
func TestSleepersClaimEnds(t *testing.T) {
	t.Parallel()
	e := lab.StartEtcd(t, 1)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sleeper := lab.RunOf(t).Start("root", "sleeper", []string{"PGHA_TEST_HOLDER=" + e.Members[0].URL}, self)
	said := func(want string) {
		t.Helper()
		lab.Poll(t, 20*time.Second, "the sleeper to say "+want, func() error {
			got, err := os.ReadFile(sleeper.Log)
			if string(got) != want {
				return fmt.Errorf("it said %q, %v", got, err)
			}
			return nil
		})
	}
	signal := func(p *lab.Process, s syscall.Signal) {
		t.Helper()
		if err := p.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	said("held\n")
	c := coordinate(t, options(e))
	_, err = c.Claim(t.Context(), "runs/x", "another")
	taken(t, err, "runs/x", "the sleeper")
	signal(sleeper, syscall.SIGSTOP)
	lab.Poll(t, 30*time.Second, "the sleeper's lease to end", func() error {
		again, err := c.Claim(t.Context(), "runs/x", "another")
		if err == nil {
			t.Cleanup(again.Release)
		}
		return err
	})
	signal(e.Members[0].Process(), syscall.SIGSTOP)
	signal(sleeper, syscall.SIGCONT)
	said("held\nended: the claim in etcd was lost\n")
	signal(e.Members[0].Process(), syscall.SIGCONT)
}

// field is one line of etcdctl's fields, as "CreateRevision" : 7.
func field(text, name string) string {
	_, rest, _ := strings.Cut(text, "\""+name+"\" : ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}
