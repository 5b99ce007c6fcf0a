package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// sample is what one run cost.
type sample struct {
	wall   time.Duration
	cpu    time.Duration // user and system, of the command and all its children
	server time.Duration // the same of PostgreSQL's backends that served it
	rss    int64         // bytes: the largest of its processes
	stored int64         // bytes it left in the repository
	each   []time.Duration

	requests int // that the store had
}

// measured runs a command as the server's user and says what it cost. A small program
// stands between, because the kernel counts into a child's peak memory that of the
// process which forked it.
func (b *bench) measured(dir string, argv ...string) sample {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	peak := b.run.WriteFile(lab.User1, 0o600, "", "peak")
	cmd := b.run.Command(ctx, lab.User1, nil, append([]string{"/usr/bin/time", "-q", "-f", "%M", "-o", peak}, argv...)...)
	cmd.Dir = dir
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	began := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(began)}
	if err != nil {
		b.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, output.String())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	kib, err := os.ReadFile(peak)
	b.must(err)
	n, err := strconv.ParseInt(strings.TrimSpace(string(kib)), 10, 64)
	b.must(err)
	s.rss = n << 10
	return s
}

// backends is the CPU time that ended backends of the server have taken.
func (b *bench) backends() time.Duration {
	b.Helper()
	return b.ticks(b.pg.Process().Pid(), 13) // cutime and cstime: 16 and 17 of proc(5), which counts pid and comm
}

// used is the CPU time of a process and of its ended children.
func (b *bench) used(pid int) time.Duration {
	b.Helper()
	return b.ticks(pid, 11) + b.ticks(pid, 13)
}

func (b *bench) ticks(pid, field int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	b.must(err)
	_, after, _ := strings.Cut(string(stat), ") ")
	var ticks int64
	for _, f := range strings.Fields(after)[field : field+2] {
		n, err := strconv.ParseInt(f, 10, 64)
		b.must(err)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 on every Linux of ours
}

// settle lets nothing of one run weigh on the next.
func settle() { syscall.Sync() }

// size is the bytes of all regular files under the directories.
func (b *bench) size(dirs ...string) (total int64) {
	b.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
		b.must(err)
	}
	return total
}

// clear removes what the patterns name.
func (b *bench) clear(patterns ...string) {
	b.Helper()
	for _, dir := range b.glob(patterns...) {
		b.must(os.RemoveAll(dir))
	}
}

func (b *bench) glob(patterns ...string) (found []string) {
	b.Helper()
	for _, pattern := range patterns {
		names, err := filepath.Glob(pattern)
		b.must(err)
		found = append(found, names...)
	}
	return found
}
