package scheduler

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func timetable(t testing.TB, expression, zoneName string) Timetable {
	t.Helper()
	table, err := Parse(expression, zone(t, zoneName))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Real zones, with what their clocks did.
func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		expression, zone, after string
		want                    []string
	}{
		"utc":        {"0 2 * * *", "UTC", "2026-11-21T02:00:00Z", []string{"2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z"}},
		"just after": {"0 2 * * *", "UTC", "2026-11-21T01:59:59Z", []string{"2026-11-21T02:00:00Z"}},
		// Berlin: 02:00 to 03:00 does not exist on 29 March 2026 (01:00Z is 03:00).
		"spring gap":              {"30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", []string{"2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		"gap, first instant":      {"0 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}},
		"gap, two in one":         {"*/15 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z", "2026-03-29T01:30:00Z", "2026-03-29T01:45:00Z", "2026-03-30T00:00:00Z"}},
		"gap, day of month given": {"30 2 29 3 *", "Europe/Berlin", "2026-01-01T00:00:00Z", []string{"2026-03-29T01:00:00Z", "2027-03-29T00:30:00Z"}},
		// Berlin: 02:00 to 03:00 comes twice on 25 October 2026 (00:00Z and 01:00Z).
		"autumn fold":       {"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		"fold, each half":   {"0,30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"}},
		"fold, second pass": {"30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", []string{"2026-10-26T01:30:00Z"}},
		// New York: 2026-03-08 07:00Z and 2026-11-01 06:00Z.
		"new york gap":  {"30 2 * * *", "America/New_York", "2026-03-08T00:00:00Z", []string{"2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"}},
		"new york fold": {"30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", []string{"2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"}},
		// Lord Howe moves by half an hour: 2026-04-05 at 15:00Z of the 4th back from +11 to +10:30.
		"lord howe fold": {"45 1 * * *", "Australia/Lord_Howe", "2026-04-03T20:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		// 2026-10-04 at 15:30Z of the 3rd, 02:00 becomes 02:30.
		"lord howe gap":   {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}},
		"kathmandu":       {"0 2 * * *", "Asia/Kathmandu", "2026-11-21T00:00:00Z", []string{"2026-11-21T20:15:00Z"}},
		"chatham":         {"0 0 * * *", "Pacific/Chatham", "2026-06-01T12:00:00Z", []string{"2026-06-02T11:15:00Z"}},
		"midnight gap":    {"0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", []string{"2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}},
		"a day left out":  {"0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", []string{"2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"}},
		"end of month":    {"0 2 31 * *", "UTC", "2026-01-31T02:00:00Z", []string{"2026-03-31T02:00:00Z", "2026-05-31T02:00:00Z"}},
		"leap day":        {"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
		"weekly":          {"@weekly", "UTC", "2026-11-21T00:00:00Z", []string{"2026-11-22T00:00:00Z"}},
		"names":           {"0 4 * jan-mar mon", "UTC", "2026-11-21T00:00:00Z", []string{"2027-01-04T04:00:00Z"}},
		"every":           {"@every 6h", "UTC", "2026-11-21T00:00:00Z", []string{"2026-11-21T06:00:00Z", "2026-11-21T12:00:00Z"}},
		"every, any zone": {"@every 6h", "Asia/Kathmandu", "2026-11-21T05:59:59Z", []string{"2026-11-21T06:00:00Z"}},
		"every, odd":      {"@every 7h", "UTC", "1970-01-01T00:00:00Z", []string{"1970-01-01T07:00:00Z", "1970-01-01T14:00:00Z", "1970-01-01T21:00:00Z", "1970-01-02T04:00:00Z"}},
		"every week":      {"@every 168h", "UTC", "2026-11-21T00:00:00Z", []string{"2026-11-26T00:00:00Z"}}, // the epoch was a Thursday
		"sub-second":      {"@every 10s", "UTC", "2026-11-21T00:00:09.999Z", []string{"2026-11-21T00:00:10Z", "2026-11-21T00:00:20Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			table, now := timetable(t, c.expression, c.zone), at(t, c.after)
			for _, want := range c.want {
				if now = table.Next(now); !now.Equal(at(t, want)) {
					t.Fatalf("got %s, want %s", now.Format(time.RFC3339), want)
				}
				if due, ok := Due(table, now); !ok || !due.Equal(now) {
					t.Errorf("at %s, %s is due", want, due)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", " ", "* * * *", "* * * * * *", "61 * * * *", "* 24 * * *", "0 0 0 * *", "0 0 30 2 *", "0 0 31 4,6 *", ", * * * *", "*/0 * * * *",
		"TZ=UTC 0 2 * * *", "CRON_TZ=", "TZ=", "@every", "@every ", "@every x", "@every 0s", "@every -1h", "@every 1500ms", "@reboot", "@every 9999999h9", "a b c d e"} {
		if table, err := Parse(text, time.UTC); err == nil {
			t.Errorf("%q is %v", text, table)
		}
	}
}

// Due against the plain way to find it, for many tables, zones and moments.
func TestDueIsTheLatest(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for range 300 {
		expression := pick("0", "*/15", "5-10", "59") + " " + pick("2", "*", "0,1,2,3", "*/6") + " " + pick("*", "1", "29-31") + " " + pick("*", "*", "3,10") + " " + pick("*", "*", "sun")
		if random.IntN(4) == 0 {
			expression = pick("@every 6h", "@every 7m", "@every 90s", "@monthly", "@hourly")
		}
		name := pick("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "America/Sao_Paulo")
		table := timetable(t, expression, name)
		from := at(t, "2010-01-01T00:00:00Z").Add(time.Duration(random.IntN(16*365*24)) * time.Hour)
		var want time.Time
		for next, n := table.Next(from), 0; n < 300; next, n = table.Next(next), n+1 {
			if want.IsZero() || next.After(want) {
				want = next
				continue
			}
			t.Fatalf("seed %d: %q in %s: %s does not come after %s", seed, expression, name, next, want)
		}
		for _, off := range []time.Duration{0, time.Nanosecond, table.Next(want).Sub(want) / 2, table.Next(want).Sub(want) - 1} {
			if got, ok := Due(table, want.Add(off)); !ok || !got.Equal(want) {
				t.Fatalf("seed %d: %q in %s: at %s %s is due, not %s", seed, expression, name, want.Add(off), got, want)
			}
		}
	}
}

// once is a single time.
type once time.Time

func (o once) Next(after time.Time) time.Time {
	if at := time.Time(o); at.After(after) {
		return at
	}
	return time.Time{}
}

func TestDueOfNothing(t *testing.T) {
	now := at(t, "2026-11-21T00:00:00Z")
	if due, ok := Due(once(now.Add(time.Second)), now); ok {
		t.Error(due)
	}
	if due, ok := Due(once(now.Add(-time.Hour)), now); !ok || !due.Equal(now.Add(-time.Hour)) {
		t.Error(due, ok)
	}
	if due, ok := Due(once(now), now); !ok || !due.Equal(now) {
		t.Error(due, ok)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"0 2 * * *", "@every 6h", "TZ=UTC", "@daily", "1-5/2 * ? jan mon-fri", "0 0 30 2 *", "@every 1s"} {
		f.Add(seed)
	}
	berlin := zone(f, "Europe/Berlin")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse(text, berlin)
		if err != nil {
			if strings.Contains(err.Error(), "%!") {
				t.Error(err)
			}
			return
		}
		now := time.Date(2026, 10, 24, 22, 0, 0, 0, time.UTC)
		for range 5 {
			next := table.Next(now)
			if next.IsZero() {
				return
			}
			if due, ok := Due(table, next); !next.After(now) || !ok || !due.Equal(next) {
				t.Fatalf("%q: after %s comes %s, at which %s is due", text, now, next, due)
			}
			now = next
		}
	})
}
