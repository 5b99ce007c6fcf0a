package torture

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// expiries are the situations of expire and of what stands in its way.
func (w *world) expiries() (all []*scenario) {
	w.Helper()
	ready := w.at("ready/base", w.root1())
	kept := w.backups[len(w.backups)-1]
	content, err := os.ReadFile(filepath.Join(ready, "backup", kept, "manifest.json"))
	w.must(err)
	var m catalog.Manifest
	w.must(json.Unmarshal(content, &m))
	first := postgres.SegmentAt(m.Timeline, m.StartLSN, 1<<20).Name()
	// needed must be there to the end: the backup that is kept, and all that it can be rolled forward with.
	needed := func(path string) bool {
		name := filepath.Base(path)
		return strings.Contains(path, "/backup/"+kept+"/") || path == w.root1()+"/repository.json" || strings.HasSuffix(path, ".history") ||
			strings.Contains(path, "/wal/") && len(name) >= 24 && name[:24] >= first
	}

	// Second stage: two backups hidden long ago, and a run that was killed long ago.
	w.put("base", "repo", "empty", "state")
	if code, output := w.call("work", w.arena, "expire", "--yes"); code != 0 {
		w.Fatalf("expire exits %d: %s", code, output)
	}
	long := time.Now().Add(-30 * 24 * time.Hour).UTC().Truncate(time.Second)
	for _, id := range w.backups[:len(w.backups)-1] {
		w.edit(filepath.Join(w.at("repo", w.root1()), "backup", id, "expired.json"), "at", long)
	}
	const dead = "20260101T000000Z-manual-0000"
	garbage := w.at("repo", w.root1(), "backup", dead)
	w.must(Put(filepath.Join(ready, "backup", kept), garbage))
	w.must(removeAll(filepath.Join(garbage, "manifest.json")))
	w.edit(filepath.Join(garbage, string(m.Run), "started"), "id", dead)
	w.must(backdate(garbage, long))
	for _, id := range w.backups[:len(w.backups)-1] {
		w.must(backdate(filepath.Join(w.at("repo", w.root1()), "backup", id), long))
	}
	w.must(Put(w.at("repo"), w.at("ready/due")))
	w.put("base", "repo")
	if code, output := w.call("work", w.arena, "hold", w.backups[0], "--name", "torture", "--reason", "looks"); code != 0 {
		w.Fatalf("hold exits %d: %s", code, output)
	}
	w.must(Put(w.at("repo"), w.at("ready/held")))
	// A hole, which a person accepts.
	w.put("base", "repo")
	hole := filepath.Join(w.at("repo", w.root1()), "wal", first[:8], first[8:16], first)
	w.must(removeAll(hole))
	w.must(backdate(w.at("repo"), time.Now().Add(-time.Hour))) // what comes behind it has not just come
	w.must(Put(w.at("repo"), w.at("ready/hole")))

	for _, c := range []struct {
		name, repo string
		args       []string
		again      []int
	}{
		{"hide", "base", []string{"expire", "--yes"}, nil},
		{"remove", "due", []string{"expire", "--yes"}, nil},
		{"hold", "base", []string{"hold", w.backups[0], "--name", "x", "--reason", "looks"}, []int{7}},
		{"release", "held", []string{"release", w.backups[0], "--name", "torture"}, []int{6}},
		{"accept", "hole", []string{"wal", "gaps", "accept", first, "--reason", "known", "--yes"}, nil},
	} {
		before, err := Snapshot(w.at("ready", c.repo))
		w.must(err)
		before = before.Only(needed)
		var end Tree // what an undisturbed run leaves
		judge := func() (faults []string) {
			now, err := Snapshot(w.at("repo"))
			w.must(err)
			faults = before.Lost(now)
			_, broken, err := JudgeRepository(w.Context(), w.repository(w.at("repo")))
			w.must(err)
			for _, f := range broken {
				if c.repo != "hole" {
					faults = append(faults, f)
				}
			}
			return faults
		}
		s := &scenario{
			name: "expire/" + c.name, config: "work", args: c.args, again: c.again, trouble: []int{1, 8, 9},
			prepare: func() { w.put(c.repo, "repo", "empty", "state") },
			after:   func(Outcome) []string { return judge() },
			roots:   map[string]string{"repository": w.at("repo")},
			durable: []string{w.at("repo")},
			sweep: func() { // any write: accept need not write again
				w.call("work", w.arena, "hold", kept, "--name", "later", "--reason", "writes")
			},
		}
		s.whole = func(Outcome) (faults []string) {
			now, err := Snapshot(w.at("repo"))
			w.must(err)
			now = now.Only(func(path string) bool { // docs/FORMAT.md: a killed one leaves its few bytes in report/clock
				return now[path] != "dir" && !isTemp(path) && !strings.Contains(path, "/report/clock/")
			})
			if end == nil {
				end = now
			}
			for path := range now { // contents hold the time
				if _, ok := end[path]; !ok {
					faults = append(faults, path+" should be gone")
				}
			}
			for path := range end {
				if _, ok := now[path]; !ok {
					faults = append(faults, path+" should be there")
				}
			}
			return append(faults, judge()...)
		}
		all = append(all, s)
	}
	return all
}

// edit changes one field of a stored document.
func (w *world) edit(path, field string, value any) {
	w.Helper()
	content, err := os.ReadFile(path)
	w.must(err)
	var m map[string]any
	w.must(json.Unmarshal(content, &m))
	m[field] = value
	content, err = json.Marshal(m)
	w.must(err)
	w.must(os.WriteFile(path, content, 0o600))
}

// backdate makes all files below a directory as old.
func backdate(dir string, then time.Time) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(path, then, then)
	})
}
