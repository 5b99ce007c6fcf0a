package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

// names are all files in the store, from its directory: it need not answer, and
// nothing of ours is in the way.
func (f *failedOver) names() map[string]bool {
	f.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(f.s3.Dir, f.s3.Bucket), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found[filepath.Base(path)] = true
		}
		return nil // a temporary file may be gone
	})
	if err != nil {
		f.Fatal(err)
	}
	return found
}

// lacks lists what a restore from the backup to the end would ask for in vain.
func (f *failedOver) lacks() (missing []string) {
	f.Helper()
	has := f.names()
	want := func(tli postgres.TimelineID, from, to postgres.LSN) {
		for n := from / segment; n < to/segment; n++ {
			s := postgres.SegmentAt(tli, n*segment, postgres.DefaultSegmentSize).Name()
			if !has[s] {
				missing = append(missing, s)
			}
		}
	}
	want(1, f.backup.StartLSN, cmp.Or(f.fork, f.upTo))
	if f.fork != 0 {
		want(2, f.fork, f.tail)
		if !has["00000002.history"] {
			missing = append(missing, "00000002.history")
		}
	}
	return missing
}

const segment = postgres.LSN(postgres.DefaultSegmentSize)

// goesOn lets the load write some more segments on the new timeline and waits until
// the new leader's archiver has nothing left to do.
func (f *failedOver) goesOn() {
	f.Helper()
	m := f.marker()
	f.fork = f.lineage(m.conn)[0].End
	m.mark("after")
	m.switches(2)
	f.stop()
	m.mark("end")
	m.switches(1)
	f.tail = position(f, f.next)
	lab.Poll(f, 90*time.Second, "the archiver of "+f.next.Name+" to be idle", func() error {
		if ready := f.status(f.next, ".ready"); len(ready) > 0 {
			return fmt.Errorf("%v are left", ready)
		}
		return nil
	})
}

func (f *failedOver) lineage(conn *pgx.Conn) []ledger.Span {
	f.Helper()
	spans, err := ledger.ServerLineage(f.Context(), conn)
	if err != nil || len(spans) != 2 {
		f.Fatalf("the lineage of the new leader is %v: %v", spans, err)
	}
	return spans
}

// status lists the archive status files of a member that end so, without the end.
func (f *failedOver) status(m *lab.Member, suffix string) (names []string) {
	f.Helper()
	files, err := os.ReadDir(filepath.Join(m.DataDir, "pg_wal", "archive_status"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if name, ok := strings.CutSuffix(file.Name(), suffix); ok {
			names = append(names, name)
		}
	}
	return names
}

// settled waits until the archive is whole, or nobody is left who could make it so.
func (f *failedOver) settled() {
	f.Helper()
	lab.Poll(f, 90*time.Second, "the archive to be whole, or lost", func() error {
		f.lost, f.about = f.lacks(), 0
		for _, s := range f.lost {
			for _, m := range f.survivors() {
				if !f.holds(m, s) {
					continue
				}
				f.about++
				if slices.Contains(f.status(m, ".ready"), s) || f.filler && f.running[m.Name].Running() {
					return fmt.Errorf("the archive lacks %v, and %s has %s", f.lost, m.Name, s)
				}
			}
		}
		return nil
	})
}

// holds tells whether a member has a segment as a whole, not just a file of that name.
func (f *failedOver) holds(m *lab.Member, segment string) (whole bool) {
	f.Helper()
	if exists(m, segment) {
		m.QueryRow(`select case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
			else pg_current_wal_flush_lsn() end - '`+end(segment).String()+`' >= 0`, &whole)
	}
	return whole
}

// end is where a segment of that name ends.
func end(segment string) postgres.LSN {
	file, err := postgres.ParseWALFile(segment)
	if err != nil || file.Kind != postgres.WALSegment {
		return 0
	}
	return file.Segment.End(postgres.DefaultSegmentSize)
}

func (f *failedOver) survivors() (alive []*lab.Member) {
	for _, m := range f.cluster.Members {
		if m != f.dead {
			alive = append(alive, m)
		}
	}
	return alive
}

// acknowledged insists that every file whose push succeeded is in the store.
func (f *failedOver) acknowledged() {
	f.Helper()
	has := f.names()
	for _, m := range f.cluster.Members {
		text, err := os.ReadFile(m.Run().Path("acked-" + m.Name))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range strings.Fields(string(text)) {
			if f.acked++; !has[name] {
				f.Errorf("%s was acknowledged to %s and is not in the store", name, m.Name)
			}
		}
	}
	if f.acked == 0 {
		f.Error("no file was acknowledged")
	}
}

// seen holds what our program says of the archive against what is true.
func (f *failedOver) seen() {
	f.Helper()
	lost := f.lost
	var audit struct {
		Gaps []struct {
			First    string
			Segments int
		}
	}
	gaps, verify := 0, 0
	if len(lost) > 0 {
		gaps, verify = 10, 9
	}
	lab.Poll(f.T, time.Minute, "wal gaps to tell what is missing", func() error { // what is behind it may just have come
		list, said := f.do(f.next, "wal", "gaps", "--format", "json"), 0
		if err := json.Unmarshal([]byte(list.stdout), &audit); err != nil {
			return fmt.Errorf("%w: %s", err, list)
		}
		for _, g := range audit.Gaps {
			said += g.Segments
		}
		if list.code != gaps || said != len(lost) || len(lost) > 0 && audit.Gaps[0].First != lost[0] {
			return fmt.Errorf("the archive lacks %v; wal gaps: %s", lost, list)
		}
		return nil
	})
	if r := f.do(f.next, "verify", "--level", "presence"); r.code != verify {
		f.Errorf("the archive lacks %v; verify: %s", lost, r)
	}
	if len(lost) > 0 {
		if _, r := f.tryRestore(f.next, "--target-time", stamp(f.before.at)); r.code != 0 {
			f.Errorf("a restore to a time before the gap: %s", r)
		}
		if _, r := f.tryRestore(f.next); r.code == 0 {
			f.Error("a restore through the gap succeeded")
		}
	}
}

// restores reaches points before, in and after the outage, and one commit before the
// fork; the ledger is exact at each.
func (f *failedOver) restores() {
	f.Helper()
	commits := f.commits(1, 2)
	var before []postgres.LSN
	for key, c := range commits {
		if c.Start < f.fork {
			before = append(before, c.Start)
			commits[ledger.CommitKey{Timeline: 1, XID: key.XID}] = c // the new timeline begins with a copy of what it left
		}
	}
	slices.Sort(before)
	before = slices.Compact(before)
	if len(before) < 2 {
		f.Fatalf("%d commits before the fork", len(before))
	}
	for _, target := range []struct {
		marks string
		args  []string
	}{
		{"before", []string{"--target-time", stamp(f.before.at)}},
		{"before mid", []string{"--target-time", stamp(f.mid.at)}},
		{"before mid late", []string{"--target-lsn", before[len(before)-2].String()}},
		{"before mid late after end", nil},
	} {
		r := f.restoreAndStart(f.next, target.args...)
		if got := r.marks(); got != target.marks {
			f.Errorf("%v: the copy holds %q", target.args, got)
		}
		report := r.judge(f.journal, commits)
		f.Logf("%v: %+v", target.args, report)
		if report.Expected < 100 {
			f.Errorf("a ledger that proves little: %+v", report)
		}
		if err := os.RemoveAll(r.dir); err != nil {
			f.Error(err)
		}
	}
}
