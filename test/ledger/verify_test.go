package ledger

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// world is a small ledger that is right: two clients, three entries each, commits 100 bytes apart.
func world() (entries []Entry, balances map[int]int64, j Journal) {
	balances, j = map[int]int64{}, Journal{}
	for id := 1; id <= Accounts; id++ {
		balances[id] = Opening
	}
	lsn := postgres.LSN(1000)
	for client := 1; client <= 2; client++ {
		prev := ""
		j[client] = map[int64]Record{}
		for seq := int64(1); seq <= 3; seq++ {
			e := Entry{Client: client, Seq: seq, Prev: prev, Source: client, Target: client + 1, Amount: 5}
			e.Hash = e.sum()
			prev = e.Hash
			entries = append(entries, e)
			balances[e.Source] -= e.Amount
			balances[e.Target] += e.Amount
			j[client][seq] = Record{Kind: Acked, Client: client, Seq: seq, XID: uint64(lsn), Timeline: 1, After: lsn, Before: lsn + 60}
			lsn += 100
		}
	}
	return entries, balances, j
}

func remove(entries []Entry, balances map[int]int64, client int, seq int64) []Entry {
	return slices.DeleteFunc(entries, func(e Entry) bool {
		if e.Client != client || e.Seq != seq {
			return false
		}
		balances[e.Source] += e.Amount
		balances[e.Target] -= e.Amount
		return true
	})
}

