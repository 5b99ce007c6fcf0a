package catalog

import (
	"context"
	"errors"
	"fmt"
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
	lostGap     gapKind = ".lost"     // every member was asked, or waited for long enough
	droppedGap  gapKind = ".dropped"  // acknowledged unarchived, for want of space
	acceptedGap gapKind = ".accepted" // an operator knows
)

// RecordLost writes down that nobody will bring the segments; false: that is known.
func (r *Repository) RecordLost(ctx context.Context, g GapRecord) (bool, error) {
	return r.recordGap(ctx, g, lostGap)
}

// RecordDropped writes down that the segments were acknowledged and thrown away.
func (r *Repository) RecordDropped(ctx context.Context, g GapRecord) error {
	_, err := r.recordGap(ctx, g, droppedGap)
	return err
}

// AcceptGap writes down that a person knows of the gap.
func (r *Repository) AcceptGap(ctx context.Context, g GapRecord) error {
	_, err := r.recordGap(ctx, g, acceptedGap)
	return err
}

func (r *Repository) recordGap(ctx context.Context, g GapRecord, kind gapKind) (bool, error) {
	if g.First.Timeline != g.Last.Timeline || g.Last.Name() < g.First.Name() {
		return false, fmt.Errorf("record gap %s-%s: want two segments of one timeline in their order", g.First, g.Last)
	}
	g.Format, g.At = Format, g.At.UTC().Truncate(time.Second)
	err := r.createDocument(ctx, r.gapKey(g.First, g.Last, string(kind)), g)
	if errors.Is(err, storage.ErrExist) {
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("record gap %s-%s: %w", g.First, g.Last, err)
	}
	return err == nil, err
}

func (r *Repository) gapKey(first, last postgres.Segment, suffix string) storage.Key {
	return r.keys.key("gap", first.Timeline.String(), first.Name()+"-"+last.Name()+suffix)
}
