package wal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
)

func file(t *testing.T, name string) postgres.WALFile {
	t.Helper()
	f, err := postgres.ParseWALFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// short names a segment of 16 MiB as timeline/number, and a history by its timeline.
func short(t *testing.T, name string) postgres.WALFile {
	t.Helper()
	tli, number, segment := strings.Cut(name, "/")
	if !segment {
		return file(t, "0000000"+tli+".history")
	}
	return file(t, "0000000"+tli+"000000000000000"+number)
}

func shorts(t *testing.T, names string) (found []postgres.WALFile) {
	for _, name := range strings.Fields(names) {
		found = append(found, short(t, name))
	}
	return found
}

func set(t *testing.T, names string) map[postgres.WALFile]bool {
	found := map[postgres.WALFile]bool{}
	for _, f := range shorts(t, names) {
		found[f] = true
	}
	return found
}

func history(t *testing.T, tli postgres.TimelineID, lines ...string) postgres.TimelineHistory {
	t.Helper()
	h, err := postgres.ParseTimelineHistory(tli, []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// R2 by names, histories and positions alone.
func TestOffers(t *testing.T) {
	two := history(t, 2, "1\t0/5000100\tpromoted")
	three := history(t, 3, "1\t0/5000100\tpromoted", "2\t0/7000000\tpromoted")
	early := history(t, 3, "1\t0/3000000\tto a time")
	for name, c := range map[string]struct {
		state     ServerState
		timeline  postgres.TimelineID
		reached   postgres.LSN
		files     string
		ready     string
		histories []postgres.TimelineHistory
		want      string
	}{
		"standby":                           {ServerFollows, 1, 0x6000000, "1/4 1/5 1/6 1/7", "", nil, "1/4 1/5"},
		"standby, a byte short of the end":  {ServerFollows, 1, 0x5FFFFFF, "1/4 1/5", "", nil, "1/4"},
		"standby that received nothing yet": {ServerFollows, 1, 0, "1/0 1/1", "", nil, ""},
		"standby behind a fork: what it has of the fork's segment under the former name is no whole one": {
			ServerFollows, 2, 0x7000000, "1/4 1/5 2/5 2/6 2/7 2", "", []postgres.TimelineHistory{two}, "2 1/4 2/5 2/6"},
		"standby that knows of the fork and is still before it": {
			ServerFollows, 1, 0x6000000, "1/4 1/5 2", "", []postgres.TimelineHistory{two}, "1/4"},
		"a fork at the end of a segment": {
			ServerFollows, 3, 0x9000000, "2/6 2/7 3/7 2 3", "", []postgres.TimelineHistory{two, three}, "2 3 2/6 3/7"},
		"the earliest fork counts": {
			ServerFollows, 3, 0x9000000, "1/2 1/3 1/4 2/5 3/3 2 3", "", []postgres.TimelineHistory{two, early}, "3 1/2 3/3"},
		"standby without the history of its timeline": {ServerFollows, 2, 0x7000000, "1/4 2/5", "", nil, "2/5"},
		"a later timeline that is none of ours":       {ServerFollows, 1, 0x9000000, "1/4 2/5", "", nil, "1/4"},
		"primary: its own timeline is the archiver's": {
			ServerLeads, 2, 0x9000000, "1/4 1/5 2/5 2/6 2", "1/4 2/5", []postgres.TimelineHistory{two}, "1/4"},
		"primary: the histories of its ancestors": {ServerLeads, 3, 0x9000000, "1/4 2/6 2/7 3/7 2 3", "", []postgres.TimelineHistory{two, three}, "2 1/4 2/6"},
		"first primary":            {ServerLeads, 1, 0x9000000, "1/4 1/5", "1/4", nil, ""},
		"down: only what is ready": {ServerDown, 1, 0, "1/4 1/5 1/6", "1/4 1/5", nil, "1/4 1/5"},
		"down behind a fork":       {ServerDown, 2, 0, "1/4 1/5 2/5 2", "1/4 1/5 2/5 2", []postgres.TimelineHistory{two}, "2 1/4 2/5"},
	} {
		h := Holdings{Size: postgres.DefaultSegmentSize, State: c.state, Timeline: c.timeline, Reached: c.reached, Files: set(t, c.files), Ready: set(t, c.ready),
			Histories: map[postgres.TimelineID]postgres.TimelineHistory{}}
		for _, history := range c.histories {
			h.Histories[history.Timeline] = history
		}
		if got, want := h.Offers(), shorts(t, c.want); !slices.Equal(got, want) {
			t.Errorf("%s: offers %v, want %v", name, got, want)
		}
	}
}

func TestFrontier(t *testing.T) {
	two := map[postgres.TimelineID]postgres.TimelineHistory{2: history(t, 2, "1\t0/5000100\tpromoted")}
	for name, c := range map[string]struct {
		from         postgres.LSN
		files, lacks string
		at, gone     string
	}{
		"all is archived":                       {0x3000000, "2/7", "", "2/7", ""},
		"the fork's segment is the child's":     {0x3000000, "1/4 2/5 2/6", "1/5", "2/7", ""},
		"the first that is lacking":             {0x3000000, "1/4 2/5 2/6", "1/4 2/6", "1/4", ""},
		"lacking here too":                      {0x3000000, "2/5 2/6", "1/3 1/4 2/6", "1/3", "1/3 1/4"},
		"a hole behind one that is here":        {0x3000000, "1/3", "1/3 1/4", "1/3", ""},
		"from within a segment":                 {0x5000200, "", "1/4", "2/7", ""},
		"from what the server has not got to":   {0x8000000, "", "", "2/8", ""},
		"the segment that is written is no gap": {0x7000000, "", "2/7", "2/7", ""},
	} {
		h := Holdings{Size: postgres.DefaultSegmentSize, State: ServerFollows, Timeline: 2, Reached: 0x7000010, Files: set(t, c.files), Histories: two}
		lacks := set(t, c.lacks)
		at, gone := h.Frontier(c.from, func(f postgres.WALFile) bool { return lacks[f] })
		var names []postgres.WALFile
		for _, s := range gone {
			names = append(names, postgres.WALFile{Kind: postgres.WALSegment, Segment: s})
		}
		if at != short(t, c.at).Segment || !slices.Equal(names, shorts(t, c.gone)) {
			t.Errorf("%s: frontier %s, gone %v; want %s, %s", name, at, gone, c.at, c.gone)
		}
	}
}

// A standby that followed a promotion keeps the segment with the fork under the former
// timeline's name, valid in part. The former primary may have archived its own.
func TestLeft(t *testing.T) {
	dir, _ := pgdata(t)
	for name, text := range map[string]string{
		"00000002.history":         "1\t0/5000100\tno recovery target specified\n",
		"00000003.history":         "1\t0/5000100\tno recovery target specified\n\n2\t0/7000000\tno recovery target specified\n",
		"00000004.history":         "1\t0/4000100\tbefore\n",
		"00000005.history":         "nonsense",
		"000000020000000000000005": "",
	} {
		write(t, filepath.Join(dir, "pg_wal", name), []byte(text))
	}
	h, err := ReadHoldings(dir)
	for tli, want := range map[postgres.TimelineID]string{1: "0/4000100", 2: "0/7000000", 3: "FFFFFFFF/FFFFFFFF", 4: "FFFFFFFF/FFFFFFFF"} {
		if got := h.Left(tli); got.String() != want || err != nil {
			t.Errorf("timeline %d was left at %s, want %s; %v", tli, got, want, err)
		}
	}
}

func TestReadHoldings(t *testing.T) {
	if _, err := ReadHoldings(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no data directory: %v", err)
	}
	dir, segments := pgdata(t)
	status := filepath.Join(dir, "pg_wal", "archive_status")
	if err := os.Mkdir(status, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{segments[0] + ".done", segments[1] + ".ready", "00000002.history.done", segments[0] + ".00000028.backup.done", "x.ready"} {
		write(t, filepath.Join(status, name), nil)
	}
	write(t, filepath.Join(dir, "pg_wal", segments[1]+".partial"), []byte("x"))
	h, err := ReadHoldings(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := map[postgres.WALFile]bool{file(t, segments[0]): true, postgres.HistoryFile(2): true}
	if h.State != ServerDown || len(h.Ready) != 1 || !h.Ready[file(t, segments[1])] || len(h.Done) != 2 || !h.Done[file(t, segments[0])] || !h.Done[postgres.HistoryFile(2)] {
		t.Errorf("%+v, want done %v", h, done)
	}
	if h.Files[file(t, segments[1]+".partial")] || !h.Files[file(t, segments[1])] || !h.Files[postgres.HistoryFile(2)] || h.Histories[2].Timeline != 2 || h.Size == 0 || h.Redo == 0 {
		t.Errorf("%+v", h)
	}
}
