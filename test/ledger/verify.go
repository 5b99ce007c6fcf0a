package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Entry is one row of ledger.entries.
type Entry struct {
	Client         int
	Seq            int64
	Prev, Hash     string
	Source, Target int
	Amount         int64
}

func (e Entry) sum() string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s|%d|%d|%d|%d|%d", e.Prev, e.Client, e.Seq, e.Source, e.Target, e.Amount))
	return hex.EncodeToString(h[:])
}

// Span is the part of one timeline that a server's history contains.
type Span struct {
	Timeline postgres.TimelineID
	// End is where the history leaves this timeline, or where recovery stopped on the last one:
	// the records that begin before it are in.
	End postgres.LSN
}

// Cut says what a restored server must hold.
type Cut struct {
	// Lineage is the server's history up to where recovery stopped. Without it every acknowledged
	// transaction must be there.
	Lineage []Span
	// Commits says where commit records lie exactly, for transactions whose bounds embrace the stop.
	Commits map[CommitKey]Commit
}

// Report counts what Verify saw.
type Report struct {
	// Rows are there; Expected is how many had to be.
	Rows, Expected int
	// Excluded were acknowledged and lie behind the cut or off the lineage.
	Excluded int
	// Open could be there or not: indeterminate, or acknowledged with bounds that embrace the stop.
	Open int
}

// Verify reads the ledger over conn and judges it by the journal and the cut. The error names every violation,
// up to a score.
func Verify(ctx context.Context, conn *pgx.Conn, j Journal, cut Cut) (Report, error) {
	rows, err := conn.Query(ctx, "select client, seq, prev, hash, source, target, amount from ledger.entries order by client, seq")
	if err != nil {
		return Report{}, fmt.Errorf("read the ledger: %w", err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	if err != nil {
		return Report{}, fmt.Errorf("read the ledger: %w", err)
	}
	rows, err = conn.Query(ctx, "select id, balance from ledger.accounts")
	if err != nil {
		return Report{}, fmt.Errorf("read the accounts: %w", err)
	}
	balances := map[int]int64{}
	var id int
	var balance int64
	if _, err = pgx.ForEachRow(rows, []any{&id, &balance}, func() error {
		balances[id] = balance
		return nil
	}); err != nil {
		return Report{}, fmt.Errorf("read the accounts: %w", err)
	}
	return Judge(entries, balances, j, cut)
}

// Judge is Verify on what was read.
func Judge(entries []Entry, balances map[int]int64, j Journal, cut Cut) (Report, error) {
	v := &verdict{report: Report{Rows: len(entries)}, present: map[int]map[int64]Entry{}}
	v.chains(entries)
	v.balances(entries, balances)
	v.presence(j, cut)
	v.strangers(entries, j)
	return v.report, errors.Join(v.errs...)
}

type verdict struct {
	report  Report
	present map[int]map[int64]Entry
	errs    []error
}

func (v *verdict) fault(format string, args ...any) {
	const most = 20
	if len(v.errs) < most {
		v.errs = append(v.errs, fmt.Errorf(format, args...))
	}
}

// chains proves that each client's rows follow one another without a hole.
func (v *verdict) chains(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Seq, b.Seq)) })
	last := map[int]string{}
	for _, e := range entries {
		if e.Prev != last[e.Client] {
			v.fault("client %d, entry %d: the entry before it is not the one it was written after", e.Client, e.Seq)
		}
		if e.Hash != e.sum() {
			v.fault("client %d, entry %d: its hash is not that of its content", e.Client, e.Seq)
		}
		last[e.Client] = e.Hash
		if v.present[e.Client] == nil {
			v.present[e.Client] = map[int64]Entry{}
		}
		v.present[e.Client][e.Seq] = e
	}
}

// balances proves that the accounts are what the entries make them, not only that they sum up.
func (v *verdict) balances(entries []Entry, balances map[int]int64) {
	want := map[int]int64{}
	for id := 1; id <= Accounts; id++ {
		want[id] = Opening
	}
	for _, e := range entries {
		want[e.Source] -= e.Amount
		want[e.Target] += e.Amount
	}
	var sum int64
	for _, b := range balances {
		sum += b
	}
	if sum != Accounts*Opening {
		v.fault("the balances sum to %d and not to %d", sum, Accounts*Opening)
	}
	for _, id := range sortedKeys(want) {
		if got, ok := balances[id]; !ok || got != want[id] {
			v.fault("account %d holds %d, its entries make %d", id, got, want[id])
		}
	}
}

// presence proves that what must be there is, and that what must not is not.
func (v *verdict) presence(j Journal, cut Cut) {
	for _, client := range sortedKeys(j) {
		newest := map[postgres.TimelineID]int64{}
		for seq := range v.present[client] {
			if r, ok := j[client][seq]; ok && r.Kind == Acked {
				newest[r.Timeline] = max(newest[r.Timeline], seq)
			}
		}
		for _, seq := range sortedKeys(j[client]) {
			r := j[client][seq]
			_, there := v.present[client][seq]
			switch cut.expects(r) {
			case yes:
				v.report.Expected++
				if !there {
					v.fault("client %d, entry %d: acknowledged before %s on timeline %d (xid %d) and lost", client, seq, r.Before, r.Timeline, r.XID)
				}
			case no:
				v.report.Excluded++
				if there {
					v.fault("client %d, entry %d: %s after %s on timeline %d (xid %d) lies behind the stop and is there", client, seq, r.Kind, r.After, r.Timeline, r.XID)
				}
			default:
				v.report.Open++
				if !there && r.Kind == Acked && seq < newest[r.Timeline] {
					v.fault("client %d: entry %d is missing though entry %d is there", client, seq, newest[r.Timeline])
				}
			}
		}
	}
}

// strangers finds rows that no client meant to write.
func (v *verdict) strangers(entries []Entry, j Journal) {
	for _, e := range entries {
		if _, ok := j[e.Client][e.Seq]; !ok {
			v.fault("client %d, entry %d: nobody wrote it", e.Client, e.Seq)
		}
	}
}

type answer int

const (
	open answer = iota
	yes
	no
)

// expects says whether a transaction must be there.
func (c Cut) expects(r Record) answer {
	switch r.Kind {
	case Aborted:
		return no
	case Acked:
	default:
		return open
	}
	if len(c.Lineage) == 0 {
		return yes
	}
	i := slices.IndexFunc(c.Lineage, func(s Span) bool { return s.Timeline == r.Timeline })
	if i < 0 {
		return no
	}
	end := c.Lineage[i].End
	if commit, ok := c.Commits[CommitKey{r.Timeline, uint32(r.XID)}]; ok {
		if commit.Start < end {
			return yes
		}
		return no
	}
	switch {
	case r.Before != 0 && r.Before <= end:
		return yes
	case r.After >= end:
		return no
	default:
		return open
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
