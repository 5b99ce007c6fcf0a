//go:build campaign

package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

var (
	rounds  = flag.Int("rounds", 5, "rounds that the results file shall hold; those that it holds already are not run again")
	blows   = flag.Int("blows", 4, "leaders exchanged in one round")
	seed    = flag.Uint64("seed", 1, "of the first round; the next has one more")
	results = flag.String("results", "", "file that each round's outcome is appended to; .cache/campaign.jsonl")
)

// minutely is a schedule each minute, slow enough that a blow meets every phase.
const minutely = `schedules:
  - {name: often, cron: "@every 1m", source: prefer-replica, replica_wait: 10s, attempts: 50, retry_delay: 1s, timeout: 3m}
backup: {rate_limit: 3MiB}
retention: {keep: 1000}
daemon: {listen: "{host}:8018"}
`

// outcome is one line of the results.
type outcome struct {
	Round   int      `json:"round"`
	Seed    uint64   `json:"seed"`
	At      string   `json:"at"`
	Blows   []string `json:"blows"`
	Taken   int      `json:"taken"`
	Missed  int      `json:"missed"`
	MiB     float64  `json:"daemon_mib"`
	Seconds float64  `json:"seconds"`
	Passed  bool     `json:"passed"`
}

// TestCampaign exchanges leaders in random phases of backups, in peace and by kill -9,
// with etcd members, daemons and whole hosts among the victims: every scheduled time
// gives one backup or a report, every backup is restorable, the ledger is exact.
func TestCampaign(t *testing.T) {
	if *results == "" {
		root, err := lab.Root()
		if err != nil {
			t.Fatal(err)
		}
		*results = filepath.Join(root, ".cache", "campaign.jsonl")
	}
	done := map[int]bool{}
	if content, err := os.ReadFile(*results); err == nil {
		for line := range strings.Lines(string(content)) {
			var o outcome
			if json.Unmarshal([]byte(line), &o) == nil && o.Passed {
				done[o.Round] = true
			}
		}
	}
	for round := range *rounds {
		if done[round] {
			t.Logf("round %d has passed before", round)
			continue
		}
		t.Run(fmt.Sprintf("round%d", round), func(t *testing.T) { oneRound(t, round, *seed+uint64(round)) })
	}
}

