package catalog

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// BackupID names a backup: "20261121T020000Z-nightly" for a scheduled one (the
// scheduled time, so that two runs of it collide on one manifest), or
// "20261121T020000Z-manual-1f0a". IDs sort by time.
type BackupID string

// RunID is eight random hexadecimal digits: one attempt at a backup. A second
// run of the same backup never touches the first one's packs.
type RunID string

const idTime = "20060102T150405Z"

var (
	idPattern  = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[a-z0-9](-?[a-z0-9])*$`)
	runPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

// ManualID names a backup that a person asked for now.
func ManualID(now time.Time) BackupID {
	return BackupID(now.UTC().Format(idTime) + "-manual-" + randomHex(2))
}

// ParseBackupID checks a name as a user or a key gives it.
func ParseBackupID(s string) (BackupID, error) {
	if len(s) > 96 || !idPattern.MatchString(s) {
		return "", fmt.Errorf("backup %q: want a name like 20261121T020000Z-nightly", s)
	}
	if _, err := time.Parse(idTime, s[:16]); err != nil {
		return "", fmt.Errorf("backup %q: %w", s, err)
	}
	return BackupID(s), nil
}

// Time is the time in the name.
func (id BackupID) Time() time.Time {
	t, _ := time.Parse(idTime, string(id)[:min(16, len(id))])
	return t
}

// FirstSchedule stands in the name of the first backup of a repository, which is
// due without any schedule.
const FirstSchedule = "first"

// GapSchedule stands in the name of the backup that is due behind a gap.
const GapSchedule = "gap"

// wordPattern is the name of a schedule or a hold. Lengths are compared beside the
// patterns: counted repetitions cost every archive-push half a millisecond.
var wordPattern = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9])*$`)

// ValidateSchedule checks the name of a schedule for use in a BackupID.
func ValidateSchedule(name string) error {
	if len(name) > 64 || !wordPattern.MatchString(name) || strings.HasPrefix(name, "manual") || name == FirstSchedule || name == GapSchedule {
		return fmt.Errorf("schedule %q: want lower-case letters, digits and single '-', at most 64, neither %q nor %q nor beginning with \"manual\"", name, FirstSchedule, GapSchedule)
	}
	return nil
}

// ScheduledID names the backup of a schedule's time.
func ScheduledID(at time.Time, schedule string) BackupID {
	return BackupID(at.UTC().Format(idTime) + "-" + schedule)
}

// Schedule is the schedule in the name; "" for a manual backup.
func (id BackupID) Schedule() string {
	schedule := string(id)[min(17, len(id)):]
	if schedule == "manual" || strings.HasPrefix(schedule, "manual-") {
		return ""
	}
	return schedule
}

// NewRunID draws a run's name.
func NewRunID() RunID { return RunID(randomHex(4)) }

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)
}
