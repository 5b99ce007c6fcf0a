package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/torture"
)

// command is one command in one situation.
type command struct {
	name    string
	config  string
	dir     string
	args    []string
	prepare func()
	want    int
	trouble []int // exit codes, besides want, of a run that met trouble with the store
	// judge tells what a run has left that it must not, whatever its exit code; whole
	// besides what a run has not done that said that it has.
	judge, whole func(outcome) []string
	final        bool // what it has done needs no second run
	requests     []string
}

func (w *world) commands() []*command {
	w.Helper()
	node := func(signal bool) func() {
		return func() {
			w.reset()
			_ = os.Remove(filepath.Join(w.node, "recovery.signal"))
			_ = os.Remove(filepath.Join(w.node, "pg_wal/RECOVERYXLOG"))
			w.must(os.RemoveAll(w.run.Path("state-work", "spool")))
			if signal {
				w.run.WriteFile(lab.User1, 0o600, "", "node/recovery.signal")
			}
		}
	}
	w.reset()
	before := w.objects("work")
	keeps := func(outcome) []string { return append(w.sound("work", w.archived), before.Lost(w.objects("work"))...) }
	pushed := func(o outcome) []string {
		l := torture.Ledger{}
		l.Acknowledge(w.fresh[0], w.contents[w.fresh[0]])
		lost, err := l.Judge(w.Context(), w.bucket("work"), w.root())
		w.must(err)
		return lost
	}
	got := func(name string) func(outcome) []string {
		return func(o outcome) []string {
			return torture.Whole(filepath.Join(w.node, "pg_wal/RECOVERYXLOG"), w.contents[name], o.code != 0)
		}
	}
	none := func(outcome) []string { return nil }
	var (
		push   = []string{"archive-push", "pg_wal/" + w.fresh[0]}
		get    = func(name string) []string { return []string{"archive-get", name, "pg_wal/RECOVERYXLOG"} }
		listed string
	)
	restored := filepath.Join(w.run.Mkdir(lab.User1, 0o700, "copies"), "restored")
	var tree torture.Tree
	clean := func() { w.reset(); w.must(os.RemoveAll(restored)) }
	restore := []string{"restore", "--pgdata", restored, "--yes"}
	tree = w.cleanly(clean, restored, restore)
	list := []string{"list", "--all", "--format", "json"}
	w.reset()
	listed = w.call("work", w.node, list...).stdout
	after, final := w.expired()
	stays := before.Only(func(key string) bool { return final[key] != "" })
	return []*command{
		{name: "push", config: "work", dir: w.node, args: push, prepare: node(false), trouble: []int{1}, judge: keeps, whole: pushed},
		{name: "push again", config: "work", dir: w.node, args: push, prepare: func() {
			node(false)()
			if o := w.call("work", w.node, push...); o.code != 0 {
				w.Fatal(o.output())
			}
		}, trouble: []int{1}, judge: func(o outcome) []string { return append(keeps(o), pushed(o)...) }, whole: none},
		{name: "get", config: "work", dir: w.node, args: get(w.old[0]), prepare: node(true), trouble: []int{200},
			judge: func(o outcome) []string { return append(keeps(o), got(w.old[0])(o)...) }, whole: got(w.old[0])},
		{name: "get the end", config: "work", dir: w.node, args: get(w.fresh[0]), prepare: node(true), want: 1, trouble: []int{200}, judge: keeps, whole: none},
		{name: "backup", config: "living", dir: w.pg.DataDir, args: []string{"backup"}, prepare: w.withoutBackups, trouble: []int{8},
			judge: func(outcome) []string { return w.sound("living", nil) }, whole: func(outcome) []string {
				backups, broken, err := w.repository("living").ReadableBackups(w.Context())
				if err != nil || len(backups) == 0 || len(broken) > 0 {
					return []string{fmt.Sprintf("%d backups, %v, %v", len(backups), broken, err)}
				}
				return nil
			}},
		{name: "restore", config: "work", dir: w.node, args: restore, prepare: clean, trouble: []int{8}, final: true,
			judge: func(o outcome) []string {
				if o.code != 0 && torture.Startable(restored) {
					return []string{"a restore that failed can be started"}
				}
				return keeps(o)
			}, whole: func(outcome) []string {
				now, err := torture.Snapshot(restored)
				w.must(err)
				return tree.Lost(now)
			}},
		{name: "expire", config: "work", dir: w.node, args: []string{"expire", "--yes"}, prepare: w.reset, trouble: []int{8},
			judge: func(outcome) []string { return append(w.sound("work", nil), stays.Lost(w.objects("work"))...) },
			whole: func(outcome) []string { return w.objects("work").Lost(after) }},
		{name: "verify", config: "work", dir: w.node, args: []string{"verify"}, prepare: w.reset, trouble: []int{8}, judge: keeps, whole: none},
		{name: "list", config: "work", dir: w.node, args: list, prepare: w.reset, trouble: []int{8}, judge: func(o outcome) []string {
			if o.code == 0 && o.stdout != listed {
				return []string{"it lists something else: " + o.stdout}
			}
			return keeps(o)
		}, whole: none},
	}
}

// sound tells what is not whole of what a bucket shows, and what it lacks of a ledger.
func (w *world) sound(bucket string, l torture.Ledger) (faults []string) {
	w.Helper()
	seen, faults, err := torture.JudgeRepository(w.Context(), w.repository(bucket))
	w.must(err)
	lost, err := l.Judge(w.Context(), w.bucket(bucket), w.root())
	w.must(err)
	if l != nil && len(seen) == 0 {
		faults = append(faults, "no backup is there any more")
	}
	return append(faults, lost...)
}

// cleanly is what a restore writes each time, the same in two.
func (w *world) cleanly(prepare func(), dir string, args []string) torture.Tree {
	w.Helper()
	var trees [2]torture.Tree
	for i := range trees {
		prepare()
		o := w.call("work", w.node, args...)
		if o.code != 0 {
			w.Fatalf("restore exits %d: %s", o.code, o.output())
		}
		var err error
		trees[i], err = torture.Snapshot(dir)
		w.must(err)
	}
	for name, content := range trees[0] {
		if trees[1][name] != content {
			w.Logf("each restore writes another %s", name)
			delete(trees[0], name)
		}
	}
	if len(trees[0]) < 500 {
		w.Fatalf("a restore of %d files", len(trees[0]))
	}
	return trees[0]
}

// expired is what an expire leaves that nothing disturbs, and what all that follow it do,
// when what it hides has been hidden for long enough.
func (w *world) expired() (after, final torture.Tree) {
	w.Helper()
	if w.after != nil {
		return w.after, w.final
	}
	w.proxy.Set()
	w.reset()
	expire := func(before torture.Tree) (now torture.Tree) {
		lab.Poll(w, 20*time.Second, "the end of the grace period", func() error {
			if o := w.call("work", w.node, "expire", "--yes"); o.code != 0 {
				w.Fatalf("expire exits %d: %s", o.code, o.output())
			}
			now = w.objects("work")
			if gone := before.Lost(now); len(gone) < 5 {
				return fmt.Errorf("it removes %q", gone)
			}
			return nil
		})
		return now
	}
	w.after = expire(w.objects("work"))
	w.final = expire(w.after)
	return w.after, w.final
}
