package daemon

import (
	"errors"
	"fmt"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Problems is everything in a survey that needs a person.
func Problems(s catalog.Survey, r config.Repository) (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if r.ConditionalWrites == config.Emulate || s.Info.ConditionalWrites == config.Emulate {
		add("repository: create-once writes are emulated; two writers at the same moment may both believe they won")
	}
	if len(s.Backups) == 0 {
		add("backups: there is none")
	} else if _, err := s.Find("latest"); err != nil {
		add("backups: none of %d is whole", len(s.Backups))
	}
	for _, b := range s.Backups {
		switch b.State {
		case catalog.BackupDamaged:
			add("backup %s: %s of the server had bad pages", b.Manifest.ID, plural(len(b.Manifest.Damage), "file"))
		case catalog.BackupWALMissing:
			add("backup %s: its WAL is not complete", b.Manifest.ID)
		}
	}
	for _, u := range s.Unreadable {
		f := u.Finding()
		add("%s cannot be read: %s", f.Object, f.Problem)
	}
	for _, t := range s.Archive.Timelines {
		if t.NoHistory {
			add("archive: %s is missing, timeline %d cannot be followed", postgres.HistoryFile(t.Timeline), uint32(t.Timeline))
		}
	}
	for _, gap := range s.Archive.Gaps() {
		switch {
		case gap.Accepted != nil:
		case gap.Segments == 1:
			add("archive: %s is missing (%s)", gap.First, gap.State)
		default:
			add("archive: %d segments are missing, %s to %s (%s)", gap.Segments, gap.First, gap.Last, gap.State)
		}
	}
	for _, name := range s.Conflicts {
		add("conflict: two contents of %s are kept, and nobody has said which one counts", name)
	}
	return all
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// plural counts things: 1 file, 2 files.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
