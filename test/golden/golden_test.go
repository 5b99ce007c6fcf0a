package golden_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// formats calls the test for every golden repository.
func formats(t *testing.T, test func(t *testing.T, dir string, e expectations)) {
	if *makeNew != "" {
		return
	}
	found, err := filepath.Glob("format-*")
	if err != nil || len(found) == 0 {
		t.Fatalf("no golden repository here: %v", err)
	}
	for _, dir := range found {
		t.Run(dir, func(t *testing.T) {
			content, err := os.ReadFile(filepath.Join(dir, "expected.json"))
			var e expectations
			if err == nil {
				err = json.Unmarshal(content, &e)
			}
			if err != nil {
				t.Fatal(err)
			}
			test(t, filepath.Join(dir, "repository"), e)
		})
	}
}

// TestDecode reads every object, and knows what each one is.
func TestDecode(t *testing.T) {
	formats(t, func(t *testing.T, dir string, e expectations) {
		r := catalog.New(file.New(dir), catalog.Location{Scope: scope, System: e.System}, catalog.Options{})
		m, err := r.Manifest(t.Context(), e.Backup)
		if err != nil {
			t.Fatal(err)
		}
		if m.StartLSN != e.StartLSN || m.StopLSN != e.StopLSN || m.Type != catalog.Full || len(m.Tablespaces) != 1 || m.Tablespaces[0].Path != e.Tablespace {
			t.Errorf("the manifest is another one: %+v", m)
		}
		b, err := r.Open(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for key, path := range objects(t, dir) {
			kind, err := decode(t, r, b, strings.TrimPrefix(key, r.Root()+"/"), path)
			if err != nil {
				t.Errorf("%s: %v", key, err)
			}
			seen[kind]++
		}
		t.Log(seen)
		for _, kind := range []string{"repository", "manifest", "started", "index", "backup_manifest", "pack of base", "pack of a tablespace",
			"segment", "partial", "history", "backup history"} {
			if seen[kind] == 0 {
				t.Errorf("the repository has no %s", kind)
			}
		}
	})
}

// decode reads one object by what its key says it is.
func decode(t *testing.T, r *catalog.Repository, b *catalog.Backup, key, file string) (string, error) {
	run := fmt.Sprintf("backup/%s/%s/", b.Manifest.ID, b.Manifest.Run)
	name := path.Base(key)
	switch {
	case key == "repository.json":
		info, err := r.Info(t.Context())
		if err == nil && (info.Scope != scope || info.SegmentSize != 1<<20) {
			err = fmt.Errorf("%+v", info)
		}
		return "repository", err
	case strings.HasPrefix(key, "wal/"):
		return decodeWAL(t, r, name)
	case key == fmt.Sprintf("backup/%s/manifest.json", b.Manifest.ID):
		return "manifest", nil
	case key == run+"started":
		var s catalog.Started
		content, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(content, &s)
		}
		if err == nil && (s.ID != b.Manifest.ID || s.Run != b.Manifest.Run || s.StartLSN != b.Manifest.StartLSN) {
			err = fmt.Errorf("%+v", s)
		}
		return "started", err
	case key == run+"index":
		return "index", nil
	case key == run+"backup_manifest":
		content, err := b.BackupManifest(t.Context())
		if err != nil {
			return "", err
		}
		parsed, err := postgres.ParseBackupManifest(content)
		if err == nil && (parsed.Version != 1 || len(parsed.Files) == 0) {
			err = fmt.Errorf("version %d, %d files", parsed.Version, len(parsed.Files))
		}
		return "backup_manifest", err
	case strings.HasPrefix(key, run):
		kind := "pack of a tablespace"
		if strings.HasPrefix(name, "base-") {
			kind = "pack of base"
		}
		return kind, readPack(t, b, name)
	}
	return "", errors.New("an object that nobody knows")
}

func decodeWAL(t *testing.T, r *catalog.Repository, name string) (string, error) {
	wal, err := postgres.ParseWALFile(name)
	if err != nil {
		return "", err
	}
	var plain bytes.Buffer
	object, err := r.GetWAL(t.Context(), wal, &plain)
	if err != nil {
		return "", err
	}
	switch wal.Kind {
	case postgres.WALHistory:
		history, err := postgres.ParseTimelineHistory(wal.Segment.Timeline, plain.Bytes())
		if err == nil && len(history.Entries) != 1 {
			err = fmt.Errorf("%+v", history)
		}
		return "history", err
	case postgres.WALBackupHistory:
		_, err := postgres.ParseBackupLabel(plain.String())
		return "backup history", err
	}
	kind := map[postgres.WALKind]string{postgres.WALSegment: "segment", postgres.WALPartial: "partial"}[wal.Kind]
	facts, err := postgres.ScanSegment(wal, plain.Bytes())
	if err != nil {
		return kind, err
	}
	// The facts were kept without the reason of their end, and by the first versions
	// without how the segment joins its neighbours.
	facts.Stop = ""
	if object.Facts.FirstPrev == 0 {
		facts.FirstPrev, facts.Continues, facts.Overwrites = 0, 0, false
		if facts.Open != nil {
			facts.Open.Left = 0
		}
	}
	now, _ := json.Marshal(facts)
	then, _ := json.Marshal(object.Facts)
	if !bytes.Equal(now, then) {
		err = fmt.Errorf("it is read as %s now, as %s then", now, then)
	}
	return kind, err
}

