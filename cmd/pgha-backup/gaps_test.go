package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// A gap's way through the commands: late, lost, accepted.
func TestGapsListAndAccept(t *testing.T) {
	h := newHost(t)
	h.write("config.yaml", fmt.Sprintf("cluster: {scope: main, member: pg1, state_dir: %s/state}\nrepositories: [{name: nas, type: file, file: {path: %s}}]\n", h.dir, h.repository))
	h.stock()
	h.archive(1, 11, 11) // behind the fork: of the branch that was left
	h.settle()
	at := func(n uint64) postgres.Segment { return postgres.SegmentAt(1, postgres.LSN(n*uint64(size)), size) }
	want := func(code int, errText, text string, args ...string) string {
		t.Helper()
		got, stdout, stderr := h.run(args...)
		if got != code || stderr != errText || !strings.Contains(stdout, text) {
			t.Errorf("%s: exit %d, %q, %s\nwant %d, %q, %q", strings.Join(args, " "), got, stderr, stdout, code, errText, text)
		}
		return stdout
	}
	const two = "error: 2 gaps not accepted\nhint: docs/RUNBOOK.md, PghaWalGap: what to do about one\n"
	const first = "000000010000000000000005"
	want(10, two, first+" | "+first+" |        1 | late  |             | 2026-11-21 11:00:04 .. 2026-11-21 02:01:30", "wal", "gaps")
	want(4, "error: the gap that begins with "+first+" is late: a member may still bring it; nothing was changed\nhint: wait until it is filled or lost, or pass --yes\n", "",
		"wal", "gaps", "accept", first, "--reason", "x")
	_, err := h.catalog(system).RecordGap(t.Context(), catalog.GapRecord{First: at(5), Last: at(5), At: noon.Add(-time.Hour), By: "pg2",
		Reason: "nobody brought it within 15m0s", After: noon.Add(-2 * time.Hour)}, catalog.GapLost)
	h.must(err)
	h.golden("gaps.txt", want(10, two, "", "wal", "gaps", "list"))
	want(10, "error: degraded: 3 problems\n", first+" is missing (lost)", "status")

	want(2, "error: --reason is missing: whoever wonders about this gap will want to know\n", "", "wal", "gaps", "accept", first)
	want(2, "error: \"00000002.history\": want the name of a WAL segment\n", "", "wal", "gaps", "accept", "00000002.history", "--reason", "x")
	want(6, "error: no gap begins with 000000010000000000000006\nhint: pgha-backup wal gaps lists them\n", "", "wal", "gaps", "accept", "000000010000000000000006", "--reason", "x")
	want(0, "", "the gap from "+first+" to "+first+" is accepted\n", "wal", "gaps", "accept", first, "--reason", "disk of pg1 died")
	h.settle()
	want(0, "", `"reason": "disk of pg1 died"`, "wal", "gaps", "accept", first, "--reason", "another", "--format", "json") // it is said once
	want(0, "", "", "wal", "gaps", "accept", "00000001000000000000000A", "--reason", "abandoned", "--yes")
	h.golden("gaps-accepted.txt", want(0, "", "", "wal", "gaps"))
	h.golden("gaps.json", want(0, "", "", "wal", "gaps", "list", "--format", "json"))
	want(10, "error: degraded: 1 problem\n", "", "status") // the damaged backup
	want(9, "error: verification failed: 2 findings\nhint: do not count on what is named above; take a new backup now\n", first, "verify", "--level", "presence")
	want(2, "error: pgha-backup wal gaps: want no arguments, got 1\nhint: see pgha-backup wal gaps --help\n", "", "wal", "gaps", "nonsense")
}
