package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
)

const size = postgres.DefaultSegmentSize

func number(n uint64) postgres.LSN { return postgres.LSN(n * uint64(size)) }

// archiveOf reads timelines such as "1: 1-5 8" and histories such as "2 from 1 at 5.5",
// where 5.5 is the middle of segment 5.
func archiveOf(t *testing.T, text string) Archive {
	t.Helper()
	var timelines []TimelineWAL
	histories := map[postgres.TimelineID]postgres.TimelineHistory{}
	for line := range strings.SplitSeq(text, ",") {
		var tli, parent uint32
		var at float64
		if n, _ := fmt.Sscanf(strings.TrimSpace(line), "%d from %d at %f", &tli, &parent, &at); n == 3 {
			h := postgres.TimelineHistory{Timeline: postgres.TimelineID(tli)}
			h.Entries = append(h.Entries, histories[postgres.TimelineID(parent)].Entries...)
			h.Entries = append(h.Entries, postgres.HistoryEntry{Parent: postgres.TimelineID(parent), Switch: postgres.LSN(at * float64(size))})
			histories[h.Timeline] = h
			continue
		}
		name, list, ok := strings.Cut(strings.TrimSpace(line), ":")
		id, err := strconv.Atoi(name)
		if !ok || err != nil {
			t.Fatalf("archive %q", line)
		}
		w := TimelineWAL{Timeline: postgres.TimelineID(id)}
		for run := range strings.FieldsSeq(list) {
			first, last, ok := strings.Cut(run, "-")
			if !ok {
				last = first
			}
			begin, _ := strconv.ParseUint(first, 10, 64)
			end, _ := strconv.ParseUint(last, 10, 64)
			for n := begin; n <= end; n++ {
				s := postgres.SegmentAt(w.Timeline, number(n), size)
				w.add(WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: s}, Size: 10}, size)
			}
		}
		timelines = append(timelines, w)
	}
	return newArchive(size, timelines, histories)
}

func short(ranges []Range) string {
	var parts []string
	for _, r := range ranges {
		part := fmt.Sprintf("%d/%d-%d", r.First.Timeline, r.First.Number(size), r.Last.Number(size))
		if r.Segments != int(r.Last.Number(size)-r.First.Number(size))+1 {
			part += fmt.Sprintf("(%d)", r.Segments)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " ")
}

func TestGaps(t *testing.T) {
	for text, want := range map[string]string{
		"1: 1-5":                          "",
		"1: 1-5 8 10-12":                  "1/6-7 1/9-9",
		"1: 255-257":                      "", // the log changes between 255 and 256
		"1: 1-4, 2: 5-9, 2 from 1 at 5.5": "", // the fork segment is archived under the child's name
		"1: 1-5, 2: 5-9, 2 from 1 at 5.5": "",
		"1: 1-7, 2: 5-9, 2 from 1 at 5.5": "", // the old primary went on
		"1: 1-3, 2: 5-9, 2 from 1 at 5.5": "1/4-4",
		"1: 1-4, 2: 6-9, 2 from 1 at 5.5": "2/5-5",
		"1: 1-4, 2: 5-9, 2 from 1 at 5":   "", // forked between two segments
		"1: 1-3, 2: 5-9, 2 from 1 at 5":   "1/4-4",
		"2: 7-9, 2 from 1 at 5.5":         "", // the archive begins later
		"1: 1-2, 2 from 1 at 5.5, 2: 8":   "1/3-4 2/5-7",
		// Two children of one parent: the earlier fork needs less of it.
		"1: 1-4, 2: 5, 3: 7, 2 from 1 at 5.5, 3 from 1 at 7.1": "1/5-6",
		"1: 1-4, 2: 9, 3: 9, 2 from 1 at 9.5, 3 from 1 at 9.1": "1/5-8",
		// The second fork lies before the first one: timeline 2 was left before it was entered.
		"1: 1-9, 2: 5-7, 3: 3-4, 2 from 1 at 5.5, 3 from 1 at 3.5": "",
		// A leader that has archived nothing yet owes nothing; what it was promoted on is owed.
		"1: 1-5, 2:, 2 from 1 at 5.5":                                                 "",
		"1: 1-3, 2:, 2 from 1 at 5.5":                                                 "1/4-4",
		"1: 1-4, 2:, 3:, 2 from 1 at 5.5, 3 from 2 at 5.7":                            "",
		"1: 1-4, 2:, 3:, 2 from 1 at 5.5, 3 from 2 at 7.7":                            "2/5-6", // and the next one was promoted on that
		"1: 1-4, 2:, 3: 7, 2 from 1 at 5.5, 3 from 2 at 7.7":                          "2/5-6",
		"1: 1-3, 2:, 3: 8, 2 from 1 at 5.5, 3 from 2 at 7.7":                          "1/4-4 2/5-6 3/7-7",
		"1: 1-4, 3: 7, 2 from 1 at 5.5, 3 from 2 at 7.7":                              "2/5-6", // not even the parent's history was archived
		"1:, 2:, 3: 7, 2 from 1 at 5.5, 3 from 2 at 7.7":                              "",      // nothing older is kept
		"2: 6, 3: 7, 2 from 1 at 5.5, 3 from 2 at 7.7":                                "",
		"1: 8-9, 2: 6-7, 2 from 1 at 5.5":                                             "", // the abandoned tail is no beginning of this branch
		"1: 1-9, 2: 6-7, 2 from 1 at 5.5":                                             "2/5-5",
		"1: 1-4 7-9, 2: 5-6, 2 from 1 at 5.5":                                         "1/5-6", // a hole of the abandoned branch alone
		"1: 1-2 7-9, 2: 5-6, 2 from 1 at 5.5":                                         "1/3-6",
		"1: 1-4, 2: 5, 3: 9, 2 from 1 at 5.5, 3 from 2 at 9.5":                        "2/6-8",
		"1: 1-4, 2: 5, 3: 7, 4: 9, 2 from 1 at 5.5, 3 from 2 at 7.5, 4 from 2 at 9.5": "2/6-8", // two children of a child
		"1: 1-9, 2: 5-6, 2 from 3 at 5.5, 3 from 1 at 4":                              "",      // unreadable order: nothing is made up
	} {
		if got := short(archiveOf(t, text).Missing()); got != want {
			t.Errorf("%s: missing %q, want %q", text, got, want)
		}
	}
}

func TestRanges(t *testing.T) {
	a := archiveOf(t, "1: 1-4 7, 2: 8-9")
	if got := short(a.Timelines[0].Ranges); got != "1/1-4 1/7-7" {
		t.Error(got)
	}
	if a.Timelines[0].NoHistory || !a.Timelines[1].NoHistory {
		t.Error("timeline 1 needs no history, timeline 2 does")
	}
	if r := a.Timelines[0].Ranges[0]; r.Size != 40 {
		t.Error(r)
	}
}

func TestWALOfABackup(t *testing.T) {
	for _, c := range []struct {
		name, archive  string
		tli, stopTLI   postgres.TimelineID
		start, stop    float64
		lacks, reaches string
	}{
		{"whole", "1: 1-9", 1, 1, 2.1, 4.5, "", "1/9"},
		{"stops at a boundary", "1: 1-3", 1, 1, 2.1, 4, "", "1/3"},
		{"lacks the middle", "1: 1-2 4-9", 1, 1, 2.1, 4.5, "1/3", "-"},
		{"lacks the end", "1: 1-3", 1, 1, 2.1, 4.5, "1/4", "-"},
		{"lacks everything", "", 1, 1, 2.1, 3.5, "1/2 1/3", "-"},
		{"gap behind", "1: 1-5 7-9", 1, 1, 2.1, 4.5, "", "1/5"},
		{"through a fork", "1: 1-4, 2: 5-8, 2 from 1 at 5.5", 1, 1, 2.1, 4.5, "", "2/8"},
		{"abandoned branch ends later", "1: 1-9, 2: 5-6, 2 from 1 at 5.5", 1, 1, 2.1, 4.5, "", "2/6"},
		{"stop behind the fork stays on its branch", "1: 1-9, 2: 5-6, 2 from 1 at 5.5", 1, 1, 2.1, 7.5, "", "1/9"},
		{"stop segment only under the next timeline", "1: 1-4, 2: 5-6, 2 from 1 at 5.5", 1, 1, 2.1, 5.4, "", "2/6"},
		{"stop segment past the fork is not served by it", "1: 1-4, 2: 5-6, 2 from 1 at 5.5", 1, 1, 2.1, 5.6, "1/5", "-"},
		{"on the second timeline", "1: 1-4, 2: 5-8, 2 from 1 at 5.5", 2, 2, 6.1, 7.5, "", "2/8"},
		{"started before the promotion", "1: 1-4, 2: 5-8, 2 from 1 at 5.5", 1, 2, 4.1, 7.5, "", "2/8"},
		{"no history", "2: 5-8", 2, 2, 6.1, 7.5, "", "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var a Archive
			if c.archive == "" {
				a = newArchive(size, nil, nil)
			} else {
				a = archiveOf(t, c.archive)
			}
			m := Manifest{Timeline: c.tli, StopTLI: c.stopTLI, SegmentSize: size,
				StartLSN: postgres.LSN(c.start * float64(size)), StopLSN: postgres.LSN(c.stop * float64(size))}
			var lacks []string
			for _, s := range a.Lacks(m) {
				lacks = append(lacks, fmt.Sprintf("%d/%d", s.Timeline, s.Number(size)))
			}
			if got := strings.Join(lacks, " "); got != c.lacks {
				t.Errorf("lacks %q, want %q", got, c.lacks)
			}
			reaches := "-"
			if e, ok := a.Frontier(m); ok {
				reaches = fmt.Sprintf("%d/%d", e.File.Segment.Timeline, e.File.Segment.Number(size))
			}
			if reaches != c.reaches {
				t.Errorf("reaches %s, want %s", reaches, c.reaches)
			}
			if whole := a.WAL(m); (len(whole) > 0) != (c.reaches != "-") {
				t.Errorf("WAL %v", whole)
			}
		})
	}
}

// A hostile manifest does not make us count for ever.
func TestNeededIsBounded(t *testing.T) {
	a := archiveOf(t, "1: 1")
	m := Manifest{Timeline: 1, StopTLI: 1, SegmentSize: size, StartLSN: 1, StopLSN: ^postgres.LSN(0)}
	if n := len(a.Lacks(m)); n > maxNeeded {
		t.Errorf("%d segments", n)
	}
}
