package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// GapRecord is gap/<TLI>/<first>-<last>.<kind>: what is known of segments that the
// archive lacks. It is written once; whoever comes second finds it said.
type GapRecord struct {
	Format int              `json:"format"`
	First  postgres.Segment `json:"first"`
	Last   postgres.Segment `json:"last"`
	At     time.Time        `json:"at"`
	By     string           `json:"by"` // the member, or the host of who accepted it
	Reason string           `json:"reason"`
	// After is the last commit known before a lost gap, Next the first known behind it.
	After time.Time `json:"after,omitzero"`
	Next  time.Time `json:"next,omitzero"`
	kind  gapKind
}

// gapKind is the suffix of a record's name.
type gapKind string

const (
	expiredKind  gapKind = ".expired"  // removed with what nothing needs any more
	lostKind     gapKind = ".lost"     // every member was asked, or waited for long enough
	droppedKind  gapKind = ".dropped"  // acknowledged unarchived, for want of space
	acceptedKind gapKind = ".accepted" // an operator knows
)

// RecordLost writes down that nobody will bring the segments; false: that is known.
func (r *Repository) RecordLost(ctx context.Context, g GapRecord) (bool, error) {
	return r.recordGap(ctx, g, lostKind)
}

// RecordDropped writes down that the segments were acknowledged and thrown away.
func (r *Repository) RecordDropped(ctx context.Context, g GapRecord) error {
	_, err := r.recordGap(ctx, g, droppedKind)
	return err
}

// AcceptGap writes down that a person knows of the gap.
func (r *Repository) AcceptGap(ctx context.Context, g GapRecord) error {
	_, err := r.recordGap(ctx, g, acceptedKind)
	return err
}

func (r *Repository) recordGap(ctx context.Context, g GapRecord, kind gapKind) (bool, error) {
	if err := g.check(); err != nil {
		return false, err
	}
	g.Format, g.At = Format, g.At.UTC().Truncate(time.Second)
	err := r.createDocument(ctx, r.gapKey(g.First, g.Last, kind), g)
	if errors.Is(err, storage.ErrExist) {
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("record gap %s-%s: %w", g.First, g.Last, err)
	}
	return err == nil, err
}

func (g GapRecord) check() error {
	if g.First.Timeline != g.Last.Timeline || g.Last.Name() < g.First.Name() {
		return fmt.Errorf("gap %s-%s: want two segments of one timeline in their order", g.First, g.Last)
	}
	return nil
}

func (r *Repository) gapKey(first, last postgres.Segment, kind gapKind) storage.Key {
	return r.keys.key("gap", first.Timeline.String(), first.Name()+"-"+last.Name()+string(kind))
}

// listGaps lists what is known of gaps, by names alone.
func (r *Repository) listGaps(ctx context.Context) (expired []Range, known []GapRecord, err error) {
	for object, err := range r.bucket.List(ctx, r.keys.key("gap")+"/", "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list gaps: %w", err)
		}
		name := string(object.Key[strings.LastIndexByte(string(object.Key), '/')+1:])
		span, kind, _ := strings.Cut(name, ".")
		first, last, _ := strings.Cut(span, "-")
		g := GapRecord{kind: gapKind("." + kind)}
		if g.First.UnmarshalText([]byte(first)) != nil || g.Last.UnmarshalText([]byte(last)) != nil || g.check() != nil {
			continue // not one of ours
		}
		switch g.kind {
		case expiredKind:
			expired = append(expired, Range{First: g.First, Last: g.Last})
		case lostKind, droppedKind, acceptedKind:
			known = append(known, g)
		}
	}
	return expired, known, nil
}

// GapState is one word for a gap.
type GapState string

// The states.
const (
	GapLate    GapState = "late" // a member may still bring it
	GapLost    GapState = "lost"
	GapDropped GapState = "dropped"
)

// Gap is a hole in the archive, or a part of one, of which one thing is known.
type Gap struct {
	Range
	State    GapState
	Record   *GapRecord // of one that is lost or dropped; Archive knows its name alone, Survey all of it
	Accepted *GapRecord // a person knows of it
}

// Gaps are all that is missing, cut where a record begins or ends.
func (a Archive) Gaps() (all []Gap) {
	for _, hole := range a.Missing() {
		begin, end := hole.First.Number(a.SegmentSize), hole.Last.Number(a.SegmentSize)+1
		cuts := []uint64{begin, end}
		for _, k := range a.known {
			if k.First.Timeline == hole.First.Timeline {
				cuts = append(cuts, min(max(k.First.Number(a.SegmentSize), begin), end), min(max(k.Last.Number(a.SegmentSize)+1, begin), end))
			}
		}
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
		for i := range cuts[1:] {
			all = append(all, a.gap(gap(hole.First.Timeline, cuts[i], cuts[i+1], a.SegmentSize)[0]))
		}
	}
	return all
}

