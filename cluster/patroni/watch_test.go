package patroni

import (
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// expect compares what was told.
func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// n1's and n2's term in the store of watch begins when their leader key is put there.
func leaderTerm(w *watched) int64 { return w.keys[base+"/leader"].created }

func TestWatchTellsEachChangeOnce(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		first := leaderTerm(w)
		expect(t, "the first look", w.after(0), news("n1@%d \"\"", first))
		w.put("members/n2", `{"role":"replica","state":"stopped"}`)
		expect(t, "a member changed", w.after(0), news("n1@%d \"\"", first))
		if m, _ := w.last.Member("n2"); m.State != "stopped" {
			t.Errorf("%+v", m)
		}
		w.put("members/n2", `{"role":"replica","state":"stopped"}`)
		w.put("history", `[]`)
		expect(t, "nothing that matters changed", w.after(time.Hour), "")
		w.put("config", `{"pause":"on"}`)
		expect(t, "paused", w.after(0), news("n1@%d \"\"", first))
		if !w.last.Paused || w.last.TTL != 30*time.Second || w.last.LoopWait != 10*time.Second {
			t.Errorf("%+v", w.last)
		}
	})
}

func TestWatchSeesWhatHappensBeforeItBegins(t *testing.T) {
	watch(t, func(_ *Options, s *store) {
		s.before = func() { s.put("status", `{"optime":24470705}`) }
	}, func(t *testing.T, w *watched) {
		if w.after(0); w.last.Position != 24470705 {
			t.Errorf("position %d", w.last.Position)
		}
		if want := w.revision; len(w.starts) != 1 || w.starts[0] != want {
			t.Errorf("watches from %v, want %d", w.starts, want)
		}
	})
}

func TestWatchGoesOnAfterItsEnd(t *testing.T) {
	for name, last := range map[string]*clientv3.WatchResponse{
		"compacted": {CompactRevision: 150, Canceled: true},
		"cancelled": {Canceled: true, CancelReason: "etcdserver: no leader"},
		"closed":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			watch(t, nil, func(t *testing.T, w *watched) {
				w.after(0)
				w.mute = true // cut off: what happens now is not heard of
				for range 60 {
					w.put("history", `[]`)
				}
				w.put("status", `{"optime":24470706}`)
				w.compact()
				w.set(&w.mute, false)
				w.sever(last)
				if w.after(2 * time.Second); w.last.Position != 24470706 {
					t.Errorf("position %d after the watch had ended", w.last.Position)
				}
				w.put("status", `{"optime":24470707}`)
				if w.after(0); w.last.Position != 24470707 || len(w.starts) != 2 {
					t.Errorf("position %d through the second watch of %v", w.last.Position, w.starts)
				}
			})
		})
	}
}

func TestWatchThatNeverHoldsIsNoStorm(t *testing.T) {
	watch(t, func(_ *Options, s *store) { s.compacted = 1 << 40 }, func(t *testing.T, w *watched) {
		if w.after(10 * time.Minute); w.reads > 100 || len(w.starts) > 100 {
			t.Errorf("%d reads and %d watches in ten minutes", w.reads, len(w.starts))
		}
		w.put("leader", "n2") // n2 does not confirm
		if w.after(20 * time.Second); w.last.Leader != "" {
			t.Errorf("%+v", w.last)
		}
	})
}

func TestWatchReadsOnceForManyEvents(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		w.after(0)
		reads := w.reads
		w.mu.Lock()
		w.revision += 100
		for live := range w.watches {
			for i := range 100 {
				live <- response(w.revision - 99 + int64(i))
			}
		}
		w.mu.Unlock()
		if w.after(0); w.reads != reads+1 {
			t.Errorf("%d reads", w.reads-reads)
		}
	})
}

