package restore

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

const testSegment = postgres.SegmentSize(1 << 20)

// synthetic is a repository told in words, see testdata/README.
type synthetic struct {
	facts    Facts
	records  map[postgres.TimelineID][]postgres.Record
	unwalked map[postgres.Segment]bool
	short    map[postgres.Segment]bool
	foreign  map[postgres.Segment]bool
}

func newSynthetic() *synthetic {
	s := &synthetic{records: map[postgres.TimelineID][]postgres.Record{}, unwalked: map[postgres.Segment]bool{}, short: map[postgres.Segment]bool{}, foreign: map[postgres.Segment]bool{}}
	s.facts = Facts{SegmentSize: testSegment, Histories: map[postgres.TimelineID]postgres.TimelineHistory{}, Archived: map[postgres.Segment]bool{}, WAL: s}
	return s
}

var day = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

func clockTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse("15:04:05", s)
	if err != nil {
		t.Fatal(err)
	}
	return day.Add(at.Sub(at.Truncate(24 * time.Hour)))
}

func (s *synthetic) line(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	number := func(i int) uint64 {
		n, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	lsn := func(text string) postgres.LSN {
		l, err := postgres.ParseLSN(text)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return l
	}
	switch f[0] {
	case "backup": // backup ID TLI START STOP TIME [damaged] [incr] [ts=OID:PATH] [stoptli=N]
		m := catalog.Manifest{ID: catalog.BackupID(f[1]), Type: catalog.Full, Timeline: postgres.TimelineID(number(2)), StartLSN: lsn(f[3]), StopLSN: lsn(f[4]), StopTime: clockTime(t, f[5])}
		m.StopTLI = m.Timeline
		for _, word := range f[6:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "damaged":
				m.Damage = []catalog.Damage{{Path: "base/1/2"}}
			case "incr":
				m.Type = catalog.Incremental
			case "stoptli":
				n, _ := strconv.Atoi(value)
				m.StopTLI = postgres.TimelineID(n)
			case "ts":
				oid, path, _ := strings.Cut(value, ":")
				n, _ := strconv.Atoi(oid)
				m.Tablespaces = append(m.Tablespaces, postgres.Tablespace{OID: uint32(n), Path: path})
			default:
				t.Fatalf("%q: %q", line, word)
			}
		}
		s.facts.Backups = append(s.facts.Backups, m)
		s.add(m.Timeline, postgres.Record{Start: m.StopLSN - 0x40}) // what the stop writes
	case "history": // history TLI PARENT@SWITCH...
		h := postgres.TimelineHistory{Timeline: postgres.TimelineID(number(1))}
		for _, word := range f[2:] {
			parent, at, _ := strings.Cut(word, "@")
			n, _ := strconv.Atoi(parent)
			h.Entries = append(h.Entries, postgres.HistoryEntry{Parent: postgres.TimelineID(n), Switch: lsn(at)})
		}
		s.facts.Histories[h.Timeline] = h
		s.repeat(h)
	case "wal": // wal TLI N or N-M: segments in the archive, each with a record at offset 80
		low, high, isRange := strings.Cut(f[2], "-")
		from, _ := strconv.Atoi(low)
		to := from
		if isRange {
			to, _ = strconv.Atoi(high)
		}
		for n := from; n <= to; n++ {
			seg := postgres.SegmentAt(postgres.TimelineID(number(1)), postgres.LSN(n)*postgres.LSN(testSegment), testSegment)
			s.facts.Archived[seg] = true
			s.unwalked[seg] = slices.Contains(f, "unwalked")
			s.short[seg] = slices.Contains(f, "short")
			s.foreign[seg] = slices.Contains(f, "foreign")
			s.add(seg.Timeline, postgres.Record{Start: seg.Start(testSegment) + 0x80})
		}
	case "at": // at TLI LSN KIND [XID] [TIME] [NAME] [end=LSN]
		r := postgres.Record{Start: lsn(f[2])}
		for k := postgres.RecordKind(0); k <= postgres.RecordTablespaceCreate; k++ {
			if strings.ReplaceAll(k.String(), " ", "-") == f[3] {
				r.Kind = k
			}
		}
		rest := f[4:]
		if last := f[len(f)-1]; strings.HasPrefix(last, "end=") {
			r.End, rest = lsn(last[4:]), rest[:len(rest)-1]
		}
		switch {
		case r.Kind.EndsTransaction():
			n, _ := strconv.Atoi(rest[0])
			r.XID, r.Time = uint32(n), clockTime(t, rest[1])
		case r.Kind == postgres.RecordRestorePoint:
			r.Time, r.Name = clockTime(t, rest[0]), rest[1]
		case r.Kind == postgres.RecordTablespaceCreate:
			n, _ := strconv.Atoi(rest[0])
			r.Tablespace = postgres.Tablespace{OID: uint32(n), Path: rest[1]}
		case len(rest) > 0:
			r.Time = clockTime(t, rest[0])
		}
		s.add(postgres.TimelineID(number(1)), r)
	default:
		t.Fatalf("unknown line %q", line)
	}
}

