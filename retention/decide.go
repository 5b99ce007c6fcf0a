package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Bounds of what clocks may differ, and how long a tombstone outlives its backup: a
// schedule looks back one period, at most a year, for what is done.
const (
	maxSkew   = time.Hour
	aheadOfUs = time.Minute // of a server whose backup just ended
	afterlife = 400 * 24 * time.Hour
)

// decision is a plan being made.
type decision struct {
	Facts
	policy Policy
	now    time.Time // the earlier of ours and the store's
	good   []Backup  // newest first
	fulls  []Backup  // the full ones among them
	why    map[catalog.BackupID][]string
	whole  map[catalog.BackupID]bool // the WAL after it stays too
	since  *Backup                   // the oldest that count or window keep
}

// NewPlan decides what goes. It asks nobody, and refuses (*RefusedError) where the
// facts are not to be trusted.
func NewPlan(f Facts, policy Policy, now time.Time) (Plan, error) {
	f.Backups = slices.Clone(f.Backups)
	d := &decision{Facts: f, policy: policy, now: now, why: map[catalog.BackupID][]string{}, whole: map[catalog.BackupID]bool{}}
	if err := d.trust(); err != nil {
		return Plan{}, err
	}
	if !f.Clock.IsZero() && f.Clock.Before(now) {
		d.now = f.Clock
	}
	d.findGood()
	d.byCount()
	d.byWindow()
	d.byPeriod("daily", policy.Daily, func(t time.Time) string { return t.Format("2006-01-02") })
	d.byPeriod("weekly", policy.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) })
	d.byPeriod("monthly", policy.Monthly, func(t time.Time) string { return t.Format("2006-01") })
	d.byPeriod("yearly", policy.Yearly, func(t time.Time) string { return t.Format("2006") })
	d.faulty()
	d.held()
	d.families()
	plan := Plan{At: now.UTC(), facts: f, now: d.now}
	for _, b := range f.Backups {
		if v, ok := d.verdict(b); ok {
			plan.Backups = append(plan.Backups, v)
		}
		for _, run := range b.Unfinished() {
			plan.Runs = append(plan.Runs, d.judgeRun(b, run))
		}
	}
	d.childrenFirst(plan.Backups)
	d.judgeWAL(&plan)
	return plan, nil
}

// childrenFirst lets a hidden parent wait as long as anything that stands on it is
// there: children have younger IDs.
func (d *decision) childrenFirst(verdicts []Verdict) {
	needed := map[catalog.BackupID]catalog.BackupID{}
	for i, v := range slices.Backward(verdicts) {
		if child, ok := needed[v.Backup]; ok && v.Action == Remove {
			verdicts[i].Action, verdicts[i].Reasons = Wait, append(v.Reasons, "but "+string(child)+" stands on it")
		}
		if b, ok := d.find(v.Backup); ok && verdicts[i].Action != Remove {
			needed[b.Manifest.Parent] = b.ID
		}
	}
}

