package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/wal"
)

const mib = 1 << 20

// at is the start of a segment of 16 MiB.
func at(n int) postgres.LSN { return postgres.LSN(n * 16 * mib) }

func TestPlanKeep(t *testing.T) {
	histories := map[postgres.TimelineID]postgres.TimelineHistory{2: {Timeline: 2, Entries: []postgres.HistoryEntry{{Parent: 1, Switch: at(5) + 100}}}}
	standby := wal.Holdings{Size: 16 * mib, State: wal.ServerFollows, Timeline: 1, Reached: at(9) + 100}
	promoted := wal.Holdings{Size: 16 * mib, State: wal.ServerLeads, Timeline: 2, Reached: at(9) + 100, Histories: histories}
	first := wal.Holdings{Size: 16 * mib, State: wal.ServerLeads, Timeline: 1, Reached: at(9)}
	keep := config.Archive{KeepOnStandby: 64 * mib, FullBelow: 1000}
	for name, c := range map[string]struct {
		h        wal.Holdings
		held     bool
		frontier postgres.LSN
		free     int64
		a        config.Archive
		want     plan
	}{
		"all is archived":              {standby, false, at(9), 1000, keep, plan{hold: true, from: at(9)}},
		"as much as may be":            {standby, true, at(5) + 100, 1000, keep, plan{hold: true, from: at(5) + 100}},
		"more than may be":             {standby, true, at(5), 1000, keep, plan{hold: true, from: at(6), exceeded: true}},
		"far more":                     {standby, true, at(1), 1000, keep, plan{hold: true, from: at(6), exceeded: true}},
		"nearly full":                  {standby, true, at(9), 999, keep, plan{why: "pg_wal has 999 bytes free, less than archive.full_below"}},
		"off":                          {standby, true, at(9), 1000, config.Archive{}, plan{why: "archive.keep_on_standby is 0"}},
		"promoted, the fork is ahead":  {promoted, true, at(4), 1000, config.Archive{KeepOnStandby: 1 << 30}, plan{hold: true, from: at(4)}},
		"promoted, beyond the cap":     {promoted, true, at(4), 1000, keep, plan{hold: true, from: at(6), exceeded: true}},
		"promoted, all below the fork": {promoted, true, at(5), 1000, keep, plan{why: "all below the fork of its timeline is archived"}},
		"promoted before we came":      {promoted, false, at(4), 1000, keep, plan{why: "all below the fork of its timeline is archived"}},
		"a primary from the beginning": {first, false, at(4), 1000, keep, plan{why: "all below the fork of its timeline is archived"}},
	} {
		if got := planKeep(c.h, c.held, c.frontier, c.free, c.a); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What the archive lacks is filled when this member has seen it lacking for so long, and
// what came and went is forgotten.
func TestDue(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	file := func(n uint32) postgres.WALFile {
		return postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1, Seg: n}}
	}
	all := []postgres.WALFile{file(1), file(2), file(3)}
	var k keeper
	for i, step := range []struct {
		after time.Duration
		lacks []postgres.WALFile
		want  []postgres.WALFile
	}{
		{0, all[:2], nil},
		{10 * time.Second, all, nil},
		{29 * time.Second, all[1:], nil},
		{30 * time.Second, all, []postgres.WALFile{file(2)}},
		{40 * time.Second, all, []postgres.WALFile{file(2), file(3)}},
		{60 * time.Second, all, all},
	} {
		lacks := map[postgres.WALFile]bool{}
		for _, f := range step.lacks {
			lacks[f] = true
		}
		if got := k.due(all, lacks, now.Add(step.after), 30*time.Second); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

// What the archive had, or has let go, nobody brings again; holes and what is new they do.
func TestSettled(t *testing.T) {
	segment := func(tli, n uint32) postgres.Segment {
		return postgres.Segment{Timeline: postgres.TimelineID(tli), Seg: n}
	}
	a := catalog.Archive{SegmentSize: 16 * mib, Timelines: []catalog.TimelineWAL{
		{Timeline: 1, Ranges: []catalog.Range{{First: segment(1, 4), Last: segment(1, 5)}, {First: segment(1, 8), Last: segment(1, 9)}},
			Missing: []catalog.Range{{First: segment(1, 7), Last: segment(1, 7)}}},
		{Timeline: 2, Missing: []catalog.Range{{First: segment(2, 9), Last: segment(2, 9)}}}}}
	for s, want := range map[postgres.Segment]bool{segment(1, 3): true, segment(1, 4): true, segment(1, 6): true, segment(1, 7): false, segment(1, 8): true,
		segment(1, 9): true, segment(1, 10): false, segment(2, 9): false, segment(2, 1): false, segment(3, 9): false} {
		if got := settled(a, postgres.WALFile{Kind: postgres.WALSegment, Segment: s}); got != want {
			t.Errorf("%s: %t, want %t", s, got, want)
		}
	}
	if settled(a, postgres.HistoryFile(1)) || settled(catalog.Archive{}, postgres.WALFile{Kind: postgres.WALSegment, Segment: segment(1, 4)}) {
		t.Error("a history, or without a survey")
	}
}

// A cluster that is made anew has WAL of the same names: what the archive has of the former
// one, as a survey or a round before saw, is not taken for its.
func TestLacksOfAnotherSystem(t *testing.T) {
	s := alive(t)
	f := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1, Seg: 1}}
	r := s.opener(7)
	if _, err := r.Create(t.Context(), 16*mib, config.Required, time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutWAL(t.Context(), f, []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	var k keeper
	for _, step := range []struct {
		system   postgres.SystemIdentifier
		surveyed bool
		want     bool
	}{{7, false, false}, {8, false, true}, {7, true, false}, {8, true, true}} {
		if s.survey = (surveyed{}); step.surveyed {
			found, err := r.Survey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.survey.Survey = found
		}
		if lacks, err := s.lacks(t.Context(), &k, step.system, []postgres.WALFile{f}); err != nil || lacks[f] != step.want {
			t.Errorf("%+v: %v %v", step, lacks, err)
		}
	}
}

// The frontier goes on from what was written down, unless that is of another branch.
func TestSettle(t *testing.T) {
	two := map[postgres.TimelineID]postgres.TimelineHistory{2: {Timeline: 2, Entries: []postgres.HistoryEntry{{Parent: 1, Switch: at(5) + 100}}}}
	h := wal.Holdings{System: 7, Size: 16 * mib, State: wal.ServerFollows, Timeline: 2, Redo: at(6) + 100, Reached: at(9) + 100, Histories: two}
	segment := func(tli, n uint32) postgres.Segment {
		return postgres.Segment{Timeline: postgres.TimelineID(tli), Seg: n}
	}
	for name, c := range map[string]struct{ written, want wal.Frontier }{
		"nothing written":       {wal.Frontier{}, wal.Frontier{System: 7, Segment: segment(2, 6)}},
		"of the branch":         {wal.Frontier{System: 7, Segment: segment(2, 5)}, wal.Frontier{System: 7, Segment: segment(2, 5)}},
		"of its parent":         {wal.Frontier{System: 7, Segment: segment(1, 4)}, wal.Frontier{System: 7, Segment: segment(1, 4)}},
		"the fork's segment":    {wal.Frontier{System: 7, Segment: segment(1, 5)}, wal.Frontier{System: 7, Segment: segment(1, 5)}},
		"of a branch left":      {wal.Frontier{System: 7, Segment: segment(1, 6)}, wal.Frontier{System: 7, Segment: segment(2, 6)}},
		"ahead of us":           {wal.Frontier{System: 7, Segment: segment(2, 10)}, wal.Frontier{System: 7, Segment: segment(2, 6)}},
		"of another system":     {wal.Frontier{System: 8, Segment: segment(2, 5)}, wal.Frontier{System: 7, Segment: segment(2, 6)}},
		"of an unknown branch":  {wal.Frontier{System: 7, Segment: segment(3, 5)}, wal.Frontier{System: 7, Segment: segment(2, 6)}},
		"the one being written": {wal.Frontier{System: 7, Segment: segment(2, 9)}, wal.Frontier{System: 7, Segment: segment(2, 9)}},
	} {
		k := keeper{state: t.TempDir()}
		if c.written.System != 0 {
			if err := c.written.Write(k.state); err != nil {
				t.Fatal(err)
			}
		}
		if k.settle(h); !reflect.DeepEqual(k.frontier, c.want) {
			t.Errorf("%s: %+v, want %+v", name, k.frontier, c.want)
		}
		if gone := k.advance(h, nil, time.Unix(9, 0)); len(gone) != 0 || k.frontier.Segment != segment(2, 9) {
			t.Errorf("%s: advanced to %+v, gone %v", name, k.frontier, gone)
		}
		if f, err := wal.ReadFrontier(k.state); err != nil || f.Segment != segment(2, 9) {
			t.Errorf("%s: written %+v, %v", name, f, err)
		}
	}
}

// What is lost is stepped over, and shown.
func TestAdvanceOverALoss(t *testing.T) {
	h := wal.Holdings{System: 7, Size: 16 * mib, State: wal.ServerFollows, Timeline: 1, Redo: at(3), Reached: at(9), Files: map[postgres.WALFile]bool{}}
	lacks := map[postgres.WALFile]bool{}
	for n := range uint32(9) {
		f := postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1, Seg: n}}
		lacks[f], h.Files[f] = n != 6, n > 4
	}
	k := keeper{state: t.TempDir()}
	k.settle(h)
	gone := k.advance(h, lacks, time.Unix(9, 0))
	if len(gone) != 2 || gone[0].Seg != 3 || gone[1].Seg != 4 || k.frontier.Segment.Seg != 5 {
		t.Errorf("gone %v, frontier %+v", gone, k.frontier)
	}
	if gone = k.advance(h, lacks, time.Unix(10, 0)); len(gone) != 0 || k.frontier.Segment.Seg != 5 {
		t.Errorf("again: gone %v, frontier %+v", gone, k.frontier)
	}
	// One that followed a fork and does not stream now names the timeline before it: what it
	// lacks of that behind the fork was never its to keep.
	h.Histories = map[postgres.TimelineID]postgres.TimelineHistory{2: {Timeline: 2, Entries: []postgres.HistoryEntry{{Parent: 1, Switch: at(6)}}}}
	lacks[postgres.WALFile{Kind: postgres.WALSegment, Segment: postgres.Segment{Timeline: 1, Seg: 5}}] = false
	for n := range h.Files {
		h.Files[n] = false
	}
	if gone = k.advance(h, lacks, time.Unix(11, 0)); len(gone) != 0 || k.frontier.Segment.Seg != 5 {
		t.Errorf("behind a fork: gone %v, frontier %+v", gone, k.frontier)
	}
}