// No event tells that a lease is kept alive, and one may be lost on its way.
func TestWatchLooksByItself(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		w.after(0)
		w.set(&w.mute, true)
		w.put("status", `{"optime":24470708}`)
		if w.after(longestRound); w.last.Position != 24470708 {
			t.Errorf("position %d", w.last.Position)
		}
		w.put("config", `{"ttl":20,"loop_wait":2}`)
		w.after(longestRound)
		w.put("status", `{"optime":24470709}`)
		if w.after(2 * time.Second); w.last.Position != 24470709 {
			t.Errorf("position %d", w.last.Position)
		}
	})
}

func TestWatchSaysOnceThatEtcdIsAway(t *testing.T) {
	for name, stuck := range map[string]bool{"in mid watch": false, "before it answers a watch": true} {
		t.Run(name, func(t *testing.T) {
			watch(t, func(_ *Options, s *store) { s.stuck = stuck }, func(t *testing.T, w *watched) {
				w.after(0)
				first := leaderTerm(w)
				w.set(&w.gone, true)
				reads := w.reads
				expect(t, "an hour", w.after(time.Hour), `n1@0 "unreachable"`)
				if n := w.reads - reads; n < 300 || n > 400 {
					t.Errorf("%d looks in an hour", n)
				}
				if e, ok := errors.AsType[*UnreachableError](w.err); !ok || !strings.HasPrefix(e.Error(), "read /service/main from etcd: dial attempt ") {
					t.Error(w.err)
				}
				w.set(&w.gone, false)
				expect(t, "back", w.after(longestRound), news("n1@%d \"\"", first))
			})
		})
	}
}

// Failsafe: whoever leads without etcd says so itself.
func TestWatchAsksTheMembersWithoutEtcd(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		w.after(0)
		w.set(&w.gone, true)
		expect(t, "n1 goes on", w.after(longestRound), `n1@0 "unreachable"`)
		w.refuse("10.0.0.1:8008/primary")
		expect(t, "n1 is gone", w.after(longestRound), `@0 "unreachable"`)
		w.say("10.0.0.2:8008/primary", "")
		expect(t, "n2 was promoted", w.after(longestRound), `n2@0 "unreachable"`)
		w.say("10.0.0.3:8008/primary", "")
		expect(t, "two lead", w.after(longestRound), `@0 "unreachable"`)
		if len(w.last.Members) != 3 || w.last.Revision == 0 {
			t.Errorf("%+v", w.last)
		}
	})
}

func TestWatchTakesAFailoverForOneChange(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		w.after(0)
		w.remove("leader")
		expect(t, "nobody leads", w.after(time.Second), "")
		w.put("leader", "n2")
		expect(t, "n2 is being promoted", w.after(time.Second), "")
		w.say("10.0.0.2:8008/primary", "")
		expect(t, "n2 leads", w.after(2*time.Second), news("n2@%d \"\"", leaderTerm(w)))
		w.remove("leader")
		expect(t, "nobody leads", w.after(2*time.Second), "")
		expect(t, "nobody leads for long", w.after(time.Hour), `@0 ""`)
		w.put("leader", "n2")
		expect(t, "n2 leads again", w.after(0), news("n2@%d \"\"", leaderTerm(w)))
	})
}

func TestWatchSaysOnceThatALeaderIsUnconfirmed(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		w.after(0)
		w.say("10.0.0.2:8008/primary", "503")
		w.remove("leader")
		w.put("leader", "n2")
		expect(t, "n2 does not confirm", w.after(time.Hour), news("@%d \"unconfirmed n2\"", leaderTerm(w)))
		w.remove("members/n2")
		expect(t, "nor has it a key", w.after(time.Hour), news("@%d \"unconfirmed n2\"", leaderTerm(w)))
		w.put("members/n2", string(keyOf("members/n2")))
		w.say("10.0.0.2:8008/primary", "")
		expect(t, "n2 leads", w.after(longestRound), news("n2@%d \"\"", leaderTerm(w)))
	})
}

