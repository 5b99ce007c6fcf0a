package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// restoreProgress keeps one line of a terminal up to date; elsewhere it is silent.
type restoreProgress struct {
	mu    sync.Mutex
	w     io.Writer // nil: silent
	shown time.Time
}

func (a *app) restoreProgress() *restoreProgress {
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &restoreProgress{w: f}
	}
	return &restoreProgress{}
}

func (p *restoreProgress) copied(done, total int64) {
	p.line("copied %3d %%, %d of %d MiB", 100*done/max(1, total), done>>20, total>>20)
}

func (p *restoreProgress) replayed(lsn, stop postgres.LSN) { p.line("replayed %s of %s", lsn, stop) }

func (p *restoreProgress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w == nil || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
}

func (p *restoreProgress) end() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
