package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// A gap that was first seen at 20:00, with fill_after 30s (so two minutes for those who
// can) and lost_after 15m.
func TestLateOrLost(t *testing.T) {
	found := time.Date(2026, 11, 28, 20, 0, 0, 0, time.UTC)
	there := func(name string, after time.Duration) witness { return witness{Name: name, Since: found.Add(after)} }
	absent := witness{Name: "n3", Absent: "no daemon runs there"}
	all := []witness{there("n1", -time.Hour), there("n2", 0)}
	for name, c := range map[string]struct {
		members []witness
		age     time.Duration
		never   bool // fill_after: 0s
		want    string
	}{
		"young":                           {members: all, age: 2*time.Minute - 1, want: "late: n1, n2 may bring it until 2026-11-28T20:02:00Z"},
		"all had their time":              {members: all, age: 2 * time.Minute, want: "lost: every member had the time to bring it, none did: n1, n2"},
		"one began later":                 {members: append([]witness{there("n0", time.Minute)}, all...), age: 3*time.Minute - 1, want: "late: n0, n1, n2 may bring it until 2026-11-28T20:03:00Z"},
		"one began later, and had it":     {members: append([]witness{there("n0", time.Minute)}, all...), age: 3 * time.Minute, want: "lost: every member had the time to bring it, none did: n0, n1, n2"},
		"one began far too late":          {members: append([]witness{there("n0", 14*time.Minute)}, all...), age: 15*time.Minute - 1, want: "late: somebody may bring it until 2026-11-28T20:15:00Z"},
		"that is no reason for ever":      {members: append([]witness{there("n0", 14*time.Minute)}, all...), age: 15 * time.Minute, want: "lost: nobody brought it within 15m0s"},
		"one is away":                     {members: append(all, absent), age: 15*time.Minute - 1, want: "late: n3 (no daemon runs there) may have it; waited for until 2026-11-28T20:15:00Z"},
		"one stays away":                  {members: append(all, absent), age: 15 * time.Minute, want: "lost: nobody brought it within 15m0s; not heard from: n3 (no daemon runs there)"},
		"nobody to ask":                   {age: 15*time.Minute - 1, want: "late: somebody may bring it until 2026-11-28T20:15:00Z"},
		"nobody to ask, for long":         {age: 15 * time.Minute, want: "lost: nobody brought it within 15m0s"},
		"nobody fills":                    {members: all, never: true, age: 14 * time.Minute, want: "late: somebody may bring it until 2026-11-28T20:15:00Z"},
		"nobody fills, and that for long": {members: all, never: true, age: 15 * time.Minute, want: "lost: nobody brought it within 15m0s"},
	} {
		d := doubt{Since: found, FillAfter: 30 * time.Second, LostAfter: 15 * time.Minute, Members: c.members}
		if c.never {
			d.FillAfter = 0
		}
		lost, why := d.judge(found.Add(c.age))
		if got := map[bool]string{true: "lost: ", false: "late: "}[lost] + why; got != c.want {
			t.Errorf("%s: got  %s\nwant %s", name, got, c.want)
		}
	}
}

