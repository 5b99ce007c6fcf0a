//go:build campaign

package store_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

var (
	rounds  = flag.Int("rounds", 0, "rounds of a killed server at most; 0: around each request of each command")
	weather = flag.Int("weather", 6, "rounds of FoundationDB's weather")
	only    = flag.String("only", "", "this command alone")
	seed    = flag.Uint64("seed", 0, "0 draws one")
	results = flag.String("results", "", "file of results; what is in it is not run again")
)

// TestCampaignStore kills the server around every request of every command, and lets the
// store be as bad as FoundationDB's simulator, for as long as told.
func TestCampaignStore(t *testing.T) {
	if *results == "" {
		root, err := lab.Root()
		if err != nil {
			t.Fatal(err)
		}
		*results = filepath.Join(root, ".cache", "campaign-store.jsonl")
	}
	if *seed == 0 {
		*seed = rand.Uint64() >> 12
	}
	t.Logf("seed %d", *seed)
	done := map[string]bool{}
	if content, err := os.ReadFile(*results); err == nil {
		for line := range strings.Lines(string(content)) {
			var r result
			if json.Unmarshal([]byte(line), &r) == nil && r.Seed == *seed && len(r.Faults) == 0 {
				done[r.Name] = true
			}
		}
	}
	w := newWorld(t)
	for i := range *weather {
		if name := fmt.Sprintf("weather %d", i); !done[name] {
			w.record(w.storm(name, faultproxy.FoundationDB, *seed, i))
		}
	}
	type round struct {
		c  *command
		n  int
		at faultproxy.Moment
	}
	var all []round
	for _, c := range w.commands() {
		if *only != "" && c.name != *only {
			continue
		}
		w.count(c)
		t.Logf("%s: %d requests", c.name, len(c.requests))
		for n := range c.requests {
			for _, at := range moments {
				all = append(all, round{c, n + 1, at})
			}
		}
	}
	rand.New(rand.NewPCG(*seed, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i, one := range all {
		if *rounds > 0 && i >= *rounds {
			break
		}
		if bodiless(one.c.requests[one.n-1], one.at) {
			continue // should another request come in its place, its rounds are for that
		}
		if name := fmt.Sprintf("%s %d %s", one.c.name, one.n, one.at); !done[name] {
			w.record(w.around(one.c, one.n, one.at, *seed))
		}
	}
}

func (w *world) record(r result) {
	w.Helper()
	w.report(r)
	line, err := json.Marshal(r)
	w.must(err)
	f, err := os.OpenFile(*results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	if _, err := f.Write(append(line, '\n')); err != nil || f.Close() != nil {
		w.Errorf("the results were not written: %v", err)
	}
}
