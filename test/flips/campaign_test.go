//go:build campaign

package flips_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

var (
	count   = flag.Int("flips", 10_000, "how many bits are flipped")
	seed    = flag.Uint64("seed", 1, "of the choice of the bits")
	results = flag.String("results", "", "where the results are kept; what is there is not tried again")
)

// result is one line of the results. The repository is made anew with each run, so a
// flip is known by its number among those of its seed.
type result struct {
	Seed     uint64 `json:"seed"`
	N        int    `json:"n"`
	Kind     string `json:"kind"`
	Object   string `json:"object"`
	Byte     int64  `json:"byte"`
	Bit      int64  `json:"bit"`
	Thorough bool   `json:"thorough,omitempty"` // by the whole of verify, too
	Found    string `json:"found"`
}

// TestCampaignFlips flips thousands of bits, every fiftieth through the whole of verify.
func TestCampaignFlips(t *testing.T) {
	if *results == "" {
		root, err := lab.Root()
		if err != nil {
			t.Fatal(err)
		}
		*results = filepath.Join(root, ".cache", "campaign-flips.jsonl")
	}
	if err := os.MkdirAll(filepath.Dir(*results), 0o755); err != nil {
		t.Fatal(err)
	}
	done := map[int]bool{}
	all := map[string]int{}
	if content, err := os.ReadFile(*results); err == nil {
		for line := range strings.Lines(string(content)) {
			var r result
			if json.Unmarshal([]byte(line), &r) == nil && r.Seed == *seed && r.Found != "" {
				done[r.N] = true
				all[r.Kind]++
			}
		}
	}
	out, err := os.OpenFile(*results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := newWorld(t)
	if found, err := w.whole(); err != nil || len(found) > 0 {
		t.Fatalf("before any flip: %+v %v", found, err)
	}
	t.Logf("seed %d", *seed)
	for n, f := range w.deal(*count, *seed) {
		if done[n] {
			continue
		}
		key, err := filepath.Rel(w.dir, f.path)
		w.must(err)
		r := result{Seed: *seed, N: n, Kind: f.kind, Object: key, Byte: f.bit / 8, Bit: f.bit % 8, Thorough: n%50 == 0}
		if r.Found = w.try(f, r.Thorough); r.Found == "" {
			t.Errorf("%s: bit %d of byte %d of %s is flipped, and nothing was found", r.Kind, r.Bit, r.Byte, r.Object)
		}
		all[r.Kind]++
		line, err := json.Marshal(r)
		w.must(err)
		_, err = out.Write(append(line, '\n'))
		w.must(err)
	}
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		t.Logf("%-16s %5d", kind, all[kind])
	}
}
