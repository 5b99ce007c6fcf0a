// Command bench measures full backup, restore, archive-push and archive-get beside
// pgBackRest and pg_basebackup, on one server and one machine, and prints tables.
//
// Runs are interleaved: every contender once, then every contender again. Each
// figure is the median of its runs.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"syscall"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func main() {
	b := &bench{}
	flag.IntVar(&b.scale, "scale", 30, "pgbench scale of the database; 1 is 15 MB")
	flag.IntVar(&b.runs, "runs", 3, "runs of each contender")
	flag.IntVar(&b.segments, "segments", 40, "WAL segments pushed and fetched in each run")
	flag.StringVar(&b.kept, "feed", "", "directory to keep the WAL of the archive's tables in, or to take it from")
	flag.StringVar(&b.only, "only", "", "tables to make, as a regular expression: backup, restore, push, get, ahead-file, ahead-s3, ahead-far, fetch, hook, replay, commit")
	inner := flag.Bool("loop", false, "be the archiver of a benchmark; for itself")
	lock := flag.String("lock", "", "file to lock while a round is measured, so that other work on the machine can keep off")
	flag.Parse()
	if *inner {
		if err := runLoop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *lock != "" {
		f, err := os.OpenFile(*lock, os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		b.lock = f
	}
	if !b.do(b.measureAll) {
		os.Exit(1)
	}
}

// bench is the harness's test.
type bench struct {
	scale, runs, segments int
	lock                  *os.File
	kept, only            string
	client, peer, self    string // programs: pgha-wal, the latest pgBackRest, this one

	failed   bool
	cleanups []func()
	*world
}

// measureAll prints a table for each work that is wanted.
func (b *bench) measureAll() {
	if b.wants("backup", "restore", "push", "get") {
		b.measureOnce()
	}
	if b.wants("ahead-file", "ahead-s3", "ahead-far", "fetch", "hook", "replay", "commit") {
		b.measureArchive()
	}
}

func (b *bench) wants(works ...string) bool {
	return slices.ContainsFunc(works, regexp.MustCompile("^(?:"+b.only+")$|^$").MatchString) || b.only == ""
}

// measureOnce is for the commands alone, without a daemon.
func (b *bench) measureOnce() {
	b.world = newWorld(b)
	all := b.contenders()
	b.describe(os.Stdout)
	for _, w := range []struct {
		name, title string
		all         []*contender
		once        func(*contender) sample
		columns     []column
	}{
		{"backup", "Full backup", all, b.backup, runColumns(true)},
		{"restore", "Restore, to durable files", all, b.restore, runColumns(false)},
		{"push", "WAL push, one process for each segment", archivers(all), b.push, walColumns(b.segments, true)},
		{"get", "WAL get, one process for each segment", archivers(all), b.get, walColumns(b.segments, false)},
	} {
		if b.wants(w.name) {
			table(os.Stdout, w.title, interleaved(b, w.name, w.all, w.once), w.columns)
		}
	}
}

// named is a contender of one kind or the other.
type named interface{ base() *contender }

func (c *contender) base() *contender { return c }

// interleaved measures every contender b.runs times, in turn.
func interleaved[C named](b *bench, what string, all []C, once func(C) sample) []result {
	results := make([]result, len(all))
	for run := range b.runs {
		b.locked(func() {
			for i, c := range all {
				results[i].contender = c.base()
				s := once(c)
				results[i].samples = append(results[i].samples, s)
				b.Logf("%s %d/%d %-24s %6.2f s, CPU %5.2f s", what, run+1, b.runs, c.base().name, s.wall.Seconds(), s.cpu.Seconds())
			}
		})
	}
	return results
}

func (b *bench) locked(round func()) {
	if b.lock == nil {
		round()
		return
	}
	b.must(syscall.Flock(int(b.lock.Fd()), syscall.LOCK_EX))
	defer func() { _ = syscall.Flock(int(b.lock.Fd()), syscall.LOCK_UN) }()
	round()
}

// the end of a benchmark that went wrong.
type ended struct{}

func (b *bench) do(work func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			b.failed = true
			if _, meant := p.(ended); !meant {
				defer panic(p)
			}
		}
		for i := len(b.cleanups) - 1; i >= 0; i-- {
			b.cleanups[i]()
		}
		if err := lab.Residue(nil); err != nil {
			b.Logf("left behind: %v", err)
			b.failed = true
		}
		ok = !b.failed
	}()
	work()
	return
}

// Helper, Logf, Fatalf, Cleanup, Failed and Name make the benchmark a lab.T.
func (b *bench) Helper() {}

// Logf prints to standard error: standard output has only the tables.
func (b *bench) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatalf ends the benchmark.
func (b *bench) Fatalf(format string, args ...any) {
	b.Logf("bench: "+format, args...)
	b.failed = true
	panic(ended{})
}

// Cleanup registers what to do at the end.
func (b *bench) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }

// Failed tells whether the benchmark went wrong.
func (b *bench) Failed() bool { return b.failed }

// Name is the benchmark's name.
func (b *bench) Name() string { return "bench" }

func (b *bench) must(err error) {
	if err != nil {
		b.Fatalf("%v", err)
	}
}
