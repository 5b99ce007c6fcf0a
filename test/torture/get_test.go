package torture

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// gets are the situations of archive-get.
func (w *world) gets() (all []*scenario) {
	w.Helper()
	w.must(Put(w.at("live"), w.at("ready/all")))
	w.must(removeAll(w.at("ready/all", w.root1(), "backup")))
	name := func(i int) string { return w.fresh[i] }
	contents := map[string][]byte{}
	for _, n := range w.fresh {
		contents[n] = w.contents[n]
	}
	dest := "pg_wal/RECOVERYXLOG"
	for _, c := range []struct {
		name, config, signal string
		file                 string
		spooled              bool
		want                 int
		trouble              []int
	}{
		{"recovery", "work", "recovery.signal", name(0), false, 0, []int{200}},
		{"spooled", "work", "recovery.signal", name(1), true, 0, []int{200}},
		{"far", "far", "recovery.signal", name(0), false, 0, []int{200}},
		{"far-spooled", "far", "recovery.signal", name(1), true, 0, []int{200}},
		{"standby", "work", "standby.signal", name(0), false, 0, []int{75}},
		{"absent", "work", "recovery.signal", "00000001000000000000FFFF", false, 1, []int{200}},
		{"absent-standby", "work", "standby.signal", "00000001000000000000FFFF", false, 1, []int{75}},
		{"absent-history", "work", "recovery.signal", "00000002.history", false, 1, []int{200}},
		{"rewind", "work", "", name(2), false, 0, []int{75}},
		{"gap", "work", "recovery.signal", name(2), false, 200, []int{200}}, // it is missing, and the archive goes on: never 1
	} {
		spool := w.at("spool")
		if c.config == "far" {
			spool = w.run.Path("elsewhere")
		}
		target := dest
		if c.signal == "" {
			target = "pg_wal/" + c.file
		}
		place := func() {
			w.put("node", "node", "all", "repo", "empty", "state", "empty", "spool")
			w.must(removeAll(w.run.Path("elsewhere")))
			w.mkdirAt(w.run.Path("elsewhere"))
			for _, f := range w.fresh {
				w.must(removeAll(w.at("node/pg_wal", f)))
			}
			if c.name == "gap" {
				w.must(removeAll(w.at("repo", w.root1(), "wal", c.file[:8], c.file[8:16], c.file)))
			}
			if c.signal != "" {
				w.write(w.at("node", c.signal), nil)
			}
		}
		if c.spooled { // by the get before
			place()
			if code, output := w.call(c.config, w.at("node"), "archive-get", name(0), dest); code != 0 {
				w.Fatalf("get exits %d: %s", code, output)
			}
			w.must(Put(spool, w.at("ready/spool-"+c.config)))
		}
		s := &scenario{
			name: "get/" + c.name, config: c.config, dir: w.at("node"), args: []string{"archive-get", c.file, target},
			prepare: func() {
				place()
				if c.spooled {
					w.must(Put(w.at("ready/spool-"+c.config), spool))
				}
			},
			want: c.want, trouble: c.trouble,
			after: func(o Outcome) []string {
				faults := Whole(w.at("node", target), w.contents[c.file], true)
				if _, err := os.Stat(w.at("node", target)); err == nil && !o.Dead() && o.Code != 0 {
					faults = append(faults, "the file is there, and the command ends with "+o.String())
				}
				return append(faults, JudgeSpool(spool, contents)...)
			},
			roots: map[string]string{"repository": w.at("repo"), "spool": spool, "pgdata": w.at("node"), "state": w.at("state")},
		}
		s.sweep = func() { // one from the repository: those from the spool are to be fast
			w.must(removeAll(spool))
			w.mkdirAt(spool)
			w.call(c.config, w.at("node"), s.args...)
		}
		s.whole = func(o Outcome) []string {
			faults := JudgeSpool(spool, contents)
			if c.want == 0 {
				faults = append(faults, Whole(w.at("node", target), w.contents[c.file], false)...)
			} else if _, err := os.Stat(w.at("node", target)); err == nil {
				faults = append(faults, target+" is there, and absent")
			}
			return append(faults, w.strangers(target)...)
		}
		all = append(all, s)
	}
	return all
}

// strangers are files in pg_wal that no get has put there.
func (w *world) strangers(target string) (faults []string) {
	files, err := os.ReadDir(w.at("node/pg_wal"))
	w.must(err)
	for _, f := range files {
		if f.Name() != path.Base(target) && !strings.Contains(f.Name(), ".pgha-tmp-") {
			faults = append(faults, filepath.Join("pg_wal", f.Name())+" is nothing that was asked for")
		}
	}
	slices.Sort(faults)
	return faults
}
