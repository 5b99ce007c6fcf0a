package hook

import (
	"errors"
	"strings"
	"testing"
)

var requests = map[string]Request{
	`pgha/1 push "/data/pg_wal/000000010000000000000001"` + "\n":                                 {Path: "/data/pg_wal/000000010000000000000001"},
	`pgha/1 push "/da \"ta\"\n/pg_wal/\xff"` + "\n":                                              {Path: "/da \"ta\"\n/pg_wal/\xff"},
	`pgha/1 get "00000002.history" "/data/pg_wal/RECOVERYHISTORY" recovery 12` + "\n":            {File: "00000002.history", Path: "/data/pg_wal/RECOVERYHISTORY", Mode: Recovery, Ticket: 12},
	`pgha/1 get "000000010000000000000001" "/d/pg_wal/000000010000000000000001" rewind 0` + "\n": {File: "000000010000000000000001", Path: "/d/pg_wal/000000010000000000000001"},
}

var answers = map[string]Answer{
	"wait\n":                           {Kind: Wait},
	"done 0 \"\" \"\"\n":               {Kind: Done},
	"done 200 \"a\\nb\" \"do it\"\n":   {Kind: Done, Status: 200, Error: "a\nb", Hint: "do it"},
	"direct \"another's directory\"\n": {Kind: Direct, Error: "another's directory"},
}

func TestProtocol(t *testing.T) {
	for line, want := range requests {
		if got, err := ParseRequest(line); err != nil || got != want || got.String() != line {
			t.Errorf("%q is %+v, %v, and again %q", line, got, err, got.String())
		}
	}
	for line, want := range answers {
		if got, err := ParseAnswer(line); err != nil || got != want || got.String() != line {
			t.Errorf("%q is %+v, %v, and again %q", line, got, err, got.String())
		}
	}
	for _, line := range []string{"", "\n", "pgha/1", "pgha/1 push", `pgha/1 push "/x"`, `pgha/1 push "x"` + "\n", `pgha/1 push "/x" ` + "\n",
		"pgha/1 push `/x`\n", `pgha/1 push '/'` + "\n", `pgha/1 get "" "/x" rewind 1` + "\n", `pgha/1 get "f" "/x"` + "\n",
		`pgha/1 get "f" "/x" rewind 1` + "\n\n", `pgha/1 get "f" "/x" none 1` + "\n", `pgha/1 get "f""/x" rewind 1` + "\n",
		`pgha/1 get "f" "/x" rewind` + "\n", `pgha/1 get "f" "/x" rewind 01` + "\n", `pgha/1 get "f" "/x" rewind -1` + "\n", `pgha/1 put "/x"` + "\n"} {
		if got, err := ParseRequest(line); err == nil {
			t.Errorf("%q is %+v", line, got)
		}
	}
	if _, err := ParseRequest(`pgha/9 push "/x"` + "\n"); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v", err)
	}
	for _, line := range []string{"", "wait", "done\n", "done 0\n", `done 256 "" ""` + "\n", `done -1 "" ""` + "\n", `done 0 ""` + "\n", `done 0 """"` + "\n",
		`done 0 "" "" ` + "\n", "direct\n", "pgha/9\n", "done 0 `` ``\n"} {
		if got, err := ParseAnswer(line); err == nil {
			t.Errorf("%q is %+v", line, got)
		}
	}
}

// What is read is written back the same, and nothing that is read breaks a line.
func FuzzRequest(f *testing.F) {
	for line := range requests {
		f.Add(line)
	}
	f.Add("pgha/9 push \"/x\"\n")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseRequest(line)
		if err != nil {
			return
		}
		text := r.String()
		if again, err := ParseRequest(text); err != nil || again != r || strings.Count(text, "\n") != 1 {
			t.Errorf("%q is %+v, written %q, and that is %+v, %v", line, r, text, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for line := range answers {
		f.Add(line)
	}
	f.Add("done 1 \"x\n")
	f.Fuzz(func(t *testing.T, line string) {
		a, err := ParseAnswer(line)
		if err != nil {
			return
		}
		text := a.String()
		if again, err := ParseAnswer(text); err != nil || again != a || strings.Count(text, "\n") != 1 || a.Status < 0 || a.Status > 255 {
			t.Errorf("%q is %+v, written %q, and that is %+v, %v", line, a, text, again, err)
		}
	})
}
