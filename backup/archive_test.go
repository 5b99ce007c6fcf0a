package backup

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const segmentSize postgres.SegmentSize = 1 << 20

// archived is a WAL file in a test's archive; valid is where its WAL ends, 0 at its end.
type archived struct {
	name  string
	valid uint32
	ended bool   // by a segment switch, where valid is
	text  string // of a history
}

func testWait(t *testing.T, files ...archived) *archiveWait {
	t.Helper()
	r := catalog.New(mem.New(), catalog.Location{Scope: "demo", System: 42}, catalog.Options{})
	for _, f := range files {
		file, err := postgres.ParseWALFile(f.name)
		if err != nil {
			t.Fatal(err)
		}
		content, facts := []byte(f.text), (*postgres.SegmentFacts)(nil)
		if file.Kind == postgres.WALSegment {
			content, facts = make([]byte, segmentSize), &postgres.SegmentFacts{Walked: true, ValidEnd: f.valid, Switched: f.ended}
			if f.valid == 0 {
				facts.ValidEnd = uint32(segmentSize)
			}
		}
		if _, err := r.PutWAL(t.Context(), file, content, facts); err != nil {
			t.Fatal(err)
		}
	}
	// The server is gone: what is archived is all there will be.
	return &archiveWait{repository: r, size: segmentSize, stall: time.Minute, limit: time.Hour, lost: true,
		waiting: func(string) {}, warn: func(text string) { t.Log(text) }}
}

func seg(tli, n int) string { return fmt.Sprintf("%08X%08X%08X", tli, 0, n) }

func TestWaitForWAL(t *testing.T) {
	at := func(segment, offset int) postgres.LSN {
		return postgres.LSN(segment)*postgres.LSN(segmentSize) + postgres.LSN(offset)
	}
	history := func(tli int, lines ...string) archived {
		return archived{name: fmt.Sprintf("%08X.history", tli), text: strings.Join(lines, "\n") + "\n"}
	}
	whole := func(tli int, numbers ...int) (list []archived) {
		for _, n := range numbers {
			list = append(list, archived{name: seg(tli, n)})
		}
		return list
	}
	need := span{timeline: 2, first: at(3, 40), last: at(5, 1000)}
	root := history(2, "1\t"+at(2, 0).String()+"\tswitch")
	for name, c := range map[string]struct {
		files []archived
		fails string // part of the error; empty: none
	}{
		"all there":                   {append(whole(2, 3, 4, 5), root), ""},
		"more than that":              {append(whole(2, 2, 3, 4, 5, 6), root), ""},
		"no history":                  {whole(2, 3, 4, 5), "00000002.history is not in the repository"},
		"first missing":               {append(whole(2, 4, 5), root), seg(2, 3) + " is not"},
		"gap":                         {append(whole(2, 3, 5, 6, 7), root), seg(2, 4) + " is not"},
		"last missing":                {append(whole(2, 3, 4), root), seg(2, 5) + " is not"},
		"on another timeline":         {append(whole(1, 3, 4, 5), root), seg(2, 3) + " is not in the repository after 1m"},
		"last ends early":             {append(whole(2, 3, 4), root, archived{name: seg(2, 5), valid: 999}), "needs more of it"},
		"last ends in time":           {append(whole(2, 3, 4), root, archived{name: seg(2, 5), valid: 1000}), ""},
		"one in the middle is short":  {append(whole(2, 3, 5), root, archived{name: seg(2, 4), valid: 5000}), seg(2, 4) + " ends at"},
		"last lies past a fork":       {append(whole(2, 3, 4), root, history(3, "1\t"+at(2, 0).String()+"\tx", "2\t"+at(5, 1000).String()+"\ty"), archived{name: seg(3, 5)}), ""},
		"fork before the stop":        {append(whole(2, 3, 4), root, history(3, "1\t"+at(2, 0).String()+"\tx", "2\t"+at(5, 999).String()+"\ty"), archived{name: seg(3, 5)}), seg(2, 5) + " is not"},
		"fork in a later segment":     {append(whole(2, 3, 4), root, history(3, "1\t"+at(2, 0).String()+"\tx", "2\t"+at(6, 8).String()+"\ty"), archived{name: seg(3, 5)}), seg(2, 5) + " is not"},
		"fork of another timeline":    {append(whole(2, 3, 4), root, history(3, "1\t"+at(5, 1000).String()+"\tx"), archived{name: seg(3, 5)}), seg(2, 5) + " is not"},
		"past a fork, but not stored": {append(whole(2, 3, 4), root, history(3, "1\t"+at(2, 0).String()+"\tx", "2\t"+at(5, 1000).String()+"\ty")), seg(2, 5) + " is not"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := testWait(t, c.files...).wait(t.Context(), need)
				if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
					t.Errorf("error %v, want %q", err, c.fails)
				}
			})
		})
	}
}

// A standby that has replayed a segment switch stands at the segment's end, which
// the WAL in it does not reach.
func TestWaitUpToASwitch(t *testing.T) {
	need := span{timeline: 1, first: 3*postgres.LSN(segmentSize) + 40, last: 5 * postgres.LSN(segmentSize)}
	for ended, fails := range map[bool]string{true: "", false: "the repository's " + seg(1, 4) + " ends at 0/4001F4: the backup needs more of it"} {
		err := testWait(t, archived{name: seg(1, 3)}, archived{name: seg(1, 4), valid: 500, ended: ended}).wait(t.Context(), need)
		if fails == "" && err != nil || fails != "" && (err == nil || err.Error() != fails) {
			t.Errorf("ended by a switch %v: %v", ended, err)
		}
	}
}

func TestArchiveErrorSaysWhatToDo(t *testing.T) {
	file, _ := postgres.ParseWALFile(seg(1, 5))
	now := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	e := &ArchiveError{Missing: file, Count: 3, Waited: 61 * time.Second,
		Archiver: server.Archiver{Backlog: 12, LastFailed: seg(1, 4), FailedAt: now}}
	want := seg(1, 5) + " is not in the repository after 1m1s (and 2 more); 12 files wait for the archiver, which failed on " + seg(1, 4) + " at 2026-11-21T02:00:00Z"
	if e.Error() != want || !strings.Contains(e.Hint(), "archive_command fails") {
		t.Errorf("%s\n%s", e, e.Hint())
	}
	wrapped := &PreflightError{Reason: "WAL does not reach the repository", Err: e}
	if found, ok := errors.AsType[*ArchiveError](wrapped); !ok || wrapped.Hint() != found.Hint() {
		t.Errorf("hint %q", wrapped.Hint())
	}
	for last, want := range map[string]bool{seg(1, 4): false, seg(1, 5): true, seg(1, 6): true, seg(2, 6): false, "00000002.history": false, "": false} {
		if got := hasPassed(server.Archiver{LastArchived: last}, file); got != want {
			t.Errorf("archiver at %q has passed %s: %v", last, file, got)
		}
	}
}
