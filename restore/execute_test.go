package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

func spaceContent() content { return content{"PG_15_202209061/5/16401": "tablespace page"} }

func TestExecute(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent(), 16400: spaceContent()}))
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range baseContent() {
		switch name {
		case "pg_notify/", "tablespace_map", "standby.signal", autoConfFile:
		default:
			if got := read(t, s.pgdata, name); got != want {
				t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
			}
		}
	}
	for _, name := range []string{"tablespace_map", "standby.signal", MarkerFile, "pg_wal/RECOVERYXLOG", "global/pg_control.pgha-restore"} {
		if exists(s.pgdata, name) {
			t.Errorf("%s was left behind", name)
		}
	}
	for _, name := range []string{"pg_notify", "pg_wal/archive_status", "recovery.signal", catalog.OriginFile} {
		if !exists(s.pgdata, name) {
			t.Errorf("%s is missing", name)
		}
	}
	if got := read(t, s.pgdata, "pg_tblspc/16400/PG_15_202209061/5/16401"); got != "tablespace page" {
		t.Errorf("through the link: %q", got)
	}
	if to, _ := os.Readlink(filepath.Join(s.pgdata, "pg_tblspc/16400")); to != s.plan.Tablespaces[0].To {
		t.Errorf("link leads to %q", to)
	}
	conf := read(t, s.pgdata, autoConfFile)
	for _, line := range []string{"work_mem = '8MB'\n", "primary_conninfo = ''\n", "recovery_target_lsn = '0/2000200'\n",
		"recovery_target_timeline = '1'\n", "archive_mode = 'off'\n", "max_connections = '100'\n"} {
		if !strings.Contains(conf, line) {
			t.Errorf("no %q in\n%s", line, conf)
		}
	}
	manifest, err := postgres.ParseBackupManifest([]byte(read(t, s.pgdata, "backup_manifest")))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range manifest.Files {
		if data := read(t, s.pgdata, f.Path); int64(len(data)) != f.Size || postgres.CRC32C([]byte(data)) != f.CRC32C {
			t.Errorf("backup_manifest lies about %s", f.Path)
		}
	}
	walked := filepath.WalkDir(s.pgdata, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
		return nil
	})
	if walked != nil {
		t.Error(walked)
	}
}

