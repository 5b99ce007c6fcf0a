// Package scheduler says when a job is due and runs it at its times, at most one
// attempt at a time. It knows no verb: what a job does, whether it is done and
// whose turn it is are functions that it is given.
package scheduler

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Timetable is the times of a schedule.
type Timetable interface {
	// Next is the first scheduled time after the given one; zero: never again.
	Next(after time.Time) time.Time
}

// Parse reads five cron fields, a word such as @daily, or "@every 6h".
//
// Cron's fields are local times of the zone. A local time that a change of the
// clocks skips runs at the first instant after the gap; one that comes twice runs
// once, at its first. "@every d" means the multiples of d since the Unix epoch in
// UTC, so that everybody who computes them means the same instants; d is whole seconds.
func Parse(expression string, zone *time.Location) (Timetable, error) {
	if text, ok := strings.CutPrefix(expression, "@every "); ok {
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil || d < time.Second || d%time.Second != 0 {
			return nil, fmt.Errorf("schedule %q: want @every with whole seconds, minutes or hours, as in @every 6h", expression)
		}
		return every(d / time.Second), nil
	}
	const want = "want five fields (minute, hour, day of month, month, day of week), @daily or @every 6h"
	if strings.Contains(expression, "TZ=") { // cron's own way to name a zone, which panics where nothing follows
		return nil, fmt.Errorf("schedule %q: %s; the time zone has its own key", expression, want)
	}
	spec, err := cron.ParseStandard(expression)
	if err != nil {
		return nil, fmt.Errorf("schedule %q: %s: %w", expression, want, err)
	}
	// Cron is asked in UTC only, about what a wall clock shows.
	spec.(*cron.SpecSchedule).Location = time.UTC
	t := wallClock{spec, zone}
	if t.Next(time.Unix(0, 0)).IsZero() {
		return nil, fmt.Errorf("schedule %q: there is no such day", expression)
	}
	return t, nil
}

// every is a number of seconds.
type every int64

func (e every) Next(after time.Time) time.Time {
	return time.Unix((after.Unix()/int64(e)+1)*int64(e), 0).UTC()
}

// wallClock is cron's fields, which are asked about UTC, as times of a zone.
type wallClock struct {
	fields cron.Schedule
	zone   *time.Location
}

func (w wallClock) Next(after time.Time) time.Time {
	for wall := wallOf(after, w.zone); ; {
		if wall = w.fields.Next(wall); wall.IsZero() {
			return wall
		}
		// In the second pass of an hour that comes twice, its times have been.
		if at := instant(wall, w.zone); at.After(after) {
			return at
		}
	}
}

// wallOf is what a clock of the zone shows at t, written as if it were UTC.
func wallOf(t time.Time, zone *time.Location) time.Time {
	_, offset := t.In(zone).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is when a clock of the zone first shows wall, or the end of the gap that
// skips it.
func instant(wall time.Time, zone *time.Location) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := t.ZoneBounds()
	switch shown := wallOf(t, zone); {
	case shown.After(wall): // the gap ended before t
		return start.UTC()
	case shown.Before(wall):
		return end.UTC()
	}
	if !start.IsZero() {
		_, before := start.Add(-time.Second).In(zone).Zone()
		if first := wall.Add(-time.Duration(before) * time.Second); first.Before(start) {
			return first.UTC()
		}
	}
	return t.UTC()
}

// farthest is how long a timetable may be silent before Due takes it for one that
// has not begun; cron itself looks five years ahead.
const farthest = 6 * 366 * 24 * time.Hour

// Due is the latest scheduled time not after now: what lies a period or more back
// is never due again. Not ok where there was none yet.
func Due(t Timetable, now time.Time) (at time.Time, ok bool) {
	past := func(from time.Time) bool {
		next := t.Next(from)
		if next.IsZero() || next.After(now) {
			return false
		}
		at = next
		return true
	}
	for back := time.Minute; !past(now.Add(-back)); back *= 2 {
		if back > farthest {
			return time.Time{}, false
		}
	}
	// at is a time not after now; look for later ones between it and now.
	for low, high := at, now; high.Sub(low) >= time.Second; {
		if middle := low.Add(high.Sub(low) / 2); past(middle) {
			low = at
		} else {
			high = middle
		}
	}
	return at, true
}
