package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// story is the harness's test: it prints chapters and takes everything down at its end.
type story struct {
	begun    time.Time
	chapters int
	failed   bool
	why      string
	cleanups []func()

	*stage
}

// stage is what the chapters share.
type stage struct {
	run     *lab.Run
	store   *lab.S3
	cluster *lab.Cluster
	program string // how PostgreSQL and Patroni call ours, on every member
	act
}

// the end of a story that went wrong.
type ended struct{}

func (s *story) tell(chapters func()) (ok bool) {
	s.stage = &stage{}
	defer func() {
		if p := recover(); p != nil {
			s.failed = true
			if _, meant := p.(ended); !meant {
				defer panic(p)
			}
		}
		for i := len(s.cleanups) - 1; i >= 0; i-- {
			s.cleanups[i]()
		}
		ok = !s.failed
	}()
	chapters()
	return
}

// Helper, Logf, Fatalf, Cleanup, Failed and Name make the story a lab.T.
func (s *story) Helper() {}

// Logf prints to standard error: it is not part of the story.
func (s *story) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatalf ends the story.
func (s *story) Fatalf(format string, args ...any) {
	s.failed, s.why = true, fmt.Sprintf(format, args...)
	panic(ended{})
}

// Cleanup registers what to do at the end.
func (s *story) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Failed tells whether the story went wrong.
func (s *story) Failed() bool { return s.failed }

// Name is the story's name.
func (s *story) Name() string { return "demo" }

func (s *story) must(err error) {
	if err != nil {
		s.Fatalf("%v", err)
	}
}

// chapter prints a heading with the time since the beginning.
func (s *story) chapter(title string) {
	s.chapters++
	fmt.Printf("\n%d. %s  [%s]\n", s.chapters, title, s.since(s.begun))
}

// say prints a line of the story.
func (s *story) say(format string, args ...any) { s.printf("   "+format+"\n", args...) }

func (s *story) printf(format string, args ...any) { fmt.Printf(format, args...) }

func (s *story) since(t time.Time) string {
	return time.Since(t).Round(100 * time.Millisecond).String()
}

// size prints bytes as people read them.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
}

// stored sums the objects of the store whose key contains part.
func (s *story) stored(part string) (objects int, bytes int64) {
	for key, n := range s.store.Keys() {
		if strings.Contains(key, part) {
			objects++
			bytes += n
		}
	}
	return objects, bytes
}