func TestExecuteGroupAccess(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent()}))
	s.plan.Backup.Settings.GroupAccess = true
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"": 0o750, "base": 0o750, "base/1/1259": 0o640, "global/pg_control": 0o640} {
		if info, err := os.Stat(filepath.Join(s.pgdata, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}
}

// With every call to the store failing in turn, the directory is never startable,
// and the same restore run again succeeds.
func TestExecuteEveryFault(t *testing.T) {
	bucket := mem.New()
	m := makeBackup(t, bucket, map[uint32]content{0: baseContent(), 16400: spaceContent()})
	for n := 1; ; n++ {
		s := newScene(t, m)
		broken := faulty.New(bucket, faulty.Nth(n, faulty.ErrInjected))
		if n%2 == 0 {
			broken.Set(func(c faulty.Call) faulty.Fault {
				if c.N != n {
					return faulty.Fault{}
				}
				return faulty.Cut(20)
			})
		}
		err := s.restore(t.Context(), broken, false)
		if err == nil {
			if n < 10 {
				t.Fatalf("only %d calls were made", n-1)
			}
			return
		}
		if exists(s.pgdata, controlFile) {
			t.Fatalf("call %d failed and there is a pg_control: %v", n, err)
		}
		if err := s.restore(t.Context(), bucket, false); err != nil {
			t.Fatalf("after a failure of call %d: %v", n, err)
		}
		if !exists(s.pgdata, controlFile) || exists(s.pgdata, MarkerFile) {
			t.Fatalf("after a failure of call %d the second restore is not whole", n)
		}
	}
}

// A bit that turned over in any object is found, and the directory not startable. One that
// turned over on its way is read again.
func TestExecuteEveryFlip(t *testing.T) {
	bucket := mem.New()
	m := makeBackup(t, bucket, map[uint32]content{0: baseContent()})
	for i := range m.Packs {
		s := newScene(t, m)
		key := storage.Key("demo/" + testSystem.String() + "/backup/" + string(m.ID) + "/" + string(m.Run) + "/" + m.Packs[i].Name)
		whole, err := storage.ReadAll(t.Context(), bucket, key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(whole)
		flipped[len(whole)/2] ^= 1
		put := func(body []byte) {
			if err := bucket.Put(t.Context(), key, body, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		put(flipped)
		if err := s.restore(t.Context(), bucket, false); !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("pack %d: %v", i, err)
		}
		if exists(s.pgdata, controlFile) {
			t.Errorf("pack %d: there is a pg_control", i)
		}
		put(whole)
		n := 0
		broken := faulty.New(bucket, faulty.On("get", func(faulty.Call) faulty.Fault {
			n++
			if n == i+2 { // the first get is the index
				return faulty.Flip(m.Packs[i].Size / 2)
			}
			return faulty.Fault{}
		}))
		s.options.Workers = 1
		if err := s.restore(t.Context(), broken, false); err != nil || !exists(s.pgdata, controlFile) {
			t.Errorf("pack %d, flipped on its way: %v", i, err)
		}
	}
}

func TestExecuteRefusesAnotherBackupsFiles(t *testing.T) {
	for name, change := range map[string]func(content){
		"no pg_control":      func(c content) { delete(c, controlFile) },
		"foreign pg_control": func(c content) { c[controlFile] = string(fakeControl(testSystem + 1)) },
		"torn pg_control":    func(c content) { c[controlFile] = strings.Repeat("x", 8192) },
		"long pg_control":    func(c content) { c[controlFile] += "x" },
		"no label":           func(c content) { delete(c, labelFile) },
		"another label":      func(c content) { c[labelFile] = strings.ReplaceAll(fakeLabel, "0/2000028", "0/2000030") },
		"a file as pg_wal":   func(c content) { c["pg_wal"] = "x" },
		"incremental file":   func(c content) { c["base/1/INCREMENTAL.1"] = "x" },
	} {
		bucket := mem.New()
		volume := baseContent()
		change(volume)
		s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: volume}))
		if err := s.restore(t.Context(), bucket, false); err == nil || exists(s.pgdata, controlFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Links that somebody plants in the target lead nowhere outside of it.
func TestExecutePlantedLinks(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent()}))
	outside := t.TempDir()
	put(t, "precious", outside, "1", "1259")
	ground, err := Check(s.plan, s.pgdata, false)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(s.pgdata, "base")
	options, once := s.options, sync.Once{}
	options.Progress = func(int64, int64) {
		once.Do(func() {
			if err := errors.Join(os.Rename(base, base+"-moved"), os.Symlink(outside, base)); err != nil {
				t.Error(err)
			}
		})
	}
	if err := Execute(t.Context(), repositoryIn(bucket), s.plan, ground, options); err == nil {
		t.Error("a link in the target was accepted")
	}
	if got := read(t, outside, "1", "1259"); got != "precious" {
		t.Errorf("outside: %q", got)
	}
	// The next run empties the directory; the link goes, what it led to stays.
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	if got := read(t, outside, "1", "1259"); got != "precious" {
		t.Errorf("outside: %q", got)
	}
}

func TestExecuteReplaces(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent(), 16400: spaceContent()}))
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.pgdata, labelFile)); err != nil { // as the first start does
		t.Fatal(err)
	}
	space := s.plan.Tablespaces[0].To
	put(t, "old", s.pgdata, "base/1/2000")
	put(t, "old", space, "PG_15_202209061/5/2000")
	put(t, "another major version", space, "PG_14_202107181/5/2000")
	if err := s.restore(t.Context(), bucket, false); err == nil {
		t.Fatal("a cluster was replaced without force")
	}
	if !exists(s.pgdata, "base/1/2000") {
		t.Fatal("a refusal changed something")
	}
	// An old tablespace that is not in the plan any more is emptied with the rest.
	if err := s.restore(t.Context(), bucket, true); err != nil {
		t.Fatal(err)
	}
	if exists(s.pgdata, "base/1/2000") || exists(space, "PG_15_202209061/5/2000") {
		t.Error("files of the old cluster are left")
	}
	if !exists(space, "PG_14_202107181/5/2000") {
		t.Error("another version's files are gone")
	}
}

