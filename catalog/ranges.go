package catalog

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Range is a run of segments of one timeline without a hole.
type Range struct {
	First    postgres.Segment `json:"first"`
	Last     postgres.Segment `json:"last"`
	Segments int              `json:"segments"`
	Size     int64            `json:"stored_bytes"` // 0 for a gap
}

// TimelineWAL is what the archive holds of one timeline.
type TimelineWAL struct {
	Timeline postgres.TimelineID `json:"timeline"`
	// Parent and Switch say where it was forked from; zero for one without a history.
	Parent postgres.TimelineID `json:"parent,omitempty"`
	Switch postgres.LSN        `json:"switch_lsn,omitempty"`
	// NoHistory tells that its .history file is missing: PostgreSQL cannot follow it.
	NoHistory bool    `json:"history_missing,omitempty"`
	Ranges    []Range `json:"ranges"`
	// Missing are the gaps: between ranges, from the fork to the first segment, from the
	// last segment to the fork of a child, and what was dropped. A segment that is merely not
	// archived yet is none.
	Missing []Range `json:"missing,omitempty"`
	// Archived is when the store got the last segment.
	Archived time.Time `json:"archived,omitzero"`
	last     WALEntry
	begun    []time.Time // when the store got the first segment of each range
}

// Archive is the whole WAL archive by names: who has which segments, what is missing.
type Archive struct {
	SegmentSize postgres.SegmentSize
	Timelines   []TimelineWAL // ascending
	// Unreadable are histories, or repository.json, that are there and cannot be read: what follows from
	// the rest is not all, and nothing is deleted by it.
	Unreadable []Unreadable
	histories  map[postgres.TimelineID]postgres.TimelineHistory
	expired    []Range     // holes that expiry made
	known      []GapRecord // of the others
	listed     time.Time
}

// Archive lists the whole archive: storage.ErrNotExist if there is none yet.
func (r *Repository) Archive(ctx context.Context) (Archive, error) {
	info, damaged, err := r.KnownInfo(ctx)
	if err != nil {
		return Archive{}, err
	}
	histories, broken, err := r.Histories(ctx)
	if err != nil {
		return Archive{}, err
	}
	timelines, err := r.Timelines(ctx)
	if err != nil {
		return Archive{}, err
	}
	var listed []TimelineWAL
	for _, tli := range timelines {
		t := TimelineWAL{Timeline: tli}
		for entry, err := range r.ListWAL(ctx, tli, postgres.WALFile{}) { // one at a time: there may be a million
			if err != nil {
				return Archive{}, err
			}
			// A number beyond its log's last would be another segment's.
			if entry.File.Kind == postgres.WALSegment && uint64(entry.File.Segment.Seg) < info.SegmentSize.PerLog() {
				t.add(entry, info.SegmentSize)
			}
		}
		listed = append(listed, t)
	}
	expired, known, err := r.listGaps(ctx)
	if err != nil {
		return Archive{}, err
	}
	a := newArchive(info.SegmentSize, listed, histories)
	a.Unreadable, a.listed = append(damaged, broken...), time.Now()
	a.forgive(expired)
	a.know(known)
	return a, nil
}

// newArchive compares the timelines, in ascending order, with each other.
func newArchive(size postgres.SegmentSize, timelines []TimelineWAL, histories map[postgres.TimelineID]postgres.TimelineHistory) Archive {
	a := Archive{SegmentSize: size, Timelines: timelines, histories: histories}
	for i := range a.Timelines {
		t := &a.Timelines[i]
		h, ok := a.History(t.Timeline)
		t.NoHistory = !ok
		if n := len(h.Entries); n > 0 {
			t.Parent, t.Switch = h.Entries[n-1].Parent, h.Entries[n-1].Switch
		}
	}
	a.findGaps()
	return a
}

func (t *TimelineWAL) add(e WALEntry, size postgres.SegmentSize) {
	s := e.File.Segment
	if n := len(t.Ranges); n > 0 {
		r := &t.Ranges[n-1]
		if r.Last.Next(size) == s {
			r.Last, r.Segments, r.Size = s, r.Segments+1, r.Size+e.Size
			t.last, t.Archived = e, e.Archived
			return
		}
	}
	t.Ranges = append(t.Ranges, Range{First: s, Last: s, Segments: 1, Size: e.Size})
	t.last, t.Archived = e, e.Archived
	t.begun = append(t.begun, e.Archived)
}