// trust refuses clocks and archives that would make every verdict a guess.
func (d *decision) trust() error {
	if err := d.policy.Validate(); err != nil {
		return err
	}
	const clocks = "set the clock of this host right (chronyc tracking)"
	if off := d.now.Sub(d.Clock).Abs(); !d.Clock.IsZero() && off > maxSkew {
		return refuse(clocks, "this host's clock and the store's differ by %s", off.Round(time.Second))
	}
	for _, b := range d.Backups {
		if b.Manifest != nil && b.Manifest.StopTime.After(d.now.Add(aheadOfUs)) {
			return refuse(clocks, "it is %s here, and backup %s ended at %s", clock(d.now), b.ID, clock(b.Manifest.StopTime))
		}
	}
	for _, t := range d.Archive.Timelines {
		if t.NoHistory {
			return refuse("archive it from the pg_wal of any member with archive-push",
				"%s is not in the archive: nobody knows which backups lead to its WAL", postgres.HistoryFile(t.Timeline))
		}
	}
	for _, name := range d.Conflicts {
		if strings.HasSuffix(name, ".history") {
			return refuse("find out which one is rightful, and have it recorded as resolved", "two contents of %s are kept", name)
		}
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (d *decision) keep(b Backup, whole bool, format string, args ...any) {
	d.why[b.ID] = append(d.why[b.ID], fmt.Sprintf(format, args...))
	d.whole[b.ID] = d.whole[b.ID] || whole
}

// find is a committed backup.
func (d *decision) find(id catalog.BackupID) (Backup, bool) {
	i := slices.IndexFunc(d.Backups, func(b Backup) bool { return b.ID == id && b.Manifest != nil })
	if i < 0 {
		return Backup{}, false
	}
	return d.Backups[i], true
}

func byStop(a, b Backup) int {
	return cmp.Or(a.Manifest.StopTime.Compare(b.Manifest.StopTime), cmp.Compare(a.ID, b.ID))
}

// findGood gathers what may be counted: damaged and incomplete backups never, nor
// what stands on one.
func (d *decision) findGood() {
	for i := range d.Backups {
		b := &d.Backups[i]
		for parent := *b; b.Manifest != nil && b.Fault == "" && parent.Manifest.Parent != ""; {
			above, ok := d.find(parent.Manifest.Parent)
			if !ok || above.Fault != "" {
				b.Fault = fmt.Sprintf("its parent %s is no good one", parent.Manifest.Parent)
			}
			if parent = above; !ok {
				break
			}
		}
		if b.Manifest != nil && b.Fault == "" {
			d.good = append(d.good, *b)
		}
	}
	slices.SortFunc(d.good, func(a, b Backup) int { return byStop(b, a) })
	d.fulls = slices.DeleteFunc(slices.Clone(d.good), func(b Backup) bool { return b.Manifest.Type != catalog.Full })
}

func (d *decision) byCount() {
	p := d.policy
	for i, b := range d.fulls {
		whole := i < p.WALFull
		d.whole[b.ID] = whole
		switch {
		case p.empty():
			d.keep(b, whole, "no retention rule is configured")
		case i < p.Keep:
			d.keep(b, whole, "one of the newest %d", p.Keep)
		case i < max(1, p.Minimum):
			d.keep(b, whole, "at least %d stay", max(1, p.Minimum))
		default:
			continue
		}
		d.reach(b)
	}
	// After a recovery to the past the newest backup may lie on the branch that was
	// left: the one that the living timeline can be restored from is another.
	if n := len(d.Archive.Timelines); n > 0 {
		tli := d.Archive.Timelines[n-1].Timeline
		h, _ := d.Archive.History(tli)
		if b, ok := newestOn(h, d.good); ok {
			d.keep(b, true, "the newest good one on timeline %d", uint32(tli))
		}
	}
}

// reach remembers how far back the rules go that keep all of a time.
func (d *decision) reach(b Backup) {
	if d.since == nil || byStop(b, *d.since) < 0 {
		d.since = &b
	}
}

// newestOn is the last of the backups along a branch, by position: clocks of members differ.
func newestOn(h postgres.TimelineHistory, backups []Backup) (newest Backup, ok bool) {
	for _, b := range backups {
		m := b.Manifest
		if h.Contains(m.Timeline, m.StartLSN) && h.Contains(m.StopTLI, m.StopLSN-1) && (!ok || m.StopLSN > newest.Manifest.StopLSN) {
			newest, ok = b, true
		}
	}
	return newest, ok
}

// byWindow keeps what ended within the window and, for each branch that was written
// to within it (abandoned ones like any other, R28), the newest backup before it.
func (d *decision) byWindow() {
	if d.policy.Window == 0 || len(d.good) == 0 {
		return
	}
	end := d.good[0].Manifest.StopTime
	for _, t := range d.Archive.Timelines {
		h, _ := d.Archive.History(t.Timeline)
		if _, ok := newestOn(h, d.good); ok && t.Archived.After(end) {
			end = t.Archived
		}
	}
	if end.After(d.now) {
		end = d.now
	}
	begin := end.Add(-d.policy.Window)
	var before []Backup
	for _, b := range d.good {
		if b.Manifest.StopTime.After(begin) {
			d.keep(b, true, "inside the window since %s", clock(begin))
			d.reach(b)
		} else {
			before = append(before, b)
		}
	}
	for _, t := range d.Archive.Timelines {
		if t.Archived.Before(begin.Add(-maxSkew)) {
			continue
		}
		h, _ := d.Archive.History(t.Timeline)
		if b, ok := newestOn(h, before); ok {
			d.keep(b, true, "the window of timeline %d begins after it", uint32(t.Timeline))
		}
	}
}

// byPeriod keeps the newest full backup of each of the last n periods that have one.
func (d *decision) byPeriod(name string, n int, period func(time.Time) string) {
	last := ""
	for _, b := range d.fulls {
		this := period(b.Manifest.StopTime.UTC())
		if this == last {
			continue
		}
		if n--; n < 0 {
			return
		}
		d.keep(b, false, "%s %s", name, this)
		last = this
	}
}

// faulty keeps bad ones as long as the rules would keep a good one of their age: a
// person may want to look. With no good one at all everything stays.
func (d *decision) faulty() {
	for _, b := range d.Backups {
		switch {
		case b.Manifest == nil || b.Fault == "":
		case d.since == nil:
			d.keep(b, true, "there is no good one")
		case byStop(b, *d.since) > 0:
			d.keep(b, true, "is younger than %s", d.since.ID)
		case d.policy.empty():
			d.keep(b, false, "no retention rule is configured")
		}
	}
}

// held keeps what people, running restores and running backups hold on to.
func (d *decision) held() {
	for _, h := range d.Holds {
		if b, ok := d.find(h.Backup); ok && h.Active(d.now) {
			until := "until released"
			if !h.Until.IsZero() {
				until = "until " + clock(h.Until)
			}
			d.keep(b, h.Restore, "held by %s %s: %s", h.By, until, h.Reason)
		}
	}
	for _, b := range d.Backups {
		for _, run := range b.Unfinished() {
			if parent, ok := d.find(parentOf(run)); ok && !d.garbage(run) {
				d.keep(parent, false, "parent of %s, which is running", b.ID)
			}
		}
	}
}

func parentOf(run catalog.StoredRun) catalog.BackupID {
	if run.Started == nil {
		return ""
	}
	return run.Started.Parent
}

// families keeps what a kept backup stands on, and what stands on a kept one.
func (d *decision) families() {
	for changed := true; changed; {
		changed = false
		for _, b := range d.Backups {
			if b.Manifest == nil || b.Manifest.Parent == "" {
				continue
			}
			parent, ok := d.find(b.Manifest.Parent)
			switch {
			case !ok:
			case len(d.why[b.ID]) > 0 && len(d.why[parent.ID]) == 0:
				d.keep(parent, d.whole[b.ID], "parent of %s", b.ID)
				changed = true
			case len(d.why[parent.ID]) > 0 && len(d.why[b.ID]) == 0:
				d.keep(b, d.whole[parent.ID], "stands on %s", parent.ID)
				changed = true
			}
		}
	}
}

// verdict is false for what has no backup's data and is not to be judged here.
func (d *decision) verdict(b Backup) (Verdict, bool) {
	v := Verdict{Backup: b.ID, Fault: b.Fault, Reasons: d.why[b.ID], Action: Keep}
	if b.Manifest != nil {
		v.Time, v.Stored = b.Manifest.StopTime.UTC(), b.Manifest.Stored
	}
	var hidden time.Time // since when, by the clock that is later
	if b.Expired != nil {
		hidden = slices.MaxFunc([]time.Time{b.Expired.At, b.Expired.Stored}, time.Time.Compare)
	}
	switch {
	case b.Manifest == nil && b.Removal != nil:
		v.Action, v.Reasons = Remove, []string{"its removal was interrupted"}
	case b.Manifest == nil && b.Expired != nil && len(b.Runs) == 0 && d.now.Sub(hidden) >= afterlife:
		v.Action, v.Reasons = Forget, []string{"was removed long ago"}
	case b.Manifest == nil:
		return v, false
	case len(v.Reasons) > 0 && b.Expired != nil:
		v.Action = Show
	case len(v.Reasons) > 0:
	case b.Expired == nil:
		v.Action, v.Reasons = Hide, []string{"no rule keeps it"}
	case d.now.Sub(hidden) < d.policy.Grace:
		v.Action, v.Reasons, v.After = Wait, []string{"hidden since " + clock(hidden)}, hidden.Add(d.policy.Grace).UTC()
	default:
		v.Action, v.Reasons = Remove, []string{"hidden since " + clock(hidden)}
	}
	return v, true
}

func (d *decision) garbage(run catalog.StoredRun) bool {
	return d.now.Sub(run.Newest) >= d.policy.Garbage
}

// judgeRun: garbage age counts from the newest object, so a slow run is none (R16).
func (d *decision) judgeRun(b Backup, run catalog.StoredRun) Verdict {
	v := Verdict{Backup: b.ID, Run: run.Run, Action: Keep, Time: run.Newest.UTC(), Stored: run.Size,
		Reasons: []string{"never committed; its newest object is younger than " + d.policy.Garbage.String()}}
	if d.garbage(run) {
		v.Action, v.Reasons = Remove, []string{"never committed; nothing came since " + clock(run.Newest)}
	}
	return v
}
