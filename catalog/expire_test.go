package catalog

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// A committer finds after its manifest what expiry did before it could see that
// manifest, and takes it back (R16).
func TestCommitOntoExpired(t *testing.T) {
	const parent = BackupID("20261120T020000Z-nightly")
	for name, c := range map[string]struct {
		expire func(r *Repository, u *Run) error
		err    error
	}{
		"nothing":      {func(*Repository, *Run) error { return nil }, nil},
		"another":      {func(r *Repository, _ *Run) error { return r.Expire(t.Context(), "20261119T020000Z-nightly", Expired{}) }, nil},
		"the backup":   {func(r *Repository, u *Run) error { return r.Expire(t.Context(), u.ID, Expired{}) }, ErrExpired},
		"its parent":   {func(r *Repository, _ *Run) error { return r.Expire(t.Context(), parent, Expired{}) }, ErrExpired},
		"the run":      {func(r *Repository, u *Run) error { return r.RemoveRun(t.Context(), u.ID, u.Run) }, ErrExpired},
		"half the run": {func(r *Repository, u *Run) error { return r.remove(t.Context(), r.keys.run(u.ID, u.Run, startedName)) }, ErrExpired},
		"its tombstone": {func(r *Repository, u *Run) error {
			return errors.Join(r.Expire(t.Context(), u.ID, Expired{}), r.Unexpire(t.Context(), u.ID))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.New()
			r := testRepository(store, codec.Zstd)
			run, err := r.StartRun(t.Context(), Started{ID: testID, Parent: parent, Timeline: 1, StartLSN: 100, At: testTime})
			if err != nil {
				t.Fatal(err)
			}
			pack, err := run.NewPack(t.Context(), PackName(0, 1))
			if err == nil {
				err = pack.Directory(Entry{Path: "base", Mode: 0o700, Modified: testTime})
			}
			if err != nil {
				t.Fatal(err)
			}
			contents, info, err := pack.Close()
			if err != nil {
				t.Fatal(err)
			}
			// Expiry comes between the comparison of the packs and the manifest.
			late := testRepository(faulty.New(store, func(call faulty.Call) (f faulty.Fault) {
				if call.Op == "put" && strings.HasSuffix(string(call.Key), "/"+manifestName) {
					f.Before = c.expire(r, run)
				}
				return f
			}), codec.Zstd)
			run.repository = late
			m := testManifest(info)
			m.Type, m.Parent = Incremental, parent
			_, err = run.Commit(t.Context(), m, Index{Packs: []Pack{contents}}, []byte("{}"))
			_, there := r.Manifest(t.Context(), testID)
			if !errors.Is(err, c.err) || (c.err == nil) != (there == nil) {
				t.Errorf("commit: %v; manifest: %v", err, there)
			}
		})
	}
}