// gap is the segments with numbers from begin to before end, if there are any.
func gap(tli postgres.TimelineID, begin, end uint64, size postgres.SegmentSize) []Range {
	if begin >= end {
		return nil
	}
	at := func(n uint64) postgres.Segment { return postgres.SegmentAt(tli, postgres.LSN(n*uint64(size)), size) }
	return []Range{{First: at(begin), Last: at(end - 1), Segments: int(end - begin)}}
}

// findGaps walks each branch, from the first segment that is kept of it along its
// ancestors to their forks and on its own timeline to the last segment: what lies
// between is missing. The segment with a fork in it is archived under the child's
// name. Of a timeline of which nothing is archived yet, nothing is missing.
func (a *Archive) findGaps() {
	index := map[postgres.TimelineID]int{}
	for i, t := range a.Timelines {
		index[t.Timeline] = i
	}
	for _, t := range slices.Clone(a.Timelines) {
		h := a.branch(t.Timeline)
		from, begun := uint64(0), false
		for i := range len(h.Entries) + 1 {
			own, end := TimelineWAL{Timeline: t.Timeline}, uint64(0)
			if i < len(h.Entries) {
				own.Timeline, end = h.Entries[i].Parent, postgres.SegmentAt(h.Timeline, h.Entries[i].Switch, a.SegmentSize).Number(a.SegmentSize)
			} else if n := len(t.Ranges); n > 0 {
				end = t.Ranges[n-1].Last.Number(a.SegmentSize) + 1
			}
			span := gap(own.Timeline, from, end, a.SegmentSize)
			from = max(from, end)
			at, known := index[own.Timeline]
			if known {
				own = a.Timelines[at]
			}
			missing := Subtract(span, own.Ranges, a.SegmentSize)
			if !begun {
				begun = !slices.Equal(missing, span)
				if len(missing) > 0 && missing[0].First == span[0].First {
					missing = missing[1:] // older than all that is kept
				}
			}
			if len(missing) == 0 {
				continue
			}
			if !known { // it has neither a segment nor a history, and is shown for its gap
				at, a.Timelines = len(a.Timelines), append(a.Timelines, own)
				index[own.Timeline] = at
			}
			a.Timelines[at].Missing = merge(append(own.Missing, missing...), a.SegmentSize)
		}
	}
	slices.SortFunc(a.Timelines, func(x, y TimelineWAL) int { return cmp.Compare(x.Timeline, y.Timeline) })
}

// merge sorts ranges of one timeline and makes one of those that touch.
func merge(all []Range, size postgres.SegmentSize) (joined []Range) {
	slices.SortFunc(all, func(x, y Range) int { return strings.Compare(x.First.Name(), y.First.Name()) })
	for _, r := range all {
		n := len(joined)
		if n == 0 || joined[n-1].Last.Number(size)+1 < r.First.Number(size) {
			joined = append(joined, r)
		} else if p := &joined[n-1]; p.Last.Number(size) < r.Last.Number(size) {
			*p = gap(r.First.Timeline, p.First.Number(size), r.Last.Number(size)+1, size)[0]
		}
	}
	return joined
}

// Missing are all gaps of all timelines.
func (a Archive) Missing() (all []Range) {
	for _, t := range a.Timelines {
		all = append(all, t.Missing...)
	}
	return all
}

// Has tells whether the archive holds a segment.
func (a Archive) Has(s postgres.Segment) bool {
	_, found := a.timeline(s.Timeline).find(s.Number(a.SegmentSize), a.SegmentSize)
	return found
}

// find is the range with segment number n in it.
func (t TimelineWAL) find(n uint64, size postgres.SegmentSize) (at int, found bool) {
	return slices.BinarySearchFunc(t.Ranges, n, func(r Range, n uint64) int {
		switch {
		case r.Last.Number(size) < n:
			return -1
		case r.First.Number(size) > n:
			return 1
		}
		return 0
	})
}

// timeline is what is known of one; nothing where the archive has none.
func (a Archive) timeline(tli postgres.TimelineID) (t TimelineWAL) {
	i, found := slices.BinarySearchFunc(a.Timelines, tli, func(t TimelineWAL, tli postgres.TimelineID) int { return cmp.Compare(t.Timeline, tli) })
	if found {
		t = a.Timelines[i]
	}
	return t
}

