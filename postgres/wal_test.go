package postgres

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

var dumpLine = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): *\d+/ *\d+, tx: +(\d+), lsn: (\S+), prev (\S+), desc: (.*)$`)

// dumped is one line of pg_waldump.
type dumped struct {
	rmgr, desc string
	xid        string
	lsn, prev  LSN
}

func (s sample) dump(t *testing.T, name string) []dumped {
	t.Helper()
	var out []dumped
	for _, line := range s.lines(name) {
		if !strings.HasPrefix(line, "rmgr:") {
			continue // the tail of a path with a newline
		}
		m := dumpLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line of pg_waldump not understood: %s", line)
		}
		d := dumped{rmgr: m[1], xid: m[2], desc: m[5]}
		d.lsn, _ = ParseLSN(m[3])
		d.prev, _ = ParseLSN(m[4])
		out = append(out, d)
	}
	return out
}

// kind is what RecordReader must call the record; 0 for what it must pass over.
func (d dumped) kind() RecordKind {
	for _, k := range []struct {
		rmgr, prefix string
		kind         RecordKind
	}{
		{"Transaction", "COMMIT_PREPARED", RecordCommitPrepared}, {"Transaction", "ABORT_PREPARED", RecordAbortPrepared},
		{"Transaction", "COMMIT", RecordCommit}, {"Transaction", "ABORT", RecordAbort},
		{"XLOG", "CHECKPOINT_SHUTDOWN", RecordCheckpointShutdown}, {"XLOG", "CHECKPOINT_ONLINE", RecordCheckpointOnline},
		{"XLOG", "RESTORE_POINT", RecordRestorePoint}, {"XLOG", "SWITCH", RecordSwitch},
		{"XLOG", "END_OF_RECOVERY", RecordEndOfRecovery}, {"Tablespace", "CREATE", RecordTablespaceCreate},
	} {
		if d.rmgr == k.rmgr && strings.HasPrefix(d.desc, k.prefix) {
			return k.kind
		}
	}
	return 0
}

func TestRecordReaderAgreesWithWaldump(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		for _, tli := range []TimelineID{1, 2} {
			dump := s.dump(t, fmt.Sprintf("waldump.%d", tli))
			seen := map[RecordKind]int{}
			r := newKnownReader(0, s.source(t, s.segments(tli)...))
			for i, d := range dump {
				if d.kind() == 0 {
					continue
				}
				got, err := r.Next()
				if err != nil {
					t.Fatalf("%v, want %v at %s", err, d.kind(), d.lsn)
				}
				seen[got.Kind]++
				if got.Kind != d.kind() || got.Start != d.lsn || got.Timeline != tli {
					t.Fatalf("record %+v, want %v at %s", got, d.kind(), d.lsn)
				}
				if !strings.Contains(d.desc, worded(got)) {
					t.Errorf("record %+v reads %q, want %q", got, worded(got), d.desc)
				}
				if !got.Kind.EndsTransaction() || got.Kind == RecordCommit {
					if fmt.Sprint(got.XID) != d.xid {
						t.Errorf("record at %s has xid %d, want %s", d.lsn, got.XID, d.xid)
					}
				}
				if i+1 < len(dump) && !follows(got.End, dump[i+1].lsn) {
					t.Errorf("record at %s ends at %s, the next begins at %s", d.lsn, got.End, dump[i+1].lsn)
				}
			}
			if _, err := r.Next(); err == nil {
				t.Error("more records than pg_waldump shows")
			}
			if tli == 1 {
				for k := RecordCommit; k <= RecordTablespaceCreate; k++ {
					if seen[k] == 0 && k != RecordEndOfRecovery && k != RecordCheckpointShutdown {
						t.Errorf("the sample has no %v record", k)
					}
				}
			}
		}
	})
}

// follows allows for a page header between the end of one record and the next.
func follows(end, next LSN) bool {
	return next == end || end%8192 == 0 && (next == end+shortPageHeader || next == end+longPageHeader)
}

func worded(r Record) string {
	at := r.Time.Format("2006-01-02 15:04:05.000000 MST")
	switch r.Kind {
	case RecordCommit, RecordAbort:
		return at
	case RecordCommitPrepared, RecordAbortPrepared:
		return fmt.Sprintf("%d: %s", r.XID, at)
	case RecordRestorePoint:
		return r.Name
	case RecordCheckpointOnline, RecordCheckpointShutdown:
		return fmt.Sprintf("redo %s; tli %d; prev tli %d;", r.Redo, r.NewTimeline, r.PrevTimeline)
	case RecordTablespaceCreate:
		return fmt.Sprintf(`CREATE %d "%s`, r.Tablespace.OID, firstLine(r.Tablespace.Path))
	}
	return ""
}

func firstLine(s string) string { s, _, _ = strings.Cut(s, "\n"); return s }

