package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// work starts the ledger's clients on the primary; stop ends them and insists
// that they really wrote.
func (w *world) work(journal string) (stop func()) {
	w.Helper()
	seed := rand.Uint64()
	w.Logf("ledger seed %d", seed)
	load, err := ledger.Start(w.Context(), w.cluster.PrimaryDSN(), ledger.Options{Dir: journal, Seed: seed, Pause: 2 * time.Millisecond})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if err := load.WaitAcked(ctx, 200); err != nil {
		w.Fatal(err)
	}
	return func() {
		w.Helper()
		stats, err := load.Stop()
		if err != nil {
			w.Fatal(err)
		}
		if stats.Acked < 200 {
			w.Fatalf("the workload committed only %d transactions", stats.Acked)
		}
		w.Logf("ledger: %d acknowledged, %d indeterminate", stats.Acked, stats.Indeterminate)
	}
}

// refused insists that a restore ends in this exit code before anything was
// written, and that its words hold all of these.
func (w *world) refused(m *lab.Member, code int, args []string, words ...string) {
	w.Helper()
	dir, r := w.tryRestore(m, args...)
	if r.code != code {
		w.Errorf("restore %s: want exit %d, got %s", strings.Join(args, " "), code, r)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			w.Errorf("restore %s: its error does not say %q: %s", strings.Join(args, " "), word, r.stderr)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		w.Errorf("restore %s: refused, and %s exists", strings.Join(args, " "), dir)
	}
}

// TestPointInTime is the main job: every kind of target, on two timelines, judged
// by the ledger.
func TestPointInTime(t *testing.T) {
	w := newWorld(t, worldOptions{})
	journal := t.TempDir()
	leader := w.cluster.Leader()

	// An idle cluster: nothing but the backup itself makes WAL.
	idle := w.backup(leader)
	if idle.Timeline != 1 || idle.StopLSN <= idle.StartLSN {
		t.Fatalf("the idle cluster's backup: %+v", idle)
	}
	w.restoreAndStart(leader, "--target-immediate").stop()

	m := w.marker()
	before := m.mark("before-load")
	stop := w.work(journal)
	first := w.backup(leader)
	m.mark("a")
	m.exec("select pg_create_restore_point('between-a-and-b')")
	b := m.mark("b")
	// Two commits as close as one connection can make them.
	c1, c2 := m.twice("c1", "c2")
	k1, k2 := m.describe("c1", c1), m.describe("c2", c2)
	if !k1.at.Before(k2.at) {
		t.Fatalf("commits at %s and %s", k1.at, k2.at)
	}
	t.Logf("two commits %s apart", k2.at.Sub(k1.at))
	m.archived() // what follows lies in another segment
	d := m.mark("d")
	m.mark("e")
	stop()
	m.mark("last-of-1")
	m.archived()
	commits := w.commits(1)

	const beforeLedger = "from the older backup, before the ledger was made"
	for _, c := range []struct {
		name, marks string
		args        []string
	}{
		{"latest", "before-load a b c1 c2 d e last-of-1", nil},
		{"time", "before-load a b c1", []string{"--target-time", stamp(k1.at)}},
		{"time exclusive", "before-load a b", []string{"--target-time", stamp(k1.at), "--target-exclusive"}},
		{"time of the later one", "before-load a b c1 c2", []string{"--target-time", stamp(k2.at)}},
		{"xid", "before-load a b", []string{"--target-xid", decimal(b.xid)}},
		{"xid exclusive", "before-load a", []string{"--target-xid", decimal(b.xid), "--target-exclusive"}},
		{"name", "before-load a", []string{"--target-name", "between-a-and-b"}},
		{"lsn", "before-load a b c1 c2 d", []string{"--target-lsn", d.lsn.String(), "--target-exclusive"}},
		{"immediate", "before-load", []string{"--target-immediate", "--backup", string(first.ID)}},
		{beforeLedger, "before-load", []string{"--target-time", stamp(before.at), "--backup", string(idle.ID)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.T = t
			r := sub.restoreAndStart(leader, c.args...)
			w.restore = sub.restore
			if got := r.marks(); got != c.marks {
				t.Errorf("the copy holds %q, want %q", got, c.marks)
			}
			if c.name != beforeLedger {
				t.Logf("ledger: %+v", r.judge(journal, commits))
			} else {
				r.stop()
			}
		})
	}

	t.Run("refusals", func(t *testing.T) {
		sub := *w
		sub.T, sub.restore = t, 100
		sub.refused(leader, 4, []string{"--target-time", stamp(idle.StartTime.Add(-time.Hour))}, "nearest")
		sub.refused(leader, 4, []string{"--target-time", stamp(time.Now().Add(time.Hour))}, "nearest")
		sub.refused(leader, 4, []string{"--target-lsn", "7F/0"}, "nearest")
		sub.refused(leader, 6, []string{"--target-name", "nobody-made-this"}, "between-a-and-b")
		if _, r := sub.tryRestore(leader, "--target-time", "2026-11-21 14:00:00"); r.code != 2 || !strings.Contains(r.stderr, "offset") {
			t.Errorf("a time without an offset: %s", r)
		}
	})

	// A second timeline, with targets on each.
	replica := w.cluster.Replicas()[0]
	onOne := stamp(d.at)
	leader = w.cluster.Switchover(replica)
	m = w.marker()
	stop = w.work(journal)
	f := m.mark("f")
	w.backup(leader)
	g := m.mark("g")
	stop()
	m.mark("h")
	m.archived()
	commits = w.commits(1, 2)
	for _, c := range []struct {
		name, marks string
		args        []string
	}{
		{"old timeline, across the switch", "before-load a b c1 c2 d e last-of-1 f", []string{"--target-time", stamp(f.at), "--backup", string(first.ID)}},
		{"a time on the old timeline", "before-load a b c1 c2 d", []string{"--target-time", onOne}},
		{"the old timeline by number", "before-load a b c1 c2 d", []string{"--target-time", onOne, "--target-timeline", "1"}},
		{"new timeline", "before-load a b c1 c2 d e last-of-1 f g", []string{"--target-time", stamp(g.at)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.T = t
			r := sub.restoreAndStart(leader, c.args...)
			w.restore = sub.restore
			if got := r.marks(); got != c.marks {
				t.Errorf("the copy holds %q, want %q", got, c.marks)
			}
			r.judge(journal, commits)
		})
	}

	t.Run("gaps", func(t *testing.T) {
		sub := *w
		sub.T, sub.restore = t, 200
		// One before the backup or behind the target does no harm; one between them is refused.
		sub.lose(segmentOf(idle.StartLSN, 1))
		sub.lose(segmentOf(d.lsn, 1))
		sub.restoreAndStart(leader, "--target-time", stamp(k1.at)).stop()
		sub.refused(leader, 4, []string{"--target-time", stamp(d.at), "--target-timeline", "1"}, segmentOf(d.lsn, 1), "nearest")
	})
}

func segmentOf(lsn postgres.LSN, tli postgres.TimelineID) string {
	return postgres.SegmentAt(tli, lsn, postgres.DefaultSegmentSize).Name()
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