func TestKeepIsShown(t *testing.T) {
	s := alive(t)
	s.healthy(s.started)
	s.keep = &Keep{Slot: "pgha_keep_x", Bytes: 5, Problem: "no slot: none is left"}
	if problems := strings.Join(s.status(s.started).Problems, "\n"); !strings.Contains(problems, "keep: WAL may be recycled here before it is archived: no slot: none is left") {
		t.Error(problems)
	}
	shown := map[string]float64{}
	for _, sample := range s.samples(s.started) {
		shown[sample.Name] = sample.Value
	}
	if shown["pgha_keep_bytes"] != 5 || shown["pgha_keep_broken"] != 1 {
		t.Error(shown)
	}
}

// A session that ends takes the slot with it: it is not shown as held until the next round.
func TestKeepOfASilentServer(t *testing.T) {
	s := alive(t)
	k := keeper{dsn: "nonsense", pgdata: t.TempDir()}
	control := filepath.Join(k.pgdata, "global", "pg_control")
	if err := errors.Join(os.Mkdir(filepath.Dir(control), 0o700), os.WriteFile(control, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s.keepRound(t.Context(), &k, s.started)
	if s.keep != nil {
		t.Errorf("nothing was ever kept: %+v", s.keep)
	}
	s.keep = &Keep{Slot: "pgha_keep_x", Bytes: 5}
	s.keepRound(t.Context(), &k, s.started)
	if s.keep.Slot != "" || s.keep.Bytes != 5 || !strings.HasPrefix(s.keep.Problem, "the server does not say where it stands: ") {
		t.Errorf("%+v", s.keep)
	}
	if err := os.Remove(control); err != nil {
		t.Fatal(err)
	}
	if s.keepRound(t.Context(), &k, s.started); s.keep != nil {
		t.Errorf("there is no data directory: %+v", s.keep)
	}
}

func TestKeepEvery(t *testing.T) {
	for after, want := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Second: 2 * time.Second, 15 * time.Second: 5 * time.Second, time.Hour: 10 * time.Second} {
		if got := keepEvery(after); got != want {
			t.Errorf("%s: %s, want %s", after, got, want)
		}
	}
}
