package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

var errDuration = errors.New("want a duration such as 60s, 15m or 14d")

const day = 24 * time.Hour

// parseDuration reads what time.ParseDuration reads, whole days and weeks, and a bare 0.
// A day is 24 hours.
func parseDuration(s string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(number, 10, 32)
			if err != nil || n > uint64(math.MaxInt64/length) {
				return 0, errDuration
			}
			return time.Duration(n) * length, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errDuration
	}
	return d, nil
}

func durationText(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}