func oneRound(t *testing.T, round int, seed uint64) {
	began := time.Now()
	o := outcome{Round: round, Seed: seed, At: began.UTC().Format(time.RFC3339)}
	t.Cleanup(func() {
		o.Passed, o.Seconds = !t.Failed(), time.Since(began).Seconds()
		line, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(*results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(append(line, '\n')); err != nil || f.Close() != nil {
			t.Errorf("the results were not written: %v", err)
		}
	})
	w := newWorld(t, worldOptions{extra: minutely})
	d := w.daemons(time.Minute)
	first, journal := time.Now(), t.TempDir()
	stop := w.work(journal)
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	timelines := []postgres.TimelineID{1}
	hand := shuffled(seed-uint64(round), round)
	var blown catalog.BackupID // that met a blow last
	for i := range *blows {
		o.Blows = append(o.Blows, d.blow(random, hand[i%len(hand)], &blown))
		t.Log(o.Blows[len(o.Blows)-1])
		timelines = append(timelines, timelines[len(timelines)-1]+1)
	}
	last := d.onTimeline(w.cluster.Leader(), uint32(timelines[len(timelines)-1]), 5*time.Minute)
	stop()
	m := w.marker()
	m.mark("last")
	m.archived()
	for _, m := range w.cluster.Members {
		o.MiB = max(o.MiB, d.residentMiB(m))
	}
	if o.MiB > 200 {
		t.Errorf("a daemon has %.0f MiB", o.MiB)
	}
	o.Taken, o.Missed = d.eachTimeOnce(first, time.Now().Add(-d.period))
	if o.Missed > o.Taken {
		t.Errorf("%d were missed, %d taken", o.Missed, o.Taken)
	}
	d.stop()
	leader := w.cluster.Leader()
	commits := w.commits(timelines...)
	for _, b := range d.list(leader) {
		if b.State != "ok" {
			t.Errorf("%+v", b)
			continue
		}
		r := w.restoreAndStart(leader, "--target-immediate", "--backup", string(b.ID))
		t.Logf("%s of %s on timeline %d: %+v", b.ID, b.Member, b.Timeline, r.judge(journal, commits))
		r.remove()
	}
	r := w.restoreAndStart(leader, "--backup", string(last.ID))
	if got := r.marks(); got != "last" {
		t.Errorf("the copy holds %q", got)
	}
	t.Logf("to the end: %+v", r.judge(journal, commits))
}

// card is one way to exchange the leader, in one phase of a backup.
type card struct{ phase, kind string }

// shuffled deals a round its cards. Five rounds of four share a deck, so that every kind
// of blow and every phase comes up: half of the leaders are killed, twice an etcd member too.
func shuffled(seed uint64, round int) []card {
	random := rand.New(rand.NewPCG(seed, uint64(round/5)))
	kinds := strings.Fields("switch switch switch switch host host host host host host host host etcd etcd daemon daemon daemon sleep sleep sleep")
	phases := []string{"", "start", "copy", "stop", "wal"}
	random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	var hand []card
	for i := range 4 {
		at := round%5*4 + i
		hand = append(hand, card{phases[at%len(phases)], kinds[at]})
	}
	return hand
}

// blow waits for a phase of a backup, then exchanges the leader in one way and says
// what was done. In the end everything runs again.
func (d *daemons) blow(random *rand.Rand, c card, blown *catalog.BackupID) string {
	d.Helper()
	phase := c.phase
	busy, met := d.meet(phase, blown)
	time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
	leader := d.cluster.Leader()
	said := fmt.Sprintf("during %q (met: %q of %s), ", phase, met, busy)
	restart := func(p *lab.Process) {
		d.Helper()
		if err := p.Restart(); err != nil {
			d.Fatal(err)
		}
	}
	switch c.kind {
	case "switch":
		return said + "switched over to " + d.cluster.Switchover(nil).Name
	case "host": // it dies, daemon and all
		d.running[leader.Name].Kill9()
		dead, next := d.cluster.Failover()
		dead.Start()
		restart(d.running[dead.Name])
		d.cluster.WaitHealthy(3 * time.Minute)
		return said + "killed the host of " + dead.Name + ", leader " + next.Name
	case "etcd": // a member of it with the leader
		e := d.cluster.Etcd.Members[random.IntN(len(d.cluster.Etcd.Members))]
		e.Kill9()
		dead, next := d.cluster.Failover()
		e.Start()
		dead.Start()
		d.cluster.WaitHealthy(3 * time.Minute)
		return said + "killed " + e.Name + " and " + dead.Name + ", leader " + next.Name
	case "daemon": // the one that works, and a switchover while it is dead
		victim := d.running[busy]
		victim.Kill9()
		next := d.cluster.Switchover(nil)
		restart(victim)
		return said + "killed the daemon of " + busy + " and switched over to " + next.Name
	default: // a daemon sleeps longer than its lease, through a failover
		victim := d.running[busy]
		if err := victim.Signal(syscall.SIGSTOP); err != nil {
			d.Fatal(err)
		}
		slept := time.Now()
		next := d.cluster.Switchover(nil)
		time.Sleep(time.Until(slept.Add(30 * time.Second)))
		if err := victim.Signal(syscall.SIGCONT); err != nil {
			d.Fatal(err)
		}
		return said + "stopped the daemon of " + busy + " for 30 s and switched over to " + next.Name
	}
}

// meet waits, for a schedule's period and a bit, until some daemon is in a phase of a
// backup that no blow has met yet: each can be tried again in what is left of its
// time. It returns the member and the phase that it was in last.
func (d *daemons) meet(phase string, blown *catalog.BackupID) (member, met string) {
	member = d.cluster.Members[0].Name
	for limit := time.Now().Add(80 * time.Second); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		for _, m := range d.cluster.Members {
			s, err := d.status(m)
			if err != nil || len(s.Running) == 0 || s.Running[0].Backup == *blown {
				continue
			}
			if member, met = m.Name, s.Running[0].Phase; phase == "" || met == phase {
				*blown = s.Running[0].Backup
				return member, met
			}
		}
	}
	return member, met
}

// remove frees the disk of a copy that was judged.
func (r *restored) remove() {
	r.Helper()
	if err := os.RemoveAll(r.dir); err != nil {
		r.Error(err)
	}
}
