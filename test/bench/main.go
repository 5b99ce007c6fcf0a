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
	"syscall"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func main() {
	b := &bench{}
	flag.IntVar(&b.scale, "scale", 30, "pgbench scale of the database; 1 is 15 MB")
	flag.IntVar(&b.runs, "runs", 3, "runs of each contender")
	flag.IntVar(&b.segments, "segments", 40, "WAL segments pushed and fetched in each run")
	lock := flag.String("lock", "", "file to lock while a round is measured, so that other work on the machine can keep off")
	flag.Parse()
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

	failed   bool
	cleanups []func()
	*world
}

// measureAll prints one table for each of the four works.
func (b *bench) measureAll() {
	b.world = newWorld(b)
	all := b.contenders()
	backups := b.interleaved("backup", all, b.backup)
	restores := b.interleaved("restore", all, b.restore)
	pushes := b.interleaved("push", archivers(all), b.push)
	gets := b.interleaved("get", archivers(all), b.get)
	b.describe(os.Stdout)
	table(os.Stdout, "Full backup", backups, runColumns(true))
	table(os.Stdout, "Restore, to durable files", restores, runColumns(false))
	table(os.Stdout, "WAL push, one process for each segment", pushes, walColumns(b.segments, true))
	table(os.Stdout, "WAL get, one process for each segment", gets, walColumns(b.segments, false))
}

// interleaved measures every contender b.runs times, in turn.
func (b *bench) interleaved(what string, all []*contender, once func(*contender) sample) []result {
	results := make([]result, len(all))
	for run := range b.runs {
		b.locked(func() {
			for i, c := range all {
				results[i].contender = c
				s := once(c)
				results[i].samples = append(results[i].samples, s)
				b.Logf("%s %d/%d %-24s %6.2f s, CPU %5.2f s", what, run+1, b.runs, c.name, s.wall.Seconds(), s.cpu.Seconds())
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
