package retention

import (
	"cmp"
	"math"
	"slices"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// span is segments by number, both ends included, and why they stay.
type span struct {
	first, last uint64
	why         string
}

// anchor is a position from which WAL must stay: all that follows along any branch,
// or up to a backup's stop.
type anchor struct {
	timeline postgres.TimelineID
	from, to postgres.LSN // to is 0 for all that follows
	why      string
}

// anchors are the backups that stay, also those that wait for their removal, so that
// one that is shown again has lost nothing, and the runs under way.
func (d *decision) anchors(plan Plan) (all []anchor) {
	for _, v := range plan.Backups {
		b, ok := d.find(v.Backup)
		if !ok || v.Action == Remove {
			continue
		}
		a := anchor{timeline: b.Manifest.Timeline, from: b.Manifest.StartLSN, why: "follows " + string(b.ID)}
		if d.policy.WALFull > 0 && !d.whole[b.ID] && (v.Action == Keep || v.Action == Show) {
			a.to, a.why = b.Manifest.StopLSN, "belongs to "+string(b.ID)
		}
		all = append(all, a)
	}
	for _, b := range d.Backups {
		for _, run := range b.Unfinished() {
			if run.Started != nil && !d.garbage(run) {
				all = append(all, anchor{timeline: run.Started.Timeline, from: run.Started.StartLSN, why: "follows " + string(b.ID) + ", which is running"})
			}
		}
	}
	return all
}

// judgeWAL decides over each timeline by the tree, not by names: what lies on a
// branch after an anchor stays, also where that branch was abandoned (R28).
func (d *decision) judgeWAL(plan *Plan) {
	plan.kept = map[postgres.TimelineID][]span{}
	anchors := d.anchors(*plan)
	for i, t := range d.Archive.Timelines {
		kept := d.spans(t, anchors)
		everything := span{0, math.MaxUint64, ""}
		open := len(kept) > 0 && kept[len(kept)-1].last == everything.last
		switch {
		case len(d.good) == 0:
			everything.why = "there is no good backup"
		case open:
		case i == len(d.Archive.Timelines)-1:
			everything.why = "the newest timeline"
		case d.now.Sub(t.Archived) < d.policy.Garbage:
			everything.why = "was written to lately"
		}
		if everything.why != "" {
			kept = []span{everything}
		}
		plan.kept[t.Timeline] = kept
		plan.WAL = append(plan.WAL, d.cut(t, kept)...)
	}
}

// spans are what the anchors keep of a timeline, in order, apart from each other.
func (d *decision) spans(t catalog.TimelineWAL, anchors []anchor) (kept []span) {
	h, _ := d.Archive.History(t.Timeline)
	size := d.Archive.SegmentSize
	for _, a := range anchors {
		if !h.Contains(a.timeline, a.from) {
			continue
		}
		s := span{postgres.SegmentAt(t.Timeline, a.from, size).Number(size), math.MaxUint64, a.why}
		if a.to != 0 {
			s.last = postgres.SegmentEndingAt(t.Timeline, a.to, size).Number(size)
		}
		kept = append(kept, s)
	}
	slices.SortStableFunc(kept, func(a, b span) int { // the widest of one beginning says why
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(b.last, a.last))
	})
	apart := kept[:0]
	for _, s := range kept {
		if n := len(apart); n > 0 && s.first <= apart[n-1].last {
			apart[n-1].last = max(apart[n-1].last, s.last)
			continue
		}
		apart = append(apart, s)
	}
	return apart
}

// cut divides what is there of a timeline into what stays and what goes.
func (d *decision) cut(t catalog.TimelineWAL, kept []span) (all []WALVerdict) {
	size := d.Archive.SegmentSize
	for _, r := range t.Ranges {
		end := r.Last.Number(size)
		for first := r.First.Number(size); first <= end; {
			v := WALVerdict{Timeline: t.Timeline, Action: Remove, Reason: "nothing that stays leads to it"}
			last := end
			if i := slices.IndexFunc(kept, func(k span) bool { return first <= k.last }); i >= 0 && kept[i].first <= first {
				v.Action, v.Reason, last = Keep, kept[i].why, min(end, kept[i].last)
			} else if i >= 0 {
				last = min(end, kept[i].first-1)
			}
			at := func(n uint64) postgres.Segment {
				return postgres.SegmentAt(t.Timeline, postgres.LSN(n*uint64(size)), size)
			}
			n := int(last - first + 1)
			v.Range = catalog.Range{First: at(first), Last: at(last), Segments: n, Size: r.Size * int64(n) / int64(r.Segments)}
			all, first = append(all, v), last+1
		}
	}
	return all
}

// gone tells whether a segment goes by the plan. What the plan does not know stays.
func (p Plan) gone(s postgres.Segment) bool {
	kept, known := p.kept[s.Timeline]
	n := s.Number(p.facts.Archive.SegmentSize)
	return known && !slices.ContainsFunc(kept, func(k span) bool { return k.first <= n && n <= k.last })
}

func (p Plan) goneAt(tli postgres.TimelineID, lsn postgres.LSN) bool {
	return p.gone(postgres.SegmentAt(tli, lsn, p.facts.Archive.SegmentSize))
}