func readPack(t *testing.T, b *catalog.Backup, name string) error {
	for i, pack := range b.Manifest.Packs {
		if pack.Name != name {
			continue
		}
		reader, err := b.OpenPack(t.Context(), i)
		if err != nil {
			return err
		}
		defer func() { _ = reader.Close() }()
		for {
			if _, err = reader.Next(); errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				_, err = io.Copy(io.Discard, reader)
			}
			if err != nil {
				return err
			}
		}
	}
	return errors.New("a pack that the manifest does not name")
}

// TestRestore uses a copy of every golden repository as a person would.
func TestRestore(t *testing.T) {
	formats(t, func(t *testing.T, dir string, e expectations) {
		run := lab.RunOf(t)
		copied := run.Path("repository")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		run.Must("root", "chown", "-R", lab.User1+":", copied)
		w := newWorld(t, copied, "")
		before := sums(t, copied)
		if out := w.must("list"); !strings.Contains(out, string(e.Backup)) || !strings.Contains(out, "| ok") {
			t.Errorf("list: %s", out)
		}
		if out := w.must("show", "latest"); !strings.Contains(out, string(e.Backup)) || !strings.Contains(out, e.StartLSN.String()) {
			t.Errorf("show: %s", out)
		}
		w.must("status")
		w.must("wal", "list")
		w.must("verify", "--level", "presence")
		w.must("verify", "--level", "hashes")
		t.Log(strings.TrimSpace(w.must("verify", "--level", "full")))
		for i, target := range e.Targets {
			w.restore(i, e, target)
		}
		if after := sums(t, copied); !maps.Equal(before, after) {
			t.Error("reading the repository has changed it")
		}
	})
}

// restore comes back to a target on a real server and compares.
func (w *world) restore(n int, e expectations, to target) {
	w.Helper()
	home := w.run.Mkdir(lab.User1, 0o700, fmt.Sprintf("restored-%d", n))
	pgdata := filepath.Join(home, "data")
	args := append([]string{"restore", "--format", "json", "--start", "--pgdata", pgdata, "--backup", string(e.Backup),
		"--tablespace-mapping", e.Tablespace + "=" + filepath.Join(home, "aside")}, to.Flags...)
	var said struct {
		Recovered struct {
			LSN      postgres.LSN        `json:"lsn"`
			Timeline postgres.TimelineID `json:"timeline"`
		} `json:"recovered"`
	}
	if err := json.Unmarshal([]byte(w.must(args...)), &said); err != nil {
		w.Fatal(err)
	}
	if said.Recovered.LSN != to.LSN || said.Recovered.Timeline != to.Timeline {
		w.Errorf("%v: recovered to %s on timeline %s, want %s on %s", to.Flags, said.Recovered.LSN, said.Recovered.Timeline, to.LSN, to.Timeline)
	}
	dsn := "host=" + pgdata + " port=5432 user=postgres dbname=postgres"
	if got := marks(w.T, dsn); got != to.Marks {
		w.Errorf("%v: the copy holds %q, want %q", to.Flags, got, to.Marks)
	}
	var rows, volatile int
	lab.QueryRow(w, dsn, "select (select count(*) from elsewhere), (select count(*) from volatile)", &rows, &volatile)
	if rows != 1000 || volatile != 0 {
		w.Errorf("%v: %d rows in the tablespace and %d unlogged ones, want 1000 and none", to.Flags, rows, volatile)
	}
	bin := lab.BinDir(w, e.Major)
	w.run.Must(lab.User1, filepath.Join(bin, "pg_ctl"), "stop", "-m", "fast", "-D", pgdata)
	w.run.Must(lab.User1, filepath.Join(bin, "pg_checksums"), "--check", "-D", pgdata)
}

// sums hashes every object of a repository.
func sums(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	all := map[string][sha256.Size]byte{}
	for key, path := range objects(t, dir) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[key] = sha256.Sum256(content)
	}
	return all
}
