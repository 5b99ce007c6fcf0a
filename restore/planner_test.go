package restore

import (
	"context"
	"errors"
	"flag"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

var rewrite = flag.Bool("rewrite", false, "write what the planner says into testdata")

// TestPlan holds conversations: a repository in words, then requests with what the
// planner answers. Stanzas are separated by blank lines.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			repo := newSynthetic()
			for _, stanza := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
				lines := strings.Split(stanza, "\n")
				n := 0
				for n < len(lines) && strings.HasPrefix(lines[n], "#") {
					n++
				}
				head := strings.Join(lines[:n], "\n")
				if n > 0 {
					head += "\n"
				}
				switch {
				case n == len(lines):
				case lines[n] == "repository":
					repo = newSynthetic()
					for _, line := range lines[n+1:] {
						line, _, _ = strings.Cut(line, "#")
						if line = strings.TrimSpace(line); line != "" {
							repo.line(t, line)
						}
					}
				default:
					got := answer(t, repo, lines[n])
					want := strings.Join(lines[n+1:], "\n") + "\n"
					if got != want && !*rewrite {
						t.Errorf("%s\n got:\n%swant:\n%s", lines[n], got, want)
					}
					stanza = head + lines[n] + "\n" + strings.TrimSuffix(got, "\n")
				}
				out = append(out, stanza)
			}
			if *rewrite {
				if err := os.WriteFile(path, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func answer(t *testing.T, repo *synthetic, line string) string {
	t.Helper()
	request := Request{Target: Target{Kind: Latest, Action: Promote}}
	if leader, ok := strings.CutPrefix(line, "member leader="); ok {
		n, _ := strconv.Atoi(leader)
		return told(NewMemberPlan(t.Context(), repo.facts, postgres.TimelineID(n)))
	}
	for _, word := range strings.Fields(line)[1:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "latest":
		case "immediate":
			request.Target.Kind = Immediate
		case "time":
			request.Target.Kind, request.Target.Time = Time, clockTime(t, value)
		case "lsn":
			l, err := postgres.ParseLSN(value)
			if err != nil {
				t.Fatal(err)
			}
			request.Target.Kind, request.Target.LSN = LSN, l
		case "xid":
			n, _ := strconv.Atoi(value)
			request.Target.Kind, request.Target.XID = XID, uint32(n)
		case "name":
			request.Target.Kind, request.Target.Name = Name, value
		case "exclusive":
			request.Target.Exclusive = true
		case "timeline":
			n, _ := strconv.Atoi(value)
			request.Target.Timeline = postgres.TimelineID(n)
		case "backup":
			request.Backup = catalog.BackupID(value)
		case "map":
			from, to, _ := strings.Cut(value, ":")
			request.Mapping = map[string]string{from: to}
		default:
			t.Fatalf("%q: %q", line, word)
		}
	}
	return told(NewPlan(t.Context(), repo.facts, request))
}

func told(plan Plan, err error) string {
	if err != nil {
		s := "refused: " + err.Error() + "\n"
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) && hinted.Hint() != "" {
			s += "hint: " + hinted.Hint() + "\n"
		}
		return s
	}
	return describePlan(plan)
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ in, want string }{
		{"2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"},
		{"2026-11-21 10:00:00.123456+02:00", "2026-11-21T08:00:00.123456Z"},
		{"2026-11-21 10:00:00 -05:30", "2026-11-21T15:30:00Z"},
		{"2026-11-21 10:00:00+02", "2026-11-21T08:00:00Z"},
		{"2026-11-21 10:00:00", "has no offset"},
		{"2026-11-21T10:00:00", "has no offset"},
		{"2026-11-21 10:00:00 EST", `the zone "EST" is a name`},
		{"2026-11-21 10:00:00 Europe/Berlin", "is a name"},
		{"2026-11-21 13:00:00 PM", "is a name"},
		{"2026-11-21T10:00:00.1234567Z", "microseconds"},
		{"2026-02-30T10:00:00Z", "want RFC 3339"},
		{"yesterday", "want RFC 3339"},
		{"", "want RFC 3339"},
	} {
		got, err := ParseTime(c.in, now)
		if err != nil && !strings.Contains(err.Error(), c.want) || err == nil && stamp(got) != c.want {
			t.Errorf("%q: %v, %v; want %s", c.in, got, err, c.want)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	f.Add("2026-11-21 10:00:00.123456+02:00")
	f.Add("2026-11-21 10:00:00 EST")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseTime(s, day)
		if err != nil {
			return
		}
		if again, err := ParseTime(stamp(at), day); err != nil || !again.Equal(at) {
			t.Errorf("%q is %s, which reads as %s, %v", s, stamp(at), again, err)
		}
	})
}

// failingWAL fails from the call on that left counts down to.
type failingWAL struct {
	WAL
	left int
}

var errWAL = errors.New("the store is gone")

func (w *failingWAL) Headers(ctx context.Context, segments []postgres.Segment) ([]postgres.SegmentFacts, error) {
	if w.left--; w.left < 0 {
		return nil, errWAL
	}
	return w.WAL.Headers(ctx, segments)
}

func (w *failingWAL) Records(ctx context.Context, segments []postgres.Segment) iter.Seq2[postgres.Record, error] {
	if w.left--; w.left < 0 {
		return func(yield func(postgres.Record, error) bool) { yield(postgres.Record{}, errWAL) }
	}
	return w.WAL.Records(ctx, segments)
}

// Whatever call fails, the plan fails with it: neither a plan nor a refusal comes of
// what could not be read.
func TestPlanEveryFault(t *testing.T) {
	text, err := os.ReadFile("testdata/kinds.txt")
	if err != nil {
		t.Fatal(err)
	}
	stanza, _, _ := strings.Cut(string(text), "\n\n")
	_, lines, _ := strings.Cut(stanza, "repository\n")
	repo := newSynthetic()
	for line := range strings.Lines(lines) {
		repo.line(t, strings.TrimSpace(line))
	}
	for _, target := range []Target{{Kind: Latest}, {Kind: Immediate}, {Kind: Time, Time: clockTime(t, "10:05:00")}, {Kind: Time, Time: clockTime(t, "23:00:00")},
		{Kind: LSN, LSN: 0x3000100}, {Kind: XID, XID: 751, Exclusive: true}, {Kind: XID, XID: 999999}, {Kind: Name, Name: "nowhere"}} {
		for n := 0; ; n++ {
			facts := repo.facts
			wal := &failingWAL{facts.WAL, n}
			facts.WAL = wal
			_, err := NewPlan(t.Context(), facts, Request{Target: target})
			if wal.left >= 0 {
				if n == 0 {
					t.Errorf("%s: the WAL was not looked at", target)
				}
				break
			}
			if !errors.Is(err, errWAL) {
				t.Errorf("%s: call %d failed: %v", target, n+1, err)
			}
		}
	}
}
