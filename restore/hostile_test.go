package restore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// What a backup brings along besides the database is neither a signal, nor ours, nor
// anything that is not read whole.
func TestHostileContent(t *testing.T) {
	for name, c := range map[string]struct {
		add  content
		code error
	}{
		"signals that are directories": {add: content{"standby.signal/": "", "recovery.signal/x": "x", "pgha.restore-in-progress/": "", "postmaster.pid/": ""}},
		"pg_control's temporary file":  {add: content{controlTemporary: "x"}},
		"WAL of its own":               {add: content{"pg_wal/000000010000000000000002": "x"}},
		"a huge postgresql.conf":       {add: content{serverConfFile: strings.Repeat("#", 5<<20)}, code: codec.ErrCorrupt},
		"a huge postgresql.auto.conf":  {add: content{autoConfFile: strings.Repeat("#", 5<<20)}, code: codec.ErrCorrupt},
		"a huge label":                 {add: content{labelFile: strings.Repeat("#", 65<<10)}, code: codec.ErrCorrupt},
		"a part of an incremental":     {add: content{"base/1/INCREMENTAL.5": "x"}, code: codec.ErrCorrupt},
	} {
		bucket := mem.New()
		files := baseContent()
		delete(files, "standby.signal")
		for path, text := range c.add {
			files[path] = text
		}
		s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: files}))
		err := s.restore(t.Context(), bucket, false)
		if !errors.Is(err, c.code) || c.code == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
		if exists(s.pgdata, controlFile) != (err == nil) {
			t.Errorf("%s: pg_control is there: %v", name, err != nil)
		}
		for _, left := range []string{"standby.signal", "postmaster.pid", "recovery.signal/x", controlTemporary, "pg_wal/000000010000000000000002"} {
			if exists(s.pgdata, left) {
				t.Errorf("%s: %s was written", name, left)
			}
		}
	}
}

// A link that somebody has put where a file or a directory is to be is not followed.
func TestPlantedLinks(t *testing.T) {
	bucket := mem.New()
	m := makeBackup(t, bucket, map[uint32]content{0: baseContent(), 16400: spaceContent()})
	victim := t.TempDir()
	put(t, "precious", victim, "1259")
	for _, name := range []string{"base", "PG_VERSION", "global/pg_control.pgha-restore", "pg_tblspc", "backup_label"} {
		s := newScene(t, m)
		ground, err := Check(s.plan, s.pgdata, false)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(s.pgdata, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.Symlink(filepath.Join(victim, "1259"), at)); err != nil {
			t.Fatal(err)
		}
		if err := Execute(t.Context(), repositoryIn(bucket), s.plan, ground, s.options); err == nil {
			t.Errorf("%s: restored over a link", name)
		}
		// And behind lockGround's back, as whoever comes in later would.
		ground.State = Interrupted
		put(t, "{}", s.pgdata, MarkerFile)
		if err := Execute(t.Context(), repositoryIn(bucket), s.plan, ground, s.options); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Lstat(at); err == nil && info.Mode()&os.ModeSymlink != 0 {
			t.Errorf("%s is still a link", name)
		}
		if entries, err := os.ReadDir(victim); err != nil || len(entries) != 1 || read(t, victim, "1259") != "precious" {
			t.Errorf("%s: the victim holds %v, %v", name, entries, err)
		}
	}
}

// A tablespace behind a link to what is still to be made is compared with it.
func TestTablespaceBehindALink(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent(), 16400: spaceContent()}))
	way := filepath.Join(t.TempDir(), "way")
	if err := os.Symlink(s.pgdata, way); err != nil {
		t.Fatal(err)
	}
	s.plan.Tablespaces[0].To = filepath.Join(way, "base")
	if _, err := Check(s.plan, s.pgdata, false); err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Error(err)
	}
}

// Where no backup can be read, that is what is said, not that there is none.
func TestNoReadableBackup(t *testing.T) {
	f := Facts{Unreadable: []catalog.Unreadable{{Object: "main/wal/00000002.history", Err: codec.ErrCorrupt}, {Backup: "20261121T020000Z-nightly", Object: "m", Err: catalog.ErrFormat}}}
	if _, err := NewPlan(t.Context(), f, Request{Target: Target{Kind: Latest}}); !errors.Is(err, catalog.ErrFormat) {
		t.Error(err)
	}
	f.Unreadable = f.Unreadable[:1]
	_, err := NewPlan(t.Context(), f, Request{Target: Target{Kind: Latest}})
	if _, absent := errors.AsType[*NotFoundError](err); !absent {
		t.Error(err)
	}
}

func FuzzMarker(f *testing.F) {
	f.Add([]byte(`{"format":1,"pgdata":"/x","system_identifier":"7","tablespaces":["/etc"],"versions":["../x"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, MarkerFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := readMarker(dir)
		if err != nil {
			return
		}
		if m == nil || m.Format != markerFormat {
			t.Fatal(m)
		}
		space := t.TempDir()
		put(t, "mine", space, "mine")
		put(t, "mine", space, "below", "PG_0_0", "mine")
		_ = clearOf(filepath.Join(space, "below"), func(name string) bool { return slices.Contains(m.Versions, name) })
		if read(t, space, "mine") != "mine" {
			t.Error("emptied what is no tablespace")
		}
	})
}

// Whatever configuration a backup brings, what we set holds.
func FuzzAutoConf(f *testing.F) {
	f.Add("work_mem = '8MB'\nRESTORE_COMMAND='rm -rf /'\n", "x'; rm")
	f.Add("restore_command = 'a\\", "b")
	f.Add("'", "")
	f.Fuzz(func(t *testing.T, existing, value string) {
		text := autoConf(existing, []setting{{"restore_command", value}})
		if strings.Contains(value, "\x00") {
			return
		}
		_, ours, found := strings.Cut(text[strings.LastIndex(text, autoConfMark):], "\n")
		if name, got, ok := parseLine(strings.TrimSuffix(ours, "\n")); !found || strings.Count(ours, "\n") != 1 || !ok || name != "restore_command" ||
			got != value && !strings.ContainsAny(value, "\n\r") {
			t.Errorf("%q, %q of %q", name, got, text)
		}
		for line := range strings.Lines(withoutSettings(existing, []setting{{"restore_command", ""}})) {
			if name, _, ok := parseLine(line); ok && name == "restore_command" {
				t.Errorf("%q is left", line)
			}
		}
	})
}
