package restore

import (
	"context"
	"fmt"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// chain is the unbroken run of archived segments of a branch from a backup's start.
type chain struct {
	branch branch
	from   postgres.LSN
	segs   []postgres.Segment
	// missing is the first segment that is not there. behind is the next one of the
	// branch that is; zero if the archive simply ends.
	missing, behind postgres.Segment
	// short says why the log ends before the last of segs does; empty if it does not.
	short string

	ctx     context.Context // of the one plan that this chain is looked at for
	wal     WAL
	headers []postgres.SegmentFacts
	joint   postgres.Joint // behind the headers
	// err is the first failure to read. After it nothing is read any more, and what
	// the methods found does not count.
	err error
}

func (f Facts) chain(ctx context.Context, b branch, from postgres.LSN) *chain {
	c := &chain{branch: b, from: from, ctx: ctx, wal: f.WAL}
	n := b.number(from)
	for ; f.Archived[b.file(n)]; n++ {
		c.segs = append(c.segs, b.file(n))
	}
	c.missing = b.file(n)
	for s := range f.Archived {
		m := s.Number(b.size)
		if m > n && b.file(m) == s && (c.behind.Timeline == 0 || m < c.behind.Number(b.size)) {
			c.behind = s
		}
	}
	return c
}

// reaches tells whether the chain holds every byte before lsn.
func (c *chain) reaches(lsn postgres.LSN) bool {
	return len(c.segs) > 0 && c.segs[len(c.segs)-1].End(c.branch.size) >= lsn
}

// index is where the byte at lsn lies; len(segs) or more if behind the end.
func (c *chain) index(lsn postgres.LSN) int {
	return int(c.branch.number(lsn) - c.branch.number(c.from))
}

const headerBatch = 128

// header is what the archive noted about segment i. Seeing one whose log ends
// before the segment does, or that the next one does not go on with, cuts the chain
// behind it: nothing can be replayed past it.
func (c *chain) header(i int) postgres.SegmentFacts {
	for c.err == nil && len(c.headers) <= i && i < len(c.segs) {
		n := len(c.headers)
		more, err := c.wal.Headers(c.ctx, c.segs[n:min(len(c.segs), n+headerBatch)])
		c.err = err
		for k, h := range more {
			if i := n + k; i > 0 && !c.joint.Joins(h) {
				c.cut(i-1, fmt.Sprintf("%s and %s do not join, two servers wrote them", c.segs[i-1], c.segs[i]))
				more = more[:k]
				break
			}
			c.joint.Note(h)
			if h.Walked && !h.Complete(c.branch.size) {
				c.cut(n+k, fmt.Sprintf("the log in %s ends at %s, before the segment does", c.segs[n+k], c.segs[n+k].Start(c.branch.size)+postgres.LSN(h.ValidEnd)))
				more = more[:k+1]
				break
			}
		}
		c.headers = append(c.headers, more...)
	}
	if c.err != nil || i >= len(c.segs) {
		return postgres.SegmentFacts{}
	}
	return c.headers[i]
}

// cut ends the chain behind segment i, and says why.
func (c *chain) cut(i int, short string) {
	c.short = short
	if i+1 < len(c.segs) {
		c.missing, c.behind = c.segs[i], c.segs[i+1]
		c.segs = c.segs[:i+1]
	}
}

// load reads the headers up to and with segment `to`, or all there are.
func (c *chain) load(to int) { c.header(min(to, len(c.segs)-1)) }

// scan shows the records from segment i on to visit until that returns false.
func (c *chain) scan(i int, visit func(postgres.Record) bool) {
	if c.err != nil {
		return
	}
	for record, err := range c.wal.Records(c.ctx, c.segs[i:]) {
		if c.err = err; err != nil || !visit(record) {
			return
		}
	}
}

// maxSmall bounds the length of a restore point or tablespace record, so that one
// cut by a segment's end must begin this near to it.
const maxSmall = 1280

// first finds the first record, in WAL order, that is a hit. may tells from a
// header whether the segment can hold one; small that the record sought is no
// transaction's but a short one.
func (c *chain) first(may func(postgres.SegmentFacts) bool, small bool, hit func(postgres.Record) bool) (found postgres.Record, ok bool) {
	for i := 0; i < len(c.segs) && c.err == nil && !ok; i++ {
		h := c.header(i)
		if i >= len(c.segs) {
			break
		}
		end := c.segs[i].End(c.branch.size)
		if h.Walked && !may(h) && !openMay(h.Open, small, end) {
			continue
		}
		last := postgres.LSN(0)
		c.scan(i, func(r postgres.Record) bool {
			if r.Start >= end {
				return false
			}
			last = r.End
			if r.Start >= c.from && hit(r) {
				found, ok = r, true
			}
			return !ok
		})
		if c.err == nil && !ok && !h.Walked && last < end && i+1 < len(c.segs) {
			c.err = refuse("look at it with pg_waldump; a target LSN, or the end of the archive, can be had without reading it",
				"the records of %s cannot be followed: where recovery would stop cannot be proved", c.segs[i])
		}
	}
	return found, ok
}

func openMay(open *postgres.OpenRecord, small bool, end postgres.LSN) bool {
	switch {
	case open == nil:
		return false
	case open.Kind == "unknown":
		return true
	case small:
		return open.Kind != "xact" && open.LSN+maxSmall > end
	}
	return open.Kind == "xact"
}

// last looks backwards, segment by segment, for the best of the records that begin
// before lsn: of those that better lets replace the one found before them. may, if
// not nil, tells from a header whether the segment can hold one.
func (c *chain) last(lsn postgres.LSN, may func(postgres.SegmentFacts) bool, better func(old, r postgres.Record) bool) (last postgres.Record, ok bool) {
	for i := min(len(c.segs)-1, c.index(lsn)); i >= 0 && !ok; i-- {
		end := c.segs[i].End(c.branch.size)
		if may != nil {
			if h := c.header(i); h.Walked && !may(h) && !openMay(h.Open, false, end) {
				continue
			}
		}
		c.scan(i, func(r postgres.Record) bool {
			if r.Start >= min(lsn, end) {
				return false
			}
			if better(last, r) {
				last, ok = r, true
			}
			return true
		})
	}
	return last, ok
}

// before is the last record that begins before lsn: what recovery has replayed
// when it stops there.
func (c *chain) before(lsn postgres.LSN) (last postgres.Record, ok bool) {
	return c.last(lsn, nil, func(_, _ postgres.Record) bool { return true })
}

// transaction is the last end of a transaction that is over before lsn.
func (c *chain) transaction(lsn postgres.LSN) (last postgres.Record, ok bool) {
	return c.last(lsn, func(h postgres.SegmentFacts) bool { return h.Commits > 0 },
		func(_, r postgres.Record) bool { return r.Kind.EndsTransaction() && r.End <= lsn })
}

// clock is the last record that tells the server's time: what proves that nothing
// older is still to come.
func (c *chain) clock() (last postgres.Record, ok bool) {
	return c.last(c.end(), nil, func(old, r postgres.Record) bool { return r.Time.After(old.Time) })
}

// firstAt is the first record, of any kind, that begins at or after lsn.
func (c *chain) firstAt(lsn postgres.LSN) (found postgres.Record, ok bool) {
	if c.index(lsn) >= len(c.segs) {
		return found, false
	}
	c.scan(c.index(lsn), func(r postgres.Record) bool {
		if r.Start >= lsn {
			found, ok = r, true
		}
		return !ok
	})
	return found, ok
}