// The link pg_wal of a cluster that is replaced stays, through an interruption too, and
// what a server put where it leads goes. A link that is none of the cluster's goes itself.
func TestExecuteKeepsLinkedWAL(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent()}))
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	link, wal, other := filepath.Join(s.pgdata, "pg_wal"), filepath.Join(t.TempDir(), "w a l"), t.TempDir()
	lead := func(to string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(link), os.Symlink(to, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(s.pgdata, labelFile)); err != nil {
		t.Fatal(err)
	}
	lead(wal)
	if err := s.restore(t.Context(), bucket, true); err == nil || !strings.Contains(err.Error(), "leads nowhere") {
		t.Errorf("with a WAL directory that is gone: %v", err)
	}
	foreign := binary.LittleEndian.AppendUint16(nil, 0xD110) // of PostgreSQL 15, with the flag of a segment's first page
	foreign = binary.LittleEndian.AppendUint16(foreign, 2)
	foreign = binary.LittleEndian.AppendUint32(foreign, 1)
	foreign = append(foreign, make([]byte, 16)...)
	foreign = binary.LittleEndian.AppendUint64(foreign, uint64(testSystem+1))
	foreign = binary.LittleEndian.AppendUint32(foreign, 16<<20)
	foreign = binary.LittleEndian.AppendUint32(foreign, 8192)
	theirs := filepath.Join(wal, "000000010000000000000000")
	put(t, string(foreign), theirs)
	if err := s.restore(t.Context(), bucket, true); err == nil || !strings.Contains(err.Error(), "WAL of another cluster") || !exists(theirs) {
		t.Errorf("over the WAL of a stopped neighbour: %v", err)
	}
	if err := os.RemoveAll(wal); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"000000010000000000000001", "00000002.history", "archive_status/00000002.history.ready", "xlogtemp.7", "lost+found/x"} {
		put(t, "old", wal, name)
		put(t, "old", other, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.restore(ctx, lastGet{bucket, cancel}, true); err == nil {
		t.Fatal("not interrupted")
	}
	if err := s.restore(t.Context(), bucket, true); err != nil {
		t.Fatal(err)
	}
	if to, _ := os.Readlink(link); to != wal {
		t.Errorf("pg_wal leads to %q, want %q", to, wal)
	}
	if left, err := filepath.Glob(wal + "/*"); err != nil || len(left) != 2 || !exists(wal, "archive_status") || !exists(wal, "lost+found", "x") {
		t.Errorf("the WAL directory holds %q, %v", left, err)
	}

	if err := errors.Join(os.Remove(filepath.Join(s.pgdata, controlFile)), (marker{Format: markerFormat, PGDATA: s.pgdata, System: testSystem}).write(s.pgdata)); err != nil {
		t.Fatal(err)
	}
	lead(other)
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Readlink(link); err == nil || !exists(other, "000000010000000000000001") {
		t.Error("a planted link was followed")
	}
}

// lastGet cancels with the first object read: the backup's index.
type lastGet struct {
	storage.Bucket
	cancel func()
}

func (b lastGet) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	body, err := b.Bucket.Get(ctx, key, span)
	b.cancel()
	return body, err
}

// When the replacing ends early, pg_control is the first to be gone.
func TestReplaceRemovesControlFirst(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent()}))
	for name, text := range baseContent() {
		put(t, text, s.pgdata, strings.TrimSuffix(name, "/")+map[bool]string{true: "/x"}[strings.HasSuffix(name, "/")])
	}
	if err := os.Remove(filepath.Join(s.pgdata, labelFile)); err != nil {
		t.Fatal(err)
	}
	ground, err := Check(s.plan, s.pgdata, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := Execute(ctx, repositoryIn(lastGet{bucket, cancel}), s.plan, ground, s.options); err == nil {
		t.Fatal("a cancelled restore succeeded")
	}
	if exists(s.pgdata, controlFile) || !exists(s.pgdata, MarkerFile) || !exists(s.pgdata, "PG_VERSION") {
		t.Error("want no pg_control, a marker, and the rest still there")
	}
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Errorf("run again: %v", err)
	}
}

// A restore that was killed while it wrote its marker is run again, and leaves nothing of the first.
func TestExecuteAfterNoMarker(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent()}))
	left := "." + MarkerFile + ".tmp-1"
	put(t, "{", s.pgdata, left)
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	if exists(s.pgdata, left) || !exists(s.pgdata, controlFile) {
		t.Error("the first one's half of a marker is left")
	}
}