func TestHolds(t *testing.T) {
	r, m := stocked(t, mem.New())
	now := time.Now()
	h := Hold{Backup: m.ID, Name: "court", Reason: "case 7", By: "me", At: now, Until: now.Add(time.Hour)}
	if err := r.Hold(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	h.Reason = "another"
	if err := r.Hold(t.Context(), h); !errors.Is(err, storage.ErrExist) {
		t.Errorf("a second hold of that name: %v", err)
	}
	h.Name = "court-2"
	if err := r.Hold(t.Context(), h); err != nil {
		t.Error(err)
	}
	for _, bad := range []Hold{{Backup: m.ID, Name: "a/b"}, {Backup: m.ID, Name: ""}, {Backup: m.ID, Name: strings.Repeat("a", 64)}, {Backup: "x", Name: "a"}} {
		if err := r.Hold(t.Context(), bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if err := r.Hold(t.Context(), Hold{Backup: "20200101T000000Z-nightly", Name: "a"}); !errors.Is(err, ErrNoBackup) {
		t.Errorf("hold of nothing: %v", err)
	}
	found, err := r.Holds(t.Context())
	if err != nil || len(found) != 2 || found[0].Reason != "case 7" || !found[0].Active(now) || found[0].Active(now.Add(time.Hour)) {
		t.Errorf("%+v %v", found, err)
	}
	if err := r.Release(t.Context(), m.ID, "court"); err != nil {
		t.Error(err)
	}
	if found, err = r.Holds(t.Context()); err != nil || len(found) != 1 {
		t.Errorf("%+v %v", found, err)
	}
	// A hold that nobody can read, or that lies about its place, stops whoever wants to remove.
	for _, text := range []string{"{", `{"format":1,"backup":"` + string(m.ID) + `","name":"other"}`, `{"format":2}`} {
		if err := r.bucket.Put(t.Context(), r.keys.hold(m.ID, "bad"), []byte(text), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Inventory(t.Context()); err == nil {
			t.Errorf("%s was read", text)
		}
	}
}

// A restore's hold ends with it, and is no condition.
func TestHoldForRestore(t *testing.T) {
	store := mem.New()
	r, m := stocked(t, store)
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	release := r.HoldForRestore(t.Context(), m.ID, "me", log)
	holds, err := r.Holds(t.Context())
	if err != nil || len(holds) != 1 || !holds[0].Active(time.Now().Add(71*time.Hour)) || !holds[0].Restore {
		t.Fatalf("%+v %v", holds, err)
	}
	release()
	if holds, err := r.Holds(t.Context()); err != nil || len(holds) != 0 || text.Len() > 0 {
		t.Errorf("%+v %v, log: %s", holds, err, text.String())
	}
	denied := New(faulty.New(store, faulty.On("put", faulty.From(1, storage.ErrDenied))), r.at, Options{})
	denied.HoldForRestore(t.Context(), m.ID, "me", log)()
	if !strings.Contains(text.String(), "does not know of this restore") {
		t.Errorf("log: %s", text.String())
	}
}

func TestInventory(t *testing.T) {
	r, m := stocked(t, mem.New())
	for key, text := range map[string]string{"backup/note.txt": "x", "backup/" + string(m.ID) + "/.tmp/x": "x", "backup/20261121T030000Z-x/0a0b0c0d/base-0001.tar": "12345"} {
		if err := r.bucket.Put(t.Context(), r.keys.key(key), []byte(text), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Expire(t.Context(), m.ID, Expired{Reason: "old", By: "me"}); err != nil {
		t.Fatal(err)
	}
	found, err := r.Inventory(t.Context())
	if err != nil || len(found.Backups) != 2 {
		t.Fatalf("%+v %v", found, err)
	}
	b, other := found.Backups[0], found.Backups[1]
	if b.Manifest == nil || b.Expired == nil || b.Expired.Reason != "old" || b.Expired.Stored.IsZero() || len(b.Runs) != 1 || b.Runs[0].Started == nil || len(b.Unfinished()) != 0 {
		t.Errorf("%+v", b)
	}
	if other.Manifest != nil || len(other.Unfinished()) != 1 || other.Runs[0].Size != 5 || other.Runs[0].Started != nil {
		t.Errorf("%+v", other)
	}
	if visible, broken, err := r.ReadableBackups(t.Context()); err != nil || len(visible)+len(broken) != 0 {
		t.Errorf("%v %v %v", visible, broken, err)
	}
	a, err := r.Archive(t.Context())
	if fault, err2 := r.Fault(t.Context(), b, a); err != nil || err2 != nil || fault != "" {
		t.Errorf("%q %v %v", fault, err, err2)
	}
	spoil(t, r.bucket, r.keys.run(m.ID, m.Run, "base-0001.tar"), func(b []byte) []byte { return b[1:] })
	if found, err = r.Inventory(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fault, err := r.Fault(t.Context(), found.Backups[0], a); err != nil || !strings.HasSuffix(fault, "base-0001.tar has another size") {
		t.Errorf("%q %v", fault, err)
	}
	spoil(t, r.bucket, r.keys.run(m.ID, m.Run, "base-0001.tar"), nil)
	if found, err = r.Inventory(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fault, err := r.Fault(t.Context(), found.Backups[0], a); err != nil || !strings.HasSuffix(fault, "base-0001.tar is missing") {
		t.Errorf("%q %v", fault, err)
	}
	if clock, err := r.Clock(t.Context()); err != nil || time.Since(clock).Abs() > time.Minute {
		t.Errorf("%s %v", clock, err)
	}
	if _, err := r.listTwice(t.Context(), r.keys.key("report")); err != nil || slices.ContainsFunc(keysOf(t, r), func(k string) bool { return strings.Contains(k, "report") }) {
		t.Error("asking for the time left something", err)
	}
}

func keysOf(t *testing.T, r *Repository) (keys []string) {
	t.Helper()
	for o, err := range r.bucket.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(o.Key))
	}
	return keys
}

// Of a timeline that goes, segments, partials, labels and their conflicts go, histories
// and what contradicts them stay.
func TestRemoveWAL(t *testing.T) {
	r := walRepository(mem.New())
	for _, name := range []string{"000000010000000000000001", "000000010000000000000002", "000000010000000000000002.partial", "000000010000000000000002.00000028.backup",
		"000000010000000100000001", "000000020000000000000002", "00000002.history", "00000003.history"} {
		for _, content := range []string{"one", "two"} {
			file := segmentFile(t, name)
			_, err := r.PutWAL(t.Context(), file, []byte(content), nil)
			if _, conflict := errors.AsType[*ConflictError](err); err != nil && !conflict {
				t.Fatal(err)
			}
		}
	}
	if err := r.bucket.Put(t.Context(), r.keys.key("wal", "00000001", "00000000", "000000020000000000000002"), []byte("not ours"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	n, err := r.RemoveWAL(t.Context(), []postgres.TimelineID{1, 2}, func(s postgres.Segment) bool { return s.Timeline == 2 || s.Log == 0 && s.Seg == 2 })
	if err != nil || n != 8 {
		t.Errorf("%d objects, %v", n, err)
	}
	var left []string
	for _, key := range keysOf(t, r) {
		parts := strings.Split(key, "/")
		if left = append(left, parts[2]+" "+parts[len(parts)-1]); parts[2] == "conflict" {
			left[len(left)-1] = parts[2] + " " + parts[3]
		}
	}
	slices.Sort(left)
	want := []string{"conflict 00000002.history", "conflict 00000003.history", "conflict 000000010000000000000001", "conflict 000000010000000100000001",
		"wal 00000002.history", "wal 00000003.history", "wal 000000010000000000000001", "wal 000000010000000100000001", "wal 000000020000000000000002"}
	if slices.Sort(want); !slices.Equal(left, want) {
		t.Errorf("left %q", left)
	}
}