// The same leader with a new key was deposed in between; and only such a change
// makes us ask its REST API.
func TestWatchAsksALeaderOnceATerm(t *testing.T) {
	watch(t, nil, func(t *testing.T, w *watched) {
		for range 100 {
			w.put("status", `{"optime":24470800}`)
			w.put("status", `{"optime":24470801}`)
			w.after(time.Second)
		}
		if n := w.count("10.0.0.1:8008/primary"); n != 1 {
			t.Errorf("the leader was asked %d times", n)
		}
		w.put("leader", "n1") // as Patroni does with a new lease: the same term
		expect(t, "a new lease", w.after(time.Minute), "")
		old := leaderTerm(w)
		w.remove("leader")
		w.put("leader", "n1")
		expect(t, "a new term", w.after(0), news("n1@%d \"\"", leaderTerm(w)))
		if n := w.count("10.0.0.1:8008/primary"); n != 2 || leaderTerm(w) == old {
			t.Errorf("the leader was asked %d times", n)
		}
	})
}

func TestWatchThroughTheAPI(t *testing.T) {
	watch(t, func(o *Options, s *store) { o.V2 = true }, func(t *testing.T, w *watched) {
		expect(t, "nobody answers", w.after(0), `@0 "unreachable"`)
		member := func(host, body string) { w.say(host+":8008/cluster", body) }
		for _, host := range []string{"10.0.0.9", "10.0.0.1"} {
			w.say(host+":8008/patroni", `{"database_system_identifier":"7301234567890123456","patroni":{"scope":"main","version":"3.0.2"},"xlog":{"location":1000}}`)
			w.say(host+":8008/config", `{"ttl":20,"loop_wait":4,"failsafe_mode":true}`)
		}
		const one = `{"members":[{"name":"n1","role":"leader","state":"running","api_url":"http://10.0.0.1:8008/patroni","timeline":3},{"name":"n2","role":"sync_standby","state":"streaming","api_url":"http://10.0.0.2:8008/patroni","timeline":3,"lag":100}]}`
		member("10.0.0.9", one)
		if got := w.after(10 * time.Second); strings.Count(got, `n1@0 ""`) != 1 {
			t.Error(got)
		}
		if n2, _ := w.last.Member("n2"); w.last.LoopWait != 4*time.Second || n2.LSN != 900 || n2.State != "running" ||
			n2.ReplicationState != "streaming" || n2.Version != "3.0.2" || len(w.last.Synchronous) != 1 || w.last.Position != 1000 {
			t.Errorf("%+v", w.last)
		}
		reads := w.count("10.0.0.9:8008/cluster")
		expect(t, "nothing new", w.after(40*time.Second), "")
		if n := w.count("10.0.0.9:8008/cluster") - reads; n < 9 || n > 11 {
			t.Errorf("%d polls in ten rounds", n)
		}
		w.refuse("10.0.0.9:8008/cluster")
		member("10.0.0.1", strings.Replace(one, `"state":"running"`, `"state":"running","tags":{"nobackup":true}`, 1))
		w.after(4 * time.Second)
		if n1, _ := w.last.Member("n1"); w.err != nil || !n1.Tagged("nobackup") {
			t.Errorf("the other member was not asked: %+v, %v", w.last, w.err)
		}
		w.refuse("10.0.0.1:8008/cluster")
		expect(t, "no member answers", w.after(time.Minute), `n1@0 "unreachable"`)
		member("10.0.0.9", one)
		if got := w.after(time.Minute); !strings.HasPrefix(got, `n1@0 ""`) {
			t.Error("the API is back: " + got)
		}
		if w.reads != 0 {
			t.Errorf("%d reads of etcd", w.reads)
		}
	})
}

// A cluster whose keys appear in v3 later is seen there then.
func TestWatchComesBackToEtcd(t *testing.T) {
	watch(t, func(_ *Options, s *store) { clear(s.keys) }, func(t *testing.T, w *watched) {
		expect(t, "no keys, no API", w.after(time.Hour), `@0 "unreachable"`)
		for _, p := range keys() {
			w.put(strings.TrimPrefix(p.key, base+"/"), string(p.value))
		}
		if got := w.after(longestRound); !strings.HasPrefix(got, "n1@") || w.last.Revision == 0 {
			t.Error(got)
		}
	})
}
