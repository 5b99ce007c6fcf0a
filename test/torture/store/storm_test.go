package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/torture"
)

// step is one command of the work in bad weather. Trouble are the codes that it may end
// with before it succeeds.
type step struct {
	config, dir string
	args        []string
	want        int
	trouble     []int
	again       func(outcome) // before another try; nil: nothing
}

const tries = 25

// storm does mixed work in bad weather, each command until it succeeds, and judges what
// is there then in good weather.
func (w *world) storm(name string, weather faultproxy.Weather, seed uint64, index int) result {
	w.Helper()
	began := time.Now()
	r := result{Name: name, Seed: seed, Command: "mixed work", Struck: true, Next: -1}
	w.proxy.Set()
	w.reset()
	w.withoutBackups()
	_ = os.Remove(filepath.Join(w.node, "recovery.signal"))
	restored := filepath.Join(w.run.Mkdir(lab.User1, 0o700, "storm"), fmt.Sprintf("restored%d", index))
	ledger := torture.Ledger{}
	for file, sum := range w.archived {
		ledger[file] = sum
	}
	before := len(w.proxy.Requests())
	w.proxy.Choose(weather.Faults(seed + uint64(index)*1_000_003))
	do := func(s step) outcome {
		var o outcome
		for n := 1; ; n++ {
			o = w.call(s.config, s.dir, s.args...)
			switch {
			case o.code == s.want:
				r.Code += n - 1
				return o
			case !slices.Contains(s.trouble, o.code) || !strings.Contains(o.stderr, "error"):
				r.Faults = append(r.Faults, fmt.Sprintf("%s, try %d, exits %d:\n%s", s.args, n, o.code, o.output()))
			}
			if n == tries {
				r.Faults = append(r.Faults, fmt.Sprintf("%s does not succeed in %d tries:\n%s", s.args, tries, o.output()))
				return o
			}
			if s.again != nil {
				s.again(o)
			}
		}
	}
	push := func(file string) {
		if o := do(step{"work", w.node, []string{"archive-push", "pg_wal/" + file}, 0, []int{1}, nil}); o.code == 0 {
			ledger.Acknowledge(file, w.contents[file])
		}
	}
	for _, file := range w.fresh {
		push(file)
	}
	push(w.fresh[0])
	do(step{"living", w.pg.DataDir, []string{"backup"}, 0, []int{8}, nil})
	do(step{"work", w.node, []string{"list", "--all"}, 0, []int{8}, nil})
	w.run.WriteFile(lab.User1, 0o600, "", "node/recovery.signal")
	for _, file := range append(w.fresh, w.old[0]) {
		target := filepath.Join(w.node, "pg_wal/RECOVERYXLOG")
		do(step{"work", w.node, []string{"archive-get", file, "pg_wal/RECOVERYXLOG"}, 0, []int{200}, nil})
		r.Faults = append(r.Faults, torture.Whole(target, w.contents[file], false)...)
		_ = os.Remove(target)
	}
	do(step{"work", w.node, []string{"archive-get", "00000002.history", "pg_wal/RECOVERYHISTORY"}, 1, []int{200}, nil})
	do(step{"living", w.node, []string{"restore", "--pgdata", restored, "--yes"}, 0, []int{8}, nil})
	do(step{"work", w.node, []string{"expire", "--yes"}, 0, []int{8}, nil})
	do(step{"work", w.node, []string{"verify"}, 0, []int{8}, nil})
	w.proxy.Set()
	w.proxy.Settle()
	r.Requests = len(w.proxy.Requests()) - before
	r.Uploads = w.uploads("living")

	for file := range ledger { // what the expiry of an older backup rightly took
		if file < w.old[0] {
			delete(ledger, file)
		}
	}
	r.Faults = append(r.Faults, w.sound("work", ledger)...)
	r.Faults = append(r.Faults, w.sound("living", torture.Ledger{})...)
	if out, err := w.run.Command(w.Context(), lab.User1, nil, w.pg.Bin("pg_verifybackup"), "-n", restored).CombinedOutput(); err != nil {
		r.Faults = append(r.Faults, fmt.Sprintf("pg_verifybackup: %v\n%s", err, out))
	}
	w.must(os.RemoveAll(restored))
	r.Seconds = time.Since(began).Seconds()
	return r
}
