package hook

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestModeOf(t *testing.T) {
	for _, c := range []struct {
		signals string
		dest    string
		want    Mode
	}{
		{"", "pg_wal/RECOVERYXLOG", Recovery}, // called from elsewhere: it cannot be told
		{"PG_VERSION", "pg_wal/RECOVERYXLOG", Promotion},
		{"PG_VERSION", "pg_wal/RECOVERYHISTORY", Promotion},
		{"", "pg_wal/000000010000000000000001", Rewind},
		{"recovery.signal", "pg_wal/RECOVERYXLOG", Recovery},
		{"recovery.signal", "elsewhere", Recovery},
		{"standby.signal", "pg_wal/RECOVERYXLOG", Standby},
		{"standby.signal", "pg_wal/000000010000000000000001", Rewind},
		{"recovery.signal standby.signal", "pg_wal/RECOVERYXLOG", Standby},
	} {
		dir := t.TempDir()
		for _, name := range strings.Fields(c.signals) {
			touch(t, filepath.Join(dir, name))
		}
		if got := ModeOf(dir, c.dest); got != c.want {
			t.Errorf("%q %s: %s, want %s", c.signals, c.dest, got, c.want)
		}
	}
}

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	touch(t, filepath.Join(dir, "PG_VERSION"))
	t.Chdir(dir)
	for path, want := range map[string]string{
		"pg_wal/RECOVERYXLOG":                    ".",
		filepath.Join(dir, "pg_wal", "X"):        dir,
		filepath.Join(dir, "pg_wal", "sub", "X"): dir,
		"/elsewhere/pg_wal/X":                    ".",
		"../" + filepath.Base(dir) + "/pg_wal/X": "../" + filepath.Base(dir),
	} {
		if got := DataDir(path, "/configured"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	t.Chdir(t.TempDir())
	if got := DataDir("/elsewhere/pg_wal/X", dir); got != dir {
		t.Errorf("configured: %q", got)
	}
	if got := DataDir("X", ""); got != "" {
		t.Errorf("none: %q", got)
	}
}
