//go:build campaign

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// gapResult is one line of the results.
type gapResult struct {
	Name    string   `json:"name"`
	Seed    uint64   `json:"seed"`
	At      string   `json:"at"`
	Case    string   `json:"case"`
	Whole   bool     `json:"whole"` // as it has to be
	Backlog []string `json:"backlog"`
	Lost    []string `json:"lost"`
	About   int      `json:"about"` // of the lost, still in some member's pg_wal, and offered by nobody
	Acked   int      `json:"acked"`
	Seconds float64  `json:"seconds"`
	Passed  bool     `json:"passed"`
}

// controls are what becomes of the archive without some of the means.
var controls = []struct {
	means
	phase, back string
	whole       bool
}{
	// In a torn outage each one is needed: the older half of the backlog is on a standby that is not promoted and
	// that has had its restartpoints since, the newer half on the new leader, whose daemon is dead.
	{means{false, true, true}, torn, atPromotion, false},
	{means{true, false, true}, torn, atPromotion, false},
	{means{true, true, false}, torn, atPromotion, false},
	{means{}, torn, atPromotion, false},
	// In simpler ones, one is.
	{means{false, true, true}, long, atPromotion, false},
	{means{true, false, true}, anew, atPromotion, false},
	{means{true, true, false}, deaf, atPromotion, false},
	{means{}, long, atPromotion, false},
	{means{}, short, later, false},
	// One alone is not enough.
	{means{true, false, false}, short, atPromotion, false},
	{means{false, true, false}, long, atPromotion, false},
	{means{false, false, true}, long, atPromotion, false},
	// And where one makes up for another.
	{means{false, true, false}, short, later, true}, // as long as no other standby has a restartpoint
	{means{false, false, true}, short, later, true},
	{means{true, true, false}, long, later, true},
	{means{true, false, true}, long, later, true},
}

// TestCampaignGap has a leader die with a backlog, ten times in different phases, and
// shows what each of the means is for.
func TestCampaignGap(t *testing.T) {
	if *results == "" {
		root, err := lab.Root()
		if err != nil {
			t.Fatal(err)
		}
		*results = filepath.Join(root, ".cache", "campaign-gap.jsonl")
	}
	done := map[string]bool{}
	if content, err := os.ReadFile(*results); err == nil {
		for line := range strings.Lines(string(content)) {
			var r gapResult
			if json.Unmarshal([]byte(line), &r) == nil && r.Passed && r.Seed == *seed {
				done[r.Name+r.Case] = true
			}
		}
	}
	play := func(name string, c gapCase, whole bool) {
		if !done[name+c.String()] {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // most of it is waiting
				recorded(t, gapResult{Name: name, Seed: *seed, Case: c.String(), Whole: whole}, c)
			})
		}
	}
	t.Logf("seed %d", *seed)
	for i, c := range gapRounds(*seed) {
		play(fmt.Sprintf("round%d", i), c, true)
	}
	for i, c := range controls {
		play(fmt.Sprintf("control%d", i), gapCase{c.means, c.phase, closed, c.back}, c.whole)
	}
}

// gapRounds deals ten rounds: each phase twice, the long outage once more, every moment
// of return and every kind of outage at least twice.
func gapRounds(seed uint64) (all []gapCase) {
	random := rand.New(rand.NewPCG(seed, 2))
	phases := []string{long, torn, short, deaf, anew}
	moments := []string{beforeKill, beforePromotion, atPromotion, later}
	kinds := []string{closed, silent, full}
	moment, kind := random.Perm(len(moments)), random.Perm(len(kinds))
	for i := range 10 {
		all = append(all, gapCase{means{true, true, true}, phases[i%len(phases)], kinds[kind[i%len(kinds)]], moments[moment[i%len(moments)]]})
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func recorded(t *testing.T, r gapResult, c gapCase) {
	began := time.Now()
	r.At = began.UTC().Format(time.RFC3339)
	t.Cleanup(func() {
		r.Passed, r.Seconds = !t.Failed(), time.Since(began).Seconds()
		line, err := json.Marshal(r)
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
	f := unbroken(t, c, r.Whole)
	r.Backlog, r.Lost, r.About, r.Acked = f.backlog, f.lost, f.about, f.acked
}