// Since when a member could bring its WAL: its daemon is there and its server runs.
func TestWitnesses(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 28, 20, minute, 0, 0, time.UTC) }
	heard := map[string]time.Time{}
	member := func(name, state string) cluster.Member { return cluster.Member{Name: name, State: state} }
	began := cluster.Daemon{Member: "n1", DataDir: true, Since: at(0)}
	again := cluster.Daemon{Member: "n1", DataDir: true, Since: at(4)}
	for minute, step := range []struct {
		n1     string
		daemon []cluster.Daemon
		want   string
	}{
		{"running", nil, "n1 no daemon runs there"},
		{"running", []cluster.Daemon{{Member: "n1", Since: at(0)}}, "n1 no daemon runs there"}, // of a backup host of this name
		{"running", []cluster.Daemon{began}, "n1 since 2"},
		{"running", []cluster.Daemon{began}, "n1 since 2"},
		{"running", []cluster.Daemon{again}, "n1 since 4"}, // it was restarted
		{"running", []cluster.Daemon{again}, "n1 since 4"},
		{"crashed", []cluster.Daemon{again}, "n1 its server is not running"},
		{"running", []cluster.Daemon{again}, "n1 since 7"},
	} {
		daemons := append(step.daemon, cluster.Daemon{Member: "n0", DataDir: true, Since: at(0).Add(-time.Hour)})
		var got []string
		for _, w := range witnesses(cluster.Topology{Members: []cluster.Member{member("n1", step.n1), member("n0", "running")}}, daemons, heard, at(minute)) {
			if w.Absent == "" {
				w.Absent = fmt.Sprint("since ", w.Since.Minute())
			}
			got = append(got, w.Name+" "+w.Absent)
		}
		if want := []string{"n0 since 0", step.want}; !slices.Equal(got, want) {
			t.Errorf("minute %d: %q, want %q", minute, got, want)
		}
	}
}

// What is told of gaps from one survey to the next, each once, and since when they count.
func TestFollow(t *testing.T) {
	const size = postgres.DefaultSegmentSize
	at := func(tli, n int) postgres.Segment {
		return postgres.SegmentAt(postgres.TimelineID(tli), postgres.LSN(n*int(size)), size)
	}
	r := func(tli, first, last int) catalog.Gap {
		return catalog.Gap{Range: catalog.Range{First: at(tli, first), Last: at(tli, last), Segments: last - first + 1}, State: catalog.GapLate}
	}
	lost := func(g catalog.Gap) catalog.Gap { g.State = catalog.GapLost; return g }
	short := func(g catalog.Range) string {
		return fmt.Sprintf("%d/%d-%d", g.First.Timeline, g.First.Number(size), g.Last.Number(size))
	}
	var now []Gap
	for minute, step := range []struct {
		gaps       []catalog.Gap
		told, want string
	}{
		{nil, "", ""},
		{[]catalog.Gap{r(1, 5, 9)}, "found 1/5-9", "1/5-9 1 1"},
		{[]catalog.Gap{r(1, 5, 9)}, "", "1/5-9 1 1"},
		{[]catalog.Gap{r(1, 5, 9), r(2, 5, 9)}, "found 2/5-9", "1/5-9 1 1, 2/5-9 3 3"},
		{[]catalog.Gap{r(1, 7, 9), r(2, 5, 9)}, "filled 1/5-6", "1/7-9 1 4, 2/5-9 3 4"}, // it is being filled
		{[]catalog.Gap{r(1, 7, 7), r(1, 9, 9), r(2, 5, 9)}, "filled 1/8-8", "1/7-7 1 5, 1/9-9 1 5, 2/5-9 3 5"},
		{[]catalog.Gap{r(1, 9, 9), r(2, 5, 12)}, "filled 1/7-7, found 2/10-12", "1/9-9 1 6, 2/5-12 3 6"},
		{[]catalog.Gap{lost(r(2, 5, 6)), r(2, 7, 12)}, "filled 1/9-9", "2/5-6 3 7, 2/7-12 3 7"}, // recorded in part
		{nil, "filled 2/5-6, filled 2/7-12", ""},
	} {
		var told, after []string
		now = follow(now, step.gaps, size, time.Unix(int64(60*minute), 0), func(event string, g Gap) {
			told = append(told, strings.TrimPrefix(event, "gap.")+" "+short(g.Range))
		})
		for _, w := range now {
			after = append(after, fmt.Sprint(short(w.Range), " ", w.Since.Unix()/60, " ", w.moved.Unix()/60))
		}
		if got := strings.Join(told, ", "); got != step.told {
			t.Errorf("minute %d: told %q, want %q", minute, got, step.told)
		}
		if got := strings.Join(after, ", "); got != step.want {
			t.Errorf("minute %d: %q, want %q", minute, got, step.want)
		}
	}
}