func (s *synthetic) add(tli postgres.TimelineID, r postgres.Record) {
	if r.End == 0 {
		r.End = r.Start + 0x40
		if r.Kind == postgres.RecordSwitch {
			r.End = postgres.SegmentAt(tli, r.Start, testSegment).End(testSegment)
		}
	}
	r.Timeline = tli
	all := append(s.records[tli], r)
	slices.SortStableFunc(all, func(a, b postgres.Record) int { return cmp.Compare(a.Start, b.Start) })
	s.records[tli] = slices.CompactFunc(all, func(a, b postgres.Record) bool { return a.Start == b.Start })
}

// repeat copies the parent's records up to the fork into the child's first segment.
func (s *synthetic) repeat(h postgres.TimelineHistory) {
	e := h.Entries[len(h.Entries)-1]
	first := postgres.SegmentAt(h.Timeline, e.Switch, testSegment).Start(testSegment)
	for _, r := range s.records[e.Parent] {
		if r.Start >= first && r.Start < e.Switch || r.Start < first && r.End > first && r.End < e.Switch {
			s.add(h.Timeline, r)
		}
	}
}

func (s *synthetic) Headers(_ context.Context, segments []postgres.Segment) ([]postgres.SegmentFacts, error) {
	var all []postgres.SegmentFacts
	for _, seg := range segments {
		if s.unwalked[seg] {
			all = append(all, postgres.SegmentFacts{ValidEnd: uint32(testSegment)})
			continue
		}
		h := postgres.SegmentFacts{Walked: true, ValidEnd: uint32(testSegment)}
		for _, r := range s.records[seg.Timeline] {
			if postgres.SegmentAt(seg.Timeline, r.Start, testSegment) != seg {
				continue
			}
			if h.LastLSN = r.Start; s.foreign[seg] && h.FirstPrev == 0 {
				h.FirstPrev = 1 // no record begins there
			}
			switch {
			case r.End > seg.End(testSegment):
				h.Open = &postgres.OpenRecord{LSN: r.Start, Kind: "other"}
				if r.Kind.EndsTransaction() {
					h.Open.Kind = "xact"
				}
			case r.Kind.EndsTransaction():
				h.Commits++
				if h.MinXID == 0 || r.XID < h.MinXID {
					h.MinXID = r.XID
				}
				h.MaxXID = max(h.MaxXID, r.XID)
				if h.MinTime.IsZero() || r.Time.Before(h.MinTime) {
					h.MinTime = r.Time
				}
				if r.Time.After(h.MaxTime) {
					h.MaxTime = r.Time
				}
			case r.Kind == postgres.RecordRestorePoint:
				h.RestorePoints = append(h.RestorePoints, postgres.RestorePoint{Name: r.Name, LSN: r.Start, End: r.End, Time: r.Time})
			case r.Kind == postgres.RecordTablespaceCreate:
				h.Tablespaces = append(h.Tablespaces, r.Tablespace)
			}
			if s.short[seg] {
				h.ValidEnd = uint32(r.End - seg.Start(testSegment))
			}
		}
		all = append(all, h)
	}
	return all, nil
}

func (s *synthetic) Records(_ context.Context, segments []postgres.Segment) iter.Seq2[postgres.Record, error] {
	return func(yield func(postgres.Record, error) bool) {
		end := segments[len(segments)-1].End(testSegment)
		for _, seg := range segments {
			if s.unwalked[seg] {
				return
			}
			for _, r := range s.records[seg.Timeline] {
				if postgres.SegmentAt(seg.Timeline, r.Start, testSegment) != seg {
					continue
				}
				if r.End > end || !yield(r, nil) {
					return
				}
			}
			if s.short[seg] {
				return
			}
		}
	}
}

func describePlan(p Plan) string {
	var b strings.Builder
	exact := ""
	if !p.Stop.Exact {
		exact = " or later"
	}
	fmt.Fprintf(&b, "backup %s, timeline %d, stop at %s%s of timeline %d: %s\n", p.Backup.ID, uint32(p.Timeline), p.Stop.LSN, exact, uint32(p.Stop.Timeline), p.Stop.What)
	if !p.Stop.Time.IsZero() {
		fmt.Fprintf(&b, "last transaction: %s\n", stamp(p.Stop.Time))
	}
	want := p.Target
	want.Timeline = p.Effective.Timeline
	if p.Effective != want {
		fmt.Fprintf(&b, "settings: %s\n", p.Effective)
	}
	fmt.Fprintf(&b, "wal: %d from %s to %s\n", len(p.WAL), p.WAL[0], p.WAL[len(p.WAL)-1])
	for _, t := range p.Tablespaces {
		fmt.Fprintf(&b, "tablespace: %d %s -> %s later=%v\n", t.OID, t.From, t.To, t.Later)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}
