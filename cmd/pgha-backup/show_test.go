package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgha-backup/pgha-backup/backup"
)

// TestMain is the program itself where restore tries the restore_command that it wrote.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "archive-get") {
		leave, a := guard(os.Args[1:]), newApp(os.Stdout, os.Stderr)
		a.uid = 1000
		os.Exit(leave(run(context.Background(), a, os.Args[1:])))
	}
	os.Exit(m.Run())
}

// terminal is a real one, of the given width. The screen is what a person sees once
// everything was written to it, and the transcript all that was.
func terminal(t *testing.T, width int) (tty *os.File, end func() (screen, transcript string)) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	must(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(err)
	must(unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(width)}))
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	written := make(chan string)
	go func() {
		all, _ := io.ReadAll(master) // EIO once nobody has the terminal open
		written <- string(all)
	}()
	return tty, func() (string, string) {
		must(tty.Close())
		transcript := <-written
		return strings.Join(drawn(transcript, width), "\n"), transcript
	}
}

// drawn is the screen after the transcript: a line longer than the width goes on in the next.
func drawn(transcript string, width int) []string {
	screen, at := [][]rune{nil}, 0
	for _, c := range strings.ReplaceAll(transcript, "\x1b[K", "\x00") {
		line := &screen[len(screen)-1]
		switch {
		case c == '\n':
			screen, at = append(screen, nil), 0
			continue
		case c == '\r':
			at = 0
			continue
		case c == '\x00':
			*line = (*line)[:at]
			continue
		case at == width:
			screen, at = append(screen, nil), 0
			line = &screen[len(screen)-1]
		}
		*line, at = append((*line)[:at], append([]rune{c}, (*line)[min(at+1, len(*line)):]...)...), at+1
	}
	var lines []string
	for _, line := range screen {
		lines = append(lines, string(line))
	}
	return lines
}

// play shows a whole backup.
func play(s *show) {
	e := s.events()
	e.Phase(backup.PhaseCopy)
	for files := range 4 {
		e.Progress(backup.Progress{Files: files, FilesTotal: 3, Bytes: int64(files) << 20, BytesTotal: 3 << 20})
	}
	e.Warning("one page is bad")
	e.Waiting("wait until the archiver has stored 000000010000000000000009 of the leader")
	s.copied(1<<20, 3<<20)
	s.end()
}

func TestProgressOnATerminal(t *testing.T) {
	for width, want := range map[int]string{80: "copy 100 %, 3.0 MiB of 3.0 MiB, 3 of 3 files", 21: "copy 100 %, 3.0 MiB "} {
		tty, end := terminal(t, width)
		play(newShow(tty))
		screen, transcript := end()
		if !strings.Contains(transcript, "\x1b[K"+want+"\r") {
			t.Errorf("%d columns: %q does not hold %q", width, transcript, want)
		}
		if got := strings.ReplaceAll(screen, "\n", ""); got != "warning: one page is bad" {
			t.Errorf("%d columns: %q stays on the screen", width, screen)
		}
		if strings.Contains(transcript, "{") {
			t.Errorf("a terminal was given JSON: %q", transcript)
		}
	}
}

func TestProgressInAPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	play(newShow(writer))
	_ = writer.Close()
	got, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for line := range strings.Lines(string(got)) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Time.IsZero() || e.Phase != backup.PhaseCopy {
			t.Errorf("%q: %v", line, err)
		}
		seen = append(seen, e.Event)
	}
	if want := "phase progress progress progress progress warning waiting"; strings.Join(seen, " ") != want {
		t.Errorf("events %q, want %q", seen, want)
	}
}

// A whole restore, of the golden repository: its progress is seen on a terminal and nowhere else.
func TestRestoreShowsItsProgress(t *testing.T) {
	h := newHost(t)
	h.must(os.CopyFS(filepath.Join(h.dir, "golden"), os.DirFS("../../test/golden/format-1")))
	var golden struct{ Tablespace string }
	content, err := os.ReadFile(filepath.Join(h.dir, "golden/expected.json"))
	h.must(err)
	h.must(json.Unmarshal(content, &golden))
	h.write("config.yaml", fmt.Sprintf("cluster: {scope: golden, state_dir: %[1]s/state}\nlog: {level: error}\n"+
		"repositories: [{name: nas, type: file, file: {path: %[1]s/golden/repository}}]\n", h.dir))
	restore := func(stderr io.Writer, name string) string {
		var stdout bytes.Buffer
		a := newApp(&stdout, stderr)
		a.uid = h.uid
		code := run(t.Context(), a, []string{"--config", h.config, "restore", "--format", "json", "--pgdata", filepath.Join(h.dir, name),
			"--tablespace-mapping", golden.Tablespace + "=" + filepath.Join(h.dir, name+"-aside"), "--target-name", "after-a"})
		if code != 0 || !json.Valid(stdout.Bytes()) || strings.Contains(stdout.String(), "\x1b") {
			t.Errorf("exit %d, stdout %q", code, stdout.String())
		}
		return stdout.String()
	}
	tty, end := terminal(t, 80)
	restore(tty, "one")
	screen, transcript := end()
	if screen != "" || !strings.Contains(transcript, "\r\x1b[Kcopied ") {
		t.Errorf("on the screen stays %q of %q", screen, transcript)
	}
	var stderr bytes.Buffer
	restore(&stderr, "two")
	if stderr.Len() > 0 {
		t.Errorf("in a pipe: %q", stderr.String())
	}
}
