package torture

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
)

func (w *world) root1() string { return fmt.Sprintf("%s/%s", scope, w.system) }

// pushes are the situations of archive-push.
func (w *world) pushes() (all []*scenario) {
	w.Helper()
	// WAL alone: its judge need not read backups.
	w.must(Put(w.at("ready/base"), w.at("repo")))
	w.must(removeAll(w.at("repo", w.root1(), "backup")))
	w.must(Put(w.at("repo"), w.at("ready/wal")))
	first := w.fresh[0]
	w.put("node", "node", "empty", "state")
	if code, output := w.call("work", w.at("node"), "archive-push", "pg_wal/"+first); code != 0 {
		w.Fatalf("push exits %d: %s", code, output)
	}
	w.must(Put(w.at("repo"), w.at("ready/pushed")))
	w.must(Put(w.at("state"), w.at("ready/state")))

	fork, err := postgres.ParseWALFile(first)
	w.must(err)
	history := fmt.Appendf(nil, "1\t%s\tno recovery target specified\n", fork.Segment.Start(1<<20))
	other := append([]byte(nil), w.contents[first]...)
	other[len(other)/8] ^= 1
	partial := w.contents[w.fresh[1]]
	for _, c := range []struct {
		name, repo, state, file string
		content                 []byte
		conflict                bool
	}{
		{"first", "empty", "empty", first, w.contents[first], false},
		{"segment", "wal", "state", first, w.contents[first], false},
		{"duplicate", "pushed", "state", first, w.contents[first], false},
		{"conflict", "pushed", "state", first, other, true},
		{"history", "wal", "state", "00000002.history", history, false},
		{"partial", "wal", "state", w.fresh[1] + ".partial", partial, false},
	} {
		ledger := Ledger{}
		if c.repo != "empty" {
			for name, content := range w.archived {
				ledger.Acknowledge(name, content)
			}
		}
		if c.repo == "pushed" {
			ledger.Acknowledge(first, w.contents[first])
		}
		bucket := file.New(w.at("repo"))
		before, err := Objects(w.Context(), file.New(w.at("ready", c.repo)), "")
		w.must(err)
		judge := func(acknowledged bool) (faults []string) {
			l := maps.Clone(ledger)
			if acknowledged && !c.conflict {
				l.Acknowledge(c.file, c.content)
			}
			lost, err := l.Judge(w.Context(), bucket, w.root1())
			w.must(err)
			now, err := Objects(w.Context(), bucket, "")
			w.must(err)
			_, broken, err := JudgeRepository(w.Context(), w.repository(w.at("repo")))
			w.must(err)
			faults = append(append(append(faults, lost...), before.Lost(now)...), broken...)
			return append(faults, Whole(w.at("node/pg_wal", c.file), c.content, false)...)
		}
		s := &scenario{
			name: "push/" + c.name, config: "work", dir: w.at("node"), args: []string{"archive-push", "pg_wal/" + c.file},
			prepare: func() {
				w.put("node", "node", c.repo, "repo", c.state, "state")
				w.write(w.at("node/pg_wal", c.file), c.content)
			},
			trouble: []int{1},
			after:   func(Outcome) []string { return judge(false) },
			whole:   func(Outcome) []string { return judge(true) },
			roots:   map[string]string{"repository": w.at("repo"), "state": w.at("state"), "pgdata": w.at("node")},
			durable: []string{w.at("repo")},
		}
		if c.conflict {
			s.want = 1
			s.whole = func(Outcome) []string {
				return append(judge(false), w.kept(c.file, c.content)...)
			}
		}
		all = append(all, s)
	}
	return all
}

// kept tells whether what was refused is kept for a person.
func (w *world) kept(name string, content []byte) []string {
	wal, err := postgres.ParseWALFile(name)
	w.must(err)
	key := storage.Key(fmt.Sprintf("%s/conflict/%s/%x", w.root1(), wal, sha256.Sum256(content)))
	plain, err := decoded(w.Context(), file.New(w.at("repo")), key)
	if err != nil || sha256.Sum256(plain) != sha256.Sum256(content) {
		return []string{fmt.Sprintf("%s is not kept: %v", filepath.Base(string(key)), err)}
	}
	return nil
}