func TestScanSegmentAgreesWithWaldump(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		for _, tli := range []TimelineID{1, 2} {
			dump := s.dump(t, fmt.Sprintf("waldump.%d", tli))
			for _, name := range s.segments(tli) {
				file := mustName(t, name)
				f, err := scanTwice(t, file, s[name])
				if err != nil {
					t.Fatal(err)
				}
				var first, prev, last LSN
				var commits int
				start, end := file.Segment.Start(1<<20), file.Segment.End(1<<20)
				for _, d := range dump {
					if d.lsn < start || d.lsn >= end {
						continue
					}
					if last = d.lsn; first == 0 {
						first, prev = d.lsn, d.prev
					}
					if k := d.kind(); k.EndsTransaction() {
						commits++
					}
				}
				t.Logf("%s %+v", name, f)
				if f.Open != nil && f.Open.LSN > last {
					last = f.Open.LSN // pg_waldump shows no record that is not whole
				}
				if f.FirstPrev != prev {
					t.Errorf("%s: the record before the first begins at %s, want %s", name, f.FirstPrev, prev)
				}
				if !f.Walked || f.FirstLSN != first || f.LastLSN != last {
					t.Errorf("%s: first %s last %s, want %s %s", name, f.FirstLSN, f.LastLSN, first, last)
				}
				if f.Open == nil && f.Commits != commits {
					t.Errorf("%s: %d commits, want %d", name, f.Commits, commits)
				}
			}
		}
	})
}

// Real neighbours join, over a fork too, and what two servers wrote on one timeline does not.
func TestSegmentsJoin(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		parent, child := s.segments(1), s.segments(2)
		joined := func(names ...string) bool {
			var before SegmentFacts
			var last LSN
			for i, name := range names {
				f, err := scanTwice(t, mustName(t, name), s[name])
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 && !before.Joins(last, f) {
					return false
				}
				if before = f; f.LastLSN != 0 {
					last = f.LastLSN
				}
			}
			return true
		}
		branch := append(parent[:len(parent)-1:len(parent)-1], child...)
		if !joined(parent...) || !joined(branch...) {
			t.Errorf("the segments of one server do not join: %v, %v", parent, branch)
		}
		if joined(parent[len(parent)-1], child[1]) {
			t.Errorf("%s joins %s of another server", child[1], parent[len(parent)-1])
		}
		if n := len(parent); joined(parent[n-3], parent[n-1]) || joined(parent[0], parent[n-1]) {
			t.Error("what lies between two segments is not missed")
		}
	})
}

func TestJoins(t *testing.T) {
	whole := SegmentFacts{Walked: true, LastLSN: 100}
	open := SegmentFacts{Walked: true, LastLSN: 100, Open: &OpenRecord{LSN: 100, Left: 40}}
	old := SegmentFacts{Walked: true, LastLSN: 100, Open: &OpenRecord{LSN: 100}}
	for name, c := range map[string]struct {
		before, next SegmentFacts
		last         LSN
		want         bool
	}{
		"follows":                       {whole, SegmentFacts{Walked: true, FirstPrev: 100}, 100, true},
		"follows another record":        {whole, SegmentFacts{Walked: true, FirstPrev: 92}, 100, false},
		"continues what was not open":   {whole, SegmentFacts{Walked: true, FirstPrev: 100, Continues: 8}, 100, false},
		"continues":                     {open, SegmentFacts{Walked: true, FirstPrev: 100, Continues: 40}, 100, true},
		"continues a longer one":        {open, SegmentFacts{Walked: true, FirstPrev: 100, Continues: 48}, 100, false},
		"does not continue":             {open, SegmentFacts{Walked: true, FirstPrev: 100}, 100, false},
		"gives up the open one":         {open, SegmentFacts{Walked: true, FirstPrev: 64, Overwrites: true}, 100, true},
		"after facts without the rest":  {old, SegmentFacts{Walked: true, FirstPrev: 100, Continues: 40}, 100, true},
		"facts without the first":       {whole, SegmentFacts{Walked: true}, 100, true},
		"after what was not walked":     {SegmentFacts{}, SegmentFacts{Walked: true, FirstPrev: 92}, 0, true},
		"was not walked":                {whole, SegmentFacts{}, 100, true},
		"after the middle of a record":  {SegmentFacts{Walked: true}, SegmentFacts{Walked: true, FirstPrev: 100, Continues: 8}, 100, true},
		"after the middle of another's": {SegmentFacts{Walked: true}, SegmentFacts{Walked: true, FirstPrev: 92, Continues: 8}, 100, false},
	} {
		if got := c.before.Joins(c.last, c.next); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTimestamp(t *testing.T) {
	b := make([]byte, 8)
	if got := timestamp(b); !got.Equal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Error(got)
	}
	for i := range b {
		b[i] = 0x7f
	}
	if got := timestamp(b); !got.IsZero() {
		t.Error(got)
	}
}
