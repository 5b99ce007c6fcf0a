package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// show tells how work goes: one line that is written over on a terminal, one JSON
// document a line otherwise.
type show struct {
	w        io.Writer
	terminal bool
	mu       sync.Mutex
	shown    time.Time // the last progress of a restore
	phase    backup.Phase
	waited   string
}

func newShow(w io.Writer) *show {
	f, ok := w.(*os.File)
	return &show{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// event is a line of JSON.
type event struct {
	Time       time.Time    `json:"time"`
	Event      string       `json:"event"` // phase, progress, waiting or warning
	Phase      backup.Phase `json:"phase,omitempty"`
	Files      int          `json:"files,omitempty"`
	FilesTotal int          `json:"files_total,omitempty"`
	Bytes      int64        `json:"bytes,omitempty"`
	BytesTotal int64        `json:"bytes_total,omitempty"`
	Text       string       `json:"text,omitempty"`
}

func (s *show) events() backup.Events {
	return backup.Events{
		Phase: func(p backup.Phase) {
			s.phase = p
			s.line(string(p), event{Event: "phase"})
		},
		Progress: func(p backup.Progress) {
			share := 100.0
			if p.BytesTotal > 0 {
				share = min(100, 100*float64(p.Bytes)/float64(p.BytesTotal))
			}
			files := fmt.Sprintf("%d files", p.Files)
			if p.FilesTotal > 0 { // a server that streams does not say
				files = fmt.Sprintf("%d of %d files", p.Files, p.FilesTotal)
			}
			s.line(fmt.Sprintf("%s %3.0f %%, %s of %s, %s", s.phase, share, byteCount(p.Bytes), byteCount(p.BytesTotal), files),
				event{Event: "progress", Files: p.Files, FilesTotal: p.FilesTotal, Bytes: p.Bytes, BytesTotal: p.BytesTotal})
		},
		Waiting: func(text string) {
			if text != s.waited {
				s.waited = text
				s.line(text, event{Event: "waiting", Text: text})
			}
		},
		Warning: func(text string) {
			if s.terminal {
				fmt.Fprintf(s.w, "\r\x1b[Kwarning: %s\n", text)
				return
			}
			s.line("", event{Event: "warning", Text: text})
		},
	}
}

func (s *show) line(text string, e event) {
	if s.terminal {
		fmt.Fprintf(s.w, "\r\x1b[K%s", s.fit(text))
		return
	}
	e.Time, e.Phase = time.Now().UTC().Truncate(time.Millisecond), s.phase
	if line, err := json.Marshal(e); err == nil {
		fmt.Fprintf(s.w, "%s\n", line)
	}
}

// fit cuts what is longer than the terminal's line: it would wrap, and its first
// part could not be written over.
func (s *show) fit(text string) string {
	width, _, err := term.GetSize(int(s.w.(*os.File).Fd()))
	if line := []rune(text); err == nil && width > 0 && len(line) >= width {
		return string(line[:width-1])
	}
	return text
}

// copied and replayed are the progress of a restore, for a terminal only.
func (s *show) copied(done, total int64) {
	s.often("copied %3d %%, %d of %d MiB", 100*done/max(1, total), done>>20, total>>20)
}

func (s *show) replayed(lsn, stop postgres.LSN) { s.often("replayed %s of %s", lsn, stop) }

// often may be called from several goroutines, and shows not all of it.
func (s *show) often(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal && time.Since(s.shown) >= 100*time.Millisecond {
		s.shown = time.Now()
		s.line(fmt.Sprintf(format, args...), event{})
	}
}

// end leaves the terminal's line empty.
func (s *show) end() {
	if s.terminal {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}
