package restore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
)

// A manifest or a history that cannot be read takes away what needs it, and no more.
func TestUnreadable(t *testing.T) {
	s := newSynthetic()
	for _, line := range strings.Split(`backup b1 1 0/100028 0/100200 10:00:00
at 1 0/100300 commit 700 10:10:00
wal 1 1-2
wal 2 2-3`, "\n") {
		s.line(t, line)
	}
	other := s.facts.Backups[0].ID
	s.facts.Unreadable = []catalog.Unreadable{
		{Backup: "b2", Object: "r/backup/b2/manifest.json", Err: fmt.Errorf("r/backup/b2/manifest.json: %w", codec.ErrCorrupt)},
		{Object: "r/wal/00000002.history", Err: codec.ErrCorrupt},
	}
	plan, err := NewPlan(t.Context(), s.facts, Request{Backup: other, Target: Target{Kind: Latest, Timeline: 1}})
	if err != nil || plan.Backup.ID != other || len(plan.Notes) < 2 ||
		plan.Notes[0] != "r/backup/b2/manifest.json is left out, it cannot be read: stored data is corrupt" {
		t.Errorf("%q, %v", plan.Notes, err)
	}
	for want, request := range map[string]Request{
		"backup b2 cannot be read: r/backup/b2/manifest.json: stored data is corrupt": {Backup: "b2", Target: Target{Kind: Latest, Timeline: 1}},
		"timeline history 00000002.history cannot be read: stored data is corrupt":    {Backup: other, Target: Target{Kind: Latest}},
	} {
		if _, err := NewPlan(t.Context(), s.facts, request); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