func (a Archive) gap(part Range) Gap {
	g := Gap{Range: part, State: GapLate}
	for i := range a.known {
		k := &a.known[i]
		switch covers := (Range{First: k.First, Last: k.Last}).covers(part, a.SegmentSize); {
		case !covers:
		case k.kind == acceptedKind:
			g.Accepted = k
		case k.kind == droppedKind:
			g.State, g.Record = GapDropped, k
		case g.Record == nil:
			g.State, g.Record = GapLost, k
		}
	}
	return g
}

// know adds what records tell. What was dropped is missing though nothing is archived
// behind it yet.
func (a *Archive) know(known []GapRecord) {
	a.known = known
	for i := range a.Timelines {
		t := &a.Timelines[i]
		var dropped []Range
		for _, k := range known {
			n := len(t.Ranges)
			if k.kind == droppedKind && k.First.Timeline == t.Timeline && (n == 0 || t.Ranges[n-1].Last.Name() < k.Last.Name()) {
				dropped = append(dropped, gap(t.Timeline, k.First.Number(a.SegmentSize), k.Last.Number(a.SegmentSize)+1, a.SegmentSize)...)
			}
		}
		dropped = Subtract(Subtract(dropped, t.Ranges, a.SegmentSize), a.expired, a.SegmentSize)
		t.Missing = merge(append(t.Missing, dropped...), a.SegmentSize)
	}
}

// readGaps reads the records of what is missing.
func (r *Repository) readGaps(ctx context.Context, a *Archive) (broken []Unreadable, err error) {
	missing := a.Missing()
	for i := range a.known {
		k := &a.known[i]
		named := []Range{{First: k.First, Last: k.Last}}
		if slices.Equal(Subtract(named, missing, a.SegmentSize), named) {
			continue // closed
		}
		g, key := GapRecord{}, r.gapKey(k.First, k.Last, k.kind)
		err := r.readDocument(ctx, key, 1<<16, &g)
		if err == nil {
			g.First, g.Last, g.kind = k.First, k.Last, k.kind
			*k = g
		} else if err := (*unreadables)(&broken).add("", key, err); err != nil {
			return nil, err
		}
	}
	return broken, nil
}

// GapSpan is the last commit or abort known before a gap, and the first known behind it.
func (r *Repository) GapSpan(ctx context.Context, a Archive, g Range) (after, next time.Time, err error) {
	h := a.branch(g.First.Timeline)
	n := g.First.Number(a.SegmentSize)
	for n > 0 && g.First.Number(a.SegmentSize)-n < maxNeeded && !a.Has(a.segmentOn(h, n-1)) {
		n-- // one gap after another
	}
	if n > 0 && a.Has(a.segmentOn(h, n-1)) {
		if after, err = r.lastCommit(ctx, a, a.segmentOn(h, n-1)); err != nil {
			return after, next, err
		}
	}
	if newest, ok := a.newest(); ok && a.on(newest, g) {
		h = newest
	}
	n = g.Last.Number(a.SegmentSize)
	for range lookBack {
		if n++; !a.Has(a.segmentOn(h, n)) {
			break
		}
		object, err := r.StatWAL(ctx, postgres.WALFile{Kind: postgres.WALSegment, Segment: a.segmentOn(h, n)})
		if err != nil || object.Facts != nil && !object.Facts.MinTime.IsZero() {
			if err == nil {
				next = object.Facts.MinTime
			}
			return after, next, err
		}
	}
	return after, next, nil
}

// newest is the branch of the newest timeline that can be followed.
func (a Archive) newest() (postgres.TimelineHistory, bool) {
	for _, t := range slices.Backward(a.Timelines) {
		if h, ok := a.History(t.Timeline); ok {
			return h, true
		}
	}
	return postgres.TimelineHistory{}, false
}

// on tells whether a branch goes through a gap.
func (a Archive) on(h postgres.TimelineHistory, g Range) bool {
	return a.segmentOn(h, g.First.Number(a.SegmentSize)) == g.First
}

// Bridge is the first whole backup behind a gap on the newest branch, nil if there is
// none; current is false if that branch does not go through the gap.
func (s Survey) Bridge(g Range) (first *Manifest, current bool) {
	h, ok := s.Archive.newest()
	if !ok || !s.Archive.on(h, g) {
		return nil, false
	}
	end := g.Last.End(s.Archive.SegmentSize)
	if fork, left := h.SwitchOf(g.Last.Timeline); left {
		end = min(end, fork)
	}
	for _, b := range s.Backups { // in the order of their ends
		if b.State == BackupOK && b.Manifest.StartLSN >= end && h.Contains(b.Manifest.StopTLI, b.Manifest.StopLSN-1) {
			return &b.Manifest, true
		}
	}
	return nil, true
}
