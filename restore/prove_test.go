package restore

import (
	"errors"
	"strings"
	"testing"
)

func TestProve(t *testing.T) {
	plan := Plan{Effective: Target{Kind: LSN, Action: Promote}, Stop: Stop{LSN: 0x3000100, Timeline: 2, Exact: true, What: "after commit of transaction 751"}}
	open := plan
	open.Stop.Exact = false
	pause := plan
	pause.Effective.Action = Pause
	for name, c := range map[string]struct {
		plan Plan
		seen Outcome
		ok   bool
	}{
		"exactly":              {plan, Outcome{Action: Promote, LSN: 0x3000100, Timeline: 2, NewTimeline: 3}, true},
		"short":                {plan, Outcome{Action: Promote, LSN: 0x30000F8, Timeline: 2}, false},
		"far":                  {plan, Outcome{Action: Promote, LSN: 0x3000108, Timeline: 2}, false},
		"on its parent":        {plan, Outcome{Action: Promote, LSN: 0x3000100, Timeline: 1}, false},
		"the end, as known":    {open, Outcome{Action: Promote, LSN: 0x3000100, Timeline: 2}, true},
		"the end, grown":       {open, Outcome{Action: Promote, LSN: 0x4000000, Timeline: 2}, true},
		"the end, short":       {open, Outcome{Action: Promote, LSN: 0x3000000, Timeline: 2}, false},
		"the end of an older":  {open, Outcome{Action: Promote, LSN: 0x4000000, Timeline: 1}, false},
		"paused":               {pause, Outcome{Action: Pause, LSN: 0x3000100, Timeline: 2}, true},
		"promoted, not paused": {pause, Outcome{Action: Promote, LSN: 0x3000100, Timeline: 2}, false},
		"paused, not promoted": {plan, Outcome{Action: Pause, LSN: 0x3000100, Timeline: 2}, false},
	} {
		err := Prove(c.plan, c.seen)
		refused, ok := errors.AsType[*VerificationError](err)
		if c.ok != (err == nil) || ok == c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if ok && (!strings.Contains(refused.Error(), c.seen.LSN.String()) || !strings.Contains(refused.Error(), c.plan.Stop.LSN.String())) {
			t.Errorf("%s: %v does not name both positions", name, err)
		}
	}
}

// No path of a hostile backup leads out of the tree.
func TestTreeKeepsInside(t *testing.T) {
	dir := t.TempDir()
	tree, err := openTree(Plan{Tablespaces: []TablespacePlan{{OID: 1, From: dir + "/x", To: dir + "/space"}}}, Ground{PGDATA: dir + "/data"})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.close()
	for _, name := range []string{"../out", "a/../../out", "/out", "pg_tblspc/1/../out", "pg_tblspc/1/../../out", "pg_tblspc/2/x", "pg_tblspc/../../out"} {
		if err := tree.write(name, []byte("x")); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if exists(dir, "out") || exists("/out") {
		t.Error("a file outside")
	}
}
