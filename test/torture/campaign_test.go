//go:build campaign

package torture

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

var (
	crashPoints  = flag.Int("points", 2000, "points of the crash campaign, over all situations")
	crashSeed    = flag.Uint64("seed", 1, "seed of the crash campaign")
	crashResults = flag.String("results", "", "file of results, one JSON line a point; what is in it is not run again")
	crashOnly    = flag.String("only", "", "only situations that begin so, as restore/")
)

// TestCampaignCrash ends every command at thousands of points, and lets its calls fail.
func TestCampaignCrash(t *testing.T) {
	if *crashResults == "" {
		root, err := lab.Root()
		if err != nil {
			t.Fatal(err)
		}
		*crashResults = filepath.Join(root, ".cache", "campaign-crash.jsonl")
	}
	type point struct {
		scenario string
		index    int
	}
	done := map[point]bool{}
	if content, err := os.ReadFile(*crashResults); err == nil {
		for line := range strings.Lines(string(content)) {
			var r result
			if json.Unmarshal([]byte(line), &r) == nil && r.Seed == *crashSeed && len(r.Faults) == 0 {
				done[point{r.Scenario, r.Index}] = true
			}
		}
	}
	results, err := os.OpenFile(*crashResults, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer results.Close()
	t.Logf("seed %d, %d points there already", *crashSeed, len(done))
	w := newWorld(t)
	var all []*scenario
	for _, s := range w.scenarios() {
		if strings.HasPrefix(s.name, *crashOnly) {
			w.refer(s)
			all = append(all, s)
		}
	}
	// Situations take turns, so that a campaign that is cut short has seen them all.
	ran, missed := map[string]int{}, 0
	for i := range (*crashPoints + len(all) - 1) / len(all) {
		for _, at := range rand.New(rand.NewPCG(*crashSeed, uint64(i))).Perm(len(all)) {
			s := all[at]
			if done[point{s.name, i}] {
				continue
			}
			r := w.attempt(s, *crashSeed, i)
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := results.Write(append(line, '\n')); err != nil {
				t.Fatal(err)
			}
			ran[s.name]++
			if !r.Hit {
				missed++
			}
			w.report(s, r)
		}
	}
	for _, s := range all {
		t.Logf("%-22s %d points", s.name, ran[s.name])
	}
	t.Logf("%d points were not reached: the command had ended", missed)
}
