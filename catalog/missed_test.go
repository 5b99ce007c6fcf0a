package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

func TestScheduledNames(t *testing.T) {
	at := time.Date(2026, 11, 21, 3, 0, 0, 0, time.FixedZone("", 3600))
	id := ScheduledID(at, "b2-weekly")
	if id != "20261121T020000Z-b2-weekly" || id.Schedule() != "b2-weekly" || !id.Time().Equal(at) {
		t.Error(id, id.Schedule())
	}
	if parsed, err := ParseBackupID(string(id)); err != nil || parsed != id {
		t.Error(err)
	}
	if id := ManualID(at); id.Schedule() != "" {
		t.Error(id, id.Schedule())
	}
	for _, name := range []string{"nightly", "n", "6h", "a-b-c", strings.Repeat("a", 64)} {
		if err := ValidateSchedule(name); err != nil {
			t.Error(err)
		}
		if _, err := ParseBackupID(string(ScheduledID(at, name))); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "Nightly", "a--b", "-a", "a-", "a_b", "a b", "manual", "manual-1f0a", "manually", "first", "gap", "a/b", "a\n", strings.Repeat("a", 65)} {
		if ValidateSchedule(name) == nil {
			t.Errorf("schedule %q is accepted", name)
		}
	}
}

func TestMissed(t *testing.T) {
	ctx := t.Context()
	bucket := mem.New()
	r := walRepository(bucket)
	at := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	id, older := ScheduledID(at, "nightly"), ScheduledID(at.AddDate(0, 0, -1), "nightly")
	if ids, err := r.MissedIDs(ctx); err != nil || len(ids) > 0 {
		t.Fatal(ids, err)
	}
	if _, err := r.Missed(ctx, id); !errors.Is(err, storage.ErrNotExist) {
		t.Error(err)
	}
	for i, m := range []Missed{{Backup: id, Reason: "no replica", By: "pg1", At: at.Add(time.Hour)}, {Backup: older, Reason: "down", By: "pg2", At: at},
		{Backup: id, Reason: "something else", By: "pg3", At: at.Add(2 * time.Hour)}} {
		if err := r.ReportMissed(ctx, m); err != nil {
			t.Fatal(i, err)
		}
	}
	if ids, err := r.MissedIDs(ctx); err != nil || !slices.Equal(ids, []BackupID{older, id}) {
		t.Error(ids, err)
	}
	if m, err := r.Missed(ctx, id); err != nil || m.By != "pg1" || m.Reason != "no replica" || m.Format != 1 || !m.At.Equal(at.Add(time.Hour)) {
		t.Error(m, err)
	}
	if r.ReportMissed(ctx, Missed{Backup: "../../x"}) == nil {
		t.Error("a name that is no BackupID was taken")
	}
	// A report that lies under another's name is no report.
	data, err := storage.ReadAll(ctx, bucket, r.keys.missed(older), 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	other := ScheduledID(at, "other")
	if err := bucket.Put(ctx, r.keys.missed(other), data, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Missed(ctx, other); err == nil || !strings.Contains(err.Error(), "names backup") {
		t.Error(err)
	}
}

// A manifest, and a tombstone where the manifest is gone already, say that it was taken.
func TestTaken(t *testing.T) {
	ctx := t.Context()
	id := ScheduledID(time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC), "nightly")
	for name, want := range map[string]bool{"manifest.json": true, "expired.json": true, "1a2b3c4d/started": false} {
		bucket := mem.New()
		r := walRepository(bucket)
		if taken, err := r.Taken(ctx, id); taken || err != nil {
			t.Fatal(taken, err)
		}
		if err := bucket.Put(ctx, r.keys.backup(id, name), []byte("{}"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if taken, err := r.Taken(ctx, id); taken != want || err != nil {
			t.Errorf("%s: %v, %v", name, taken, err)
		}
	}
	broken := faulty.New(mem.New(), faulty.On("head", faulty.Nth(2, errors.New("store is away"))))
	if taken, err := walRepository(broken).Taken(ctx, id); taken || err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a store that does not answer: %v, %v", taken, err)
	}
}