// A second restore would take the first one's half for an interrupted restore.
func TestExecuteIsAlone(t *testing.T) {
	bucket := mem.New()
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: baseContent()}))
	before, err := Check(s.plan, s.pgdata, false)
	if err != nil {
		t.Fatal(err)
	}
	second := s
	var once sync.Once
	s.options.Progress = func(int64, int64) {
		once.Do(func() {
			if err := second.restore(t.Context(), bucket, false); !is[*PreflightError](err) {
				t.Errorf("a second restore beside the first: %v", err)
			}
		})
	}
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatalf("the first restore: %v", err)
	}
	if err := Execute(t.Context(), repositoryIn(bucket), s.plan, before, second.options); !is[*PreflightError](err) {
		t.Errorf("a restore that found the directory empty a while ago: %v", err)
	}
	if exists(s.pgdata, MarkerFile) || !exists(s.pgdata, controlFile) {
		t.Error("the refused restore touched the finished one")
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func TestProbe(t *testing.T) {
	bucket := mem.New()
	m := makeBackup(t, bucket, map[uint32]content{0: baseContent()})
	for name, script := range map[string]string{
		"absent is 0":       "echo x >$2",
		"present is 1":      "exit 1",
		"absent is trouble": "[ $1 = 000000010000000000000002 ] && echo x >$2 || exit 200",
		"says 0 too early":  "[ $1 = 000000010000000000000002 ] || exit 1",
		"wants HOME":        "[ $1 = 000000010000000000000002 ] && echo x >$2 && test -n \"$HOME\"",
	} {
		s := newScene(t, m)
		put(t, script, filepath.Dir(s.pgdata), "get")
		s.options.RestoreCommand = []string{"/bin/sh", filepath.Join(filepath.Dir(s.pgdata), "get"), "%f", "%p"}
		err := s.restore(t.Context(), bucket, false)
		if _, ok := errors.AsType[*VerificationError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		if exists(s.pgdata, controlFile) || exists(s.pgdata, "pg_wal/RECOVERYXLOG") {
			t.Errorf("%s: the directory can be started", name)
		}
	}
}

func TestLeftOutCoversWhatStartLeaves(t *testing.T) {
	for name := range maps.Keys(map[string]bool{LogFile: true, hbaFile: true, "tablespace_map": true, "pg_wal/000000010000000000000001": true}) {
		if !leftOut(name) {
			t.Errorf("%s would be copied", name)
		}
	}
}

// A member has no settings, signals or origin of ours, and the WAL of its first start.
func TestExecuteMember(t *testing.T) {
	bucket := mem.New()
	volume := baseContent()
	volume["postgresql.conf.backup"] = "kept\n"
	volume[patroniCache] = "{}"
	volume[autoConfFile] += "restore_command = 'of another life'\n"
	s := newScene(t, makeBackup(t, bucket, map[uint32]content{0: volume, 16400: spaceContent()}))
	segment := postgres.SegmentAt(1, s.plan.Backup.StartLSN, s.plan.Backup.SegmentSize)
	plain := strings.Repeat("w", int(s.plan.Backup.SegmentSize))
	repository := catalog.New(bucket, catalog.Location{Scope: "demo", System: testSystem}, catalog.Options{})
	for file, text := range map[postgres.WALFile]string{
		{Kind: postgres.WALSegment, Segment: segment}: plain,
		postgres.HistoryFile(2):                       "1\t0/3000000\tno recovery target specified\n",
	} {
		if _, err := repository.PutWAL(t.Context(), file, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	s.plan.WAL, s.plan.Timeline = []postgres.Segment{segment}, 2
	s.options.Member, s.options.RestoreCommand = true, nil
	if err := s.restore(t.Context(), bucket, false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"recovery.signal", "standby.signal", catalog.OriginFile, MarkerFile, "tablespace_map", patroniCache} {
		if exists(s.pgdata, name) {
			t.Errorf("%s in a member", name)
		}
	}
	for name, want := range map[string]string{"postgresql.conf.backup": "kept\n", "pg_wal/" + segment.Name(): plain,
		"pg_wal/archive_status/" + segment.Name() + ".done": "", "pg_wal/00000002.history": "1\t0/3000000\tno recovery target specified\n",
		"backup_label": fakeLabel, autoConfFile: "work_mem = '8MB'\n"} {
		if got := read(t, s.pgdata, name); got != want {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
}
