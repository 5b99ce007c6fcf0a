// Command bench measures full backup, restore and the archive of WAL beside pgBackRest,
// pg_basebackup and Barman, on one server and one machine, and prints tables.
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
	flag.IntVar(&b.scale, "scale", 210, "pgbench scale of the database; 1 is 20 MB with the documents beside it")
	flag.IntVar(&b.runs, "runs", 3, "runs of each contender")
	flag.IntVar(&b.segments, "segments", 142, "WAL segments pushed and fetched in each run")
	flag.StringVar(&b.keptFeed, "feed", "", "directory to keep the WAL in, or to take it from")
	flag.StringVar(&b.keptData, "data", "", "directory to keep the database in that is backed up, or to take it from")
	flag.StringVar(&b.only, "only", "", "tables to make, as a regular expression: backup, restore, push, get, each with -file, -s3 or -far; ahead-file, ahead-s3, ahead-far, fetch, hook, replay, commit; prepare makes none")
	inner := flag.Bool("loop", false, "be the archiver of a benchmark; for itself")
	bound := flag.String("bound", "", "do the work of this file; for itself")
	lock := flag.String("lock", "", "file to lock while a round is measured, so that other work on the machine can keep off")
	flag.Parse()
	switch {
	case *inner:
		leave(runLoop())
	case *bound != "":
		leave(runBound(*bound))
	}
	if *lock != "" {
		f, err := os.OpenFile(*lock, os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			leave(err)
		}
		b.lock = f
	}
	if !b.do(b.measureAll) {
		os.Exit(1)
	}
}

func leave(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is the harness's test.
type bench struct {
	scale, runs, segments    int
	lock                     *os.File
	keptFeed, keptData, only string

	failed   bool
	cleanups []func()
	*world
}

// measureAll prints a table for each work that is wanted.
func (b *bench) measureAll() {
	b.world = newWorld(b)
	b.describe(os.Stdout)
	for _, name := range []string{"file", "s3", "far"} {
		if b.wants("backup-"+name, "restore-"+name) || b.only == "prepare" {
			b.measureFull(name)
		}
	}
	if b.pg != nil {
		b.pg.Stop("fast")
	}
	b.measureWAL()
}

func (b *bench) wants(works ...string) bool {
	if b.only == "" {
		return true
	}
	return slices.ContainsFunc(works, regexp.MustCompile("^(?:"+b.only+")$").MatchString)
}

// measureFull is for full backups and restores in one place.
func (b *bench) measureFull(name string) {
	if b.pg == nil {
		b.openData()
	}
	if b.only == "prepare" {
		return
	}
	p := b.at(name)
	all := b.contenders(p)
	if b.wants("backup-" + name) {
		table(os.Stdout, "Full backup, "+p.title(), interleaved(b, "backup-"+name, all, b.backup), runColumns(p, true))
	}
	if b.wants("restore-" + name) {
		table(os.Stdout, "Restore, "+p.title()+", to durable files", interleaved(b, "restore-"+name, all, b.restore), runColumns(p, false))
	}
	for _, c := range all {
		b.clear(c.backups...)
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