// History is the branch that ends in tli; false if its history file is missing.
func (a Archive) History(tli postgres.TimelineID) (postgres.TimelineHistory, bool) {
	h, ok := a.histories[tli]
	if !ok && tli == 1 {
		return postgres.RootHistory(1), true
	}
	return h, ok
}

// branch is History, or the timeline alone where nobody knows where it came from.
func (a Archive) branch(tli postgres.TimelineID) postgres.TimelineHistory {
	h, ok := a.History(tli)
	if !ok {
		h = postgres.RootHistory(tli)
	}
	return h
}

// segmentOn names the file in which the branch h keeps segment number n: the
// newest timeline that had begun by the end of that segment.
func (a Archive) segmentOn(h postgres.TimelineHistory, n uint64) postgres.Segment {
	end := postgres.LSN((n+1)*uint64(a.SegmentSize) - 1)
	return postgres.SegmentAt(h.TimelineAt(end), end, a.SegmentSize)
}

// maxNeeded bounds the WAL of one backup that is believed, in segments.
const maxNeeded = 1 << 20

// maxLacks is how many missing segments of one backup are told.
const maxLacks = 1000

// needed are the segments, along the branch h, without which a backup cannot
// become consistent: from its start to its stop. Where most is missing, not all are told.
func (a Archive) needed(h postgres.TimelineHistory, m Manifest) []postgres.Segment {
	first := postgres.SegmentAt(m.Timeline, m.StartLSN, a.SegmentSize).Number(a.SegmentSize)
	last := postgres.SegmentEndingAt(m.StopTLI, m.StopLSN, a.SegmentSize).Number(a.SegmentSize)
	var needed []postgres.Segment
	for n, lacks := first, 0; n <= last && n-first < maxNeeded && lacks < maxLacks; n++ {
		needed = append(needed, a.segmentOn(h, n))
		if !a.Has(needed[len(needed)-1]) {
			lacks++
		}
	}
	return needed
}

// branches are the histories on which a backup's end lies, newest first.
func (a Archive) branches(m Manifest) (found []postgres.TimelineHistory) {
	for _, t := range slices.Backward(a.Timelines) {
		if h, ok := a.History(t.Timeline); ok && h.Contains(m.StopTLI, m.StopLSN-1) {
			found = append(found, h)
		}
	}
	return found
}

// complete is the newest branch on which all the WAL of a backup is archived.
func (a Archive) complete(m Manifest) (h postgres.TimelineHistory, needed []postgres.Segment, ok bool) {
	for _, h := range a.branches(m) {
		needed := a.needed(h, m)
		if !slices.ContainsFunc(needed, func(s postgres.Segment) bool { return !a.Has(s) }) {
			return h, needed, true
		}
	}
	return h, nil, false
}

// Lacks names the segments from a backup's start to its stop that the archive does
// not have. If its timeline ended with the stop segment unarchived, the same
// segment of a timeline that was forked off later serves (R15).
func (a Archive) Lacks(m Manifest) []postgres.Segment {
	if _, _, ok := a.complete(m); ok {
		return nil
	}
	own := postgres.RootHistory(m.StopTLI) // where nobody knows its history
	if branches := a.branches(m); len(branches) > 0 {
		own = branches[len(branches)-1]
	}
	return slices.DeleteFunc(a.needed(own, m), a.Has)
}

// WAL names the segments from a backup's start to its stop, as they are archived;
// nil if they are not all there or its timeline's history is missing.
func (a Archive) WAL(m Manifest) []postgres.Segment {
	_, needed, _ := a.complete(m)
	return needed
}

// Frontier is the last segment that can be replayed from a backup along the newest
// branch, without a hole; false if the backup's own WAL is not complete.
func (a Archive) Frontier(m Manifest) (WALEntry, bool) {
	h, needed, _ := a.complete(m)
	if len(needed) == 0 {
		return WALEntry{}, false
	}
	last := needed[len(needed)-1]
	for n := last.Number(a.SegmentSize) + 1; a.Has(a.segmentOn(h, n)); n++ {
		last = a.segmentOn(h, n)
	}
	return a.entry(last), true
}

// entry is the listed entry if the segment is a timeline's last, else its name alone.
func (a Archive) entry(s postgres.Segment) WALEntry {
	for _, t := range a.Timelines {
		if t.last.File.Segment == s {
			return t.last
		}
	}
	return WALEntry{File: postgres.WALFile{Kind: postgres.WALSegment, Segment: s}}
}