func TestJudge(t *testing.T) {
	type state struct {
		entries  []Entry
		balances map[int]int64
		j        Journal
		cut      Cut
	}
	change := func(j Journal, client int, seq int64, to func(*Record)) {
		r := j[client][seq]
		to(&r)
		j[client][seq] = r
	}
	for _, c := range []struct {
		name  string
		plant func(*state)
		want  string // a part of the error; none when empty
	}{
		{"all there", func(*state) {}, ""},
		{"a lost row", func(s *state) { s.entries = remove(s.entries, s.balances, 2, 3) }, "and lost"},
		{"a lost row in the middle", func(s *state) { s.entries = remove(s.entries, s.balances, 1, 2) }, "the entry before it"},
		{"a row nobody wrote", func(s *state) {
			e := Entry{Client: 1, Seq: 4, Prev: s.entries[2].Hash, Source: 1, Target: 2, Amount: 1}
			e.Hash = e.sum()
			s.entries = append(s.entries, e)
			s.balances[1]--
			s.balances[2]++
		}, "nobody wrote it"},
		{"a changed amount", func(s *state) { s.entries[1].Amount++ }, "not that of its content"},
		{"a changed balance", func(s *state) { s.balances[7]++ }, "sum to"},
		{"two changed balances", func(s *state) { s.balances[7]++; s.balances[8]-- }, "its entries make"},
		{"a lost account", func(s *state) { s.balances[7] = 0; s.balances[8] += Opening; delete(s.balances, 7) }, "its entries make"},
		{"a row behind the stop", func(s *state) { s.cut.Lineage = []Span{{1, 1500}} }, "lies behind the stop"},
		{"stopped between two commits", func(s *state) {
			s.cut.Lineage = []Span{{1, 1480}}
			s.entries = remove(s.entries, s.balances, 2, 3)
		}, ""},
		{"a row too few at the stop", func(s *state) {
			s.cut.Lineage = []Span{{1, 1460}}
			s.entries = remove(remove(s.entries, s.balances, 2, 3), s.balances, 2, 2)
		}, "client 2, entry 2: acknowledged"},
		{"the stop inside a transaction's bounds, not there", func(s *state) {
			s.cut.Lineage = []Span{{1, 1530}}
			s.entries = remove(s.entries, s.balances, 2, 3)
		}, ""},
		{"the same with its exact commit record", func(s *state) {
			s.cut = Cut{Lineage: []Span{{1, 1530}}, Commits: Index([]Commit{{CommitKey{1, 1500}, 1520, time.Time{}, false}})}
			s.entries = remove(s.entries, s.balances, 2, 3)
		}, "and lost"},
		{"the exact commit record of another timeline", func(s *state) {
			s.cut = Cut{Lineage: []Span{{1, 1530}}, Commits: Index([]Commit{{CommitKey{2, 1500}, 1520, time.Time{}, false}})}
			s.entries = remove(s.entries, s.balances, 2, 3)
		}, ""},
		{"a hole among what could be either", func(s *state) {
			s.cut.Lineage = []Span{{1, 1530}}
			change(s.j, 2, 2, func(r *Record) { r.After, r.Before = 1400, 0 })
			s.entries = remove(s.entries, s.balances, 2, 2)
			s.entries[4].Prev = s.entries[3].Hash
			s.entries[4].Hash = s.entries[4].sum()
		}, "entry 2 is missing"},
		{"acknowledged past the fork of its timeline", func(s *state) {
			s.cut.Lineage = []Span{{1, 1500}, {2, 5000}}
			s.entries = remove(s.entries, s.balances, 2, 3)
		}, ""},
		{"a row of an abandoned timeline", func(s *state) {
			change(s.j, 2, 3, func(r *Record) { r.Timeline = 2 })
			s.cut.Lineage = []Span{{1, 1500}, {3, 5000}}
		}, "lies behind the stop"},
		{"indeterminate and there", func(s *state) { change(s.j, 2, 3, func(r *Record) { r.Kind = Indeterminate }) }, ""},
		{"indeterminate and not there", func(s *state) {
			change(s.j, 2, 3, func(r *Record) { r.Kind = Indeterminate })
			s.entries = remove(s.entries, s.balances, 2, 3)
		}, ""},
		{"aborted and there", func(s *state) { change(s.j, 2, 3, func(r *Record) { r.Kind = Aborted }) }, "is there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s state
			s.entries, s.balances, s.j = world()
			c.plant(&s)
			_, err := Judge(s.entries, s.balances, s.j, s.cut)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	for client := 1; client <= 2; client++ {
		w, err := openWriter(dir, client)
		if err != nil {
			t.Fatal(err)
		}
		for seq := int64(1); seq <= 2; seq++ {
			for _, k := range []Kind{Intent, Acked} {
				if err := w.write(Record{Kind: k, Client: client, Seq: seq, Before: 0x16_B374D848}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := w.file.WriteString(`{"kind":"intent","client":1,"se`); err != nil {
			t.Fatal(err)
		}
	}
	j, err := ReadJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if acked := j.Acked(); len(acked) != 4 || acked[3].Client != 2 || acked[3].Seq != 2 || acked[3].Before != 0x16_B374D848 {
		t.Errorf("read %+v", acked)
	}
}

func TestWaldump(t *testing.T) {
	const text = `rmgr: Heap        len (rec/tot):     54/    54, tx:        745, lsn: 0/01A2B380, prev 0/01A2B350, desc: INSERT off 3
rmgr: Transaction len (rec/tot):     34/    34, tx:        745, lsn: 0/01A2B3C8, prev 0/01A2B398, desc: COMMIT 2026-11-21 05:00:00.123456 UTC
rmgr: Transaction len (rec/tot):     34/    34, tx:        746, lsn: 0/01A2B3F0, prev 0/01A2B3C8, desc: ABORT 2026-11-21 05:00:01.000000 UTC
rmgr: Transaction len (rec/tot):     98/    98, tx:        744, lsn: 0/01A2B418, prev 0/01A2B3F0, desc: COMMIT 2026-11-21 05:00:00.500000 UTC; inval msgs: catcache 80
`
	commits, err := parseWaldump(strings.NewReader(text), 3)
	if err != nil || len(commits) != 3 {
		t.Fatalf("%v %v", commits, err)
	}
	if c := commits[2]; c.XID != 744 || c.Timeline != 3 || c.Start != 0x1A2B418 || c.Abort || c.Time.Nanosecond() != 500_000_000 {
		t.Errorf("third is %+v", c)
	}
	if !commits[1].Abort || len(Index(commits)) != 2 {
		t.Errorf("index %v", Index(commits))
	}
	at := commits[0].Time
	if stop, ok := StopAtTime(commits, at, true); !ok || stop != 0x1A2B3F0 {
		t.Errorf("inclusive stop %s %t", stop, ok)
	}
	if stop, ok := StopAtTime(commits, at, false); !ok || stop != 0x1A2B3C8 {
		t.Errorf("exclusive stop %s %t", stop, ok)
	}
	if _, ok := StopAtTime(commits, at.Add(time.Hour), true); ok {
		t.Error("a stop past every commit")
	}
}

func TestLineage(t *testing.T) {
	got, err := Lineage("1\t0/3000060\tno recovery target specified\n\n2\t0/50001C8\tno recovery target specified\n", 3, 0x7000000)
	if err != nil || !slices.Equal(got, []Span{{1, 0x3000060}, {2, 0x50001C8}, {3, 0x7000000}}) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := Lineage("x\t0/1\n", 2, 0); err == nil {
		t.Error("took a line that is none")
	}
}
