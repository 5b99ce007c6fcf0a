package restore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// recoveredControl is the pg_control of a copy that was promoted to a timeline, went
// on to a position and was stopped.
func recoveredControl(state postgres.ControlState, timeline uint32, lsn postgres.LSN) string {
	b := fakeControl(testSystem)
	le := binary.LittleEndian
	le.PutUint32(b[16:], uint32(state))
	le.PutUint64(b[32:], uint64(lsn)) // checkPoint
	le.PutUint64(b[40:], uint64(lsn)) // its redo
	le.PutUint32(b[48:], timeline)
	le.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

func newStage(t *testing.T, state postgres.ControlState) *Stage {
	t.Helper()
	s, err := OpenStage(t.Context(), filepath.Join(t.TempDir(), "data"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for name, text := range map[string]string{
		controlFile: recoveredControl(state, 2, 0x5000028), "PG_VERSION": "15\n", "base/1/1259": "page", "zzz": "last by name",
		autoConfFile:                      "work_mem = '8MB'\n" + autoConfMark + "archive_mode = 'off'\nrestore_command = 'get'\n",
		"postgresql.conf":                 "shared_buffers = 1GB\n",
		catalog.OriginFile:                "{}",
		LogFile:                           "log",
		hbaFile:                           "local all all trust",
		"postmaster.opts":                 "postgres -D",
		manifestFile:                      "{}",
		"standby.signal":                  "",
		recoverySignal:                    "",
		"patroni.dynamic.json":            "{}",
		"pg_hba.conf.backup":              "kept",
		"pg_wal/000000010000000000000003": "the source's",
		"pg_wal/archive_status/000000010000000000000003.done": "",
		"pg_wal/000000020000000000000003":                     "with the fork",
		"pg_wal/000000020000000000000004":                     "whole",
		"pg_wal/000000020000000000000005":                     "being written",
		"pg_wal/000000020000000000000006":                     "not yet",
		"pg_wal/00000002.history":                             "1\t0/3000100\tbefore",
	} {
		put(t, text, s.PGDATA, name)
	}
	return s
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestSettle(t *testing.T) {
	s := newStage(t, postgres.StateShutDown)
	if err := os.Chmod(s.PGDATA, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(2, false); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s.DataDir); got != "PG_VERSION base global pg_hba.conf.backup pg_wal pgha.origin.json postgresql.auto.conf postgresql.conf zzz" {
		t.Errorf("the new cluster holds %s", got)
	}
	if got := names(t, filepath.Join(s.DataDir, "pg_wal/archive_status")); got != "000000010000000000000003.done 00000002.history.ready 000000020000000000000003.ready 000000020000000000000004.ready" {
		t.Errorf("marks: %s", got)
	}
	if got := read(t, s.DataDir, autoConfFile); got != "work_mem = '8MB'\n" {
		t.Errorf("%s: %s", autoConfFile, got)
	}
	if info, err := os.Stat(s.DataDir); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestSettleKeepsSubscriptionsQuiet(t *testing.T) {
	s := newStage(t, postgres.StateShutDown)
	if err := s.Settle(2, true); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.DataDir, autoConfFile); !strings.HasPrefix(got, "work_mem = '8MB'\nmax_logical_replication_workers = 0 #") {
		t.Errorf("%s: %s", autoConfFile, got)
	}
}

// Only what was recovered, stopped in peace and is on its timeline becomes a cluster.
func TestSettleRefuses(t *testing.T) {
	for _, state := range []postgres.ControlState{postgres.StateInProduction, postgres.StateShutDownInRecovery, postgres.StateShutDown} {
		s := newStage(t, state)
		var wrong *VerificationError
		if err := s.Settle(3, false); !errors.As(err, &wrong) || names(t, s.DataDir) != stageName {
			t.Errorf("%s: %v, and there is %s", state, err, names(t, s.DataDir))
		}
	}
}

// Wherever the move up ends early, there is no pg_control to start from.
func TestSettleInterrupted(t *testing.T) {
	for _, name := range []string{"PG_VERSION", "base", "pg_wal", "zzz"} {
		s := newStage(t, postgres.StateShutDown)
		put(t, "in the way", s.DataDir, name, "file")
		if err := s.Settle(2, false); err == nil {
			t.Errorf("%s: moved over what was in the way", name)
		}
		if exists(s.DataDir, controlFile) {
			t.Errorf("%s is not in its place and pg_control is", name)
		}
	}
}

func TestOpenStage(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	dir := filepath.Join(t.TempDir(), "data")
	first, err := OpenStage(t.Context(), dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStage(t.Context(), dir, quiet); err == nil || err.Error() != "another bootstrap into "+dir+" is under way" {
		t.Errorf("a second one at the same time: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, "", dir, "lost+found", "x")
	put(t, "", dir, ".snapshot")
	put(t, "half a restore", dir, stageName, "base/1/1259")
	second, err := OpenStage(t.Context(), dir, quiet)
	if err != nil {
		t.Fatalf("what counts for empty: %v", err)
	}
	if _, err := os.Lstat(second.PGDATA); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest of an interrupted one: %v", err)
	}
	put(t, recoveredControl(postgres.StateInProduction, 2, 0x5000028), second.PGDATA, controlFile)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := OpenStage(t.Context(), dir, quiet)
	if err != nil || !exists(third.PGDATA, controlFile) {
		t.Fatalf("a stopped copy is for Check to judge: %v", err)
	}
	_ = third.Close()
	put(t, "15\n", dir, "PG_VERSION")
	if _, err := OpenStage(t.Context(), dir, quiet); err == nil || err.Error() != dir+" is not empty: it holds PG_VERSION" {
		t.Errorf("over a cluster: %v", err)
	}
}

// A restore that was under way when Check looked, and has ended since, is no
// interrupted one: its cluster may run by now.
func TestInterruptedNoMore(t *testing.T) {
	dir := t.TempDir()
	if err := (marker{Format: markerFormat, PGDATA: dir}).write(dir); err != nil {
		t.Fatal(err)
	}
	ground := Ground{PGDATA: dir, State: Interrupted}
	lock, err := lockGround(ground)
	if err != nil {
		t.Fatal(err)
	}
	_ = lock.Close()
	if err := os.Remove(filepath.Join(dir, MarkerFile)); err != nil {
		t.Fatal(err)
	}
	if lock, err := lockGround(ground); err == nil || !strings.Contains(err.Error(), "is no interrupted restore any more") {
		t.Errorf("lock: %v", err)
		_ = lock.Close()
	}
}
