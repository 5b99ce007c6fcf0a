package restore

import (
	"fmt"
	"strings"
	"time"
)

// timeLayouts are what ParseTime reads: RFC 3339, with a space instead of the T
// if one likes, and any number of decimals.
var timeLayouts = []string{"2006-01-02T15:04:05Z07:00", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05 Z07:00",
	"2006-01-02 15:04:05Z07", "2006-01-02T15:04:05Z07"}

// ParseTime reads a target time: RFC 3339 with an offset, to the microsecond that
// PostgreSQL keeps. A time without offset, or with the name of a zone, is refused:
// it would mean another moment on another machine. now serves the message.
func ParseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range timeLayouts {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if t.Nanosecond()%1000 != 0 {
			return time.Time{}, fmt.Errorf("time %q: PostgreSQL keeps microseconds: want at most six decimals", s)
		}
		return t.UTC(), nil
	}
	example := now.UTC().Format(timeLayouts[0])
	bare := strings.Replace(s, " ", "T", 1)
	if _, err := time.Parse("2006-01-02T15:04:05", bare); err == nil {
		return time.Time{}, fmt.Errorf("time %q has no offset from UTC: add one, as in %q or %q", s, s+"Z", s+"+02:00")
	}
	if i := strings.LastIndexByte(s, ' '); i > 0 {
		if _, err := time.Parse("2006-01-02T15:04:05", strings.Replace(s[:i], " ", "T", 1)); err == nil {
			return time.Time{}, fmt.Errorf("time %q: the zone %q is a name, which means different offsets to different people: write a number, as in %q", s, s[i+1:], s[:i]+"+02:00")
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339 with an offset, as in %q", s, example)
}

// stamp prints a time as every message does: UTC, to the microsecond, so that it
// can be given back as a target.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }
