package living

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever postmaster.pid says, only a process that may be a server is one, and none is
// that of everybody.
func FuzzPostmaster(f *testing.F) {
	for _, seed := range []string{"1\n/data\n1763690000\n5432\n/tmp\n*\n", "-1\n", "0\n", "-9223372036854775808\n", "99999999999999999999\n", "\x00", "4194304999\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if pid := Postmaster("/proc", dir); pid < 0 {
			t.Errorf("%q is process %d", text, pid)
		}
	})
}

// A path is resolved to where it would be made, in circles too.
func TestResolve(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"there": ".", "absent": "new/data", "absolute": filepath.Join(dir, "new"), "twice": "absent", "a": "b", "b": "a", "up": "../" + filepath.Base(dir) + "/new"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"there/x": "x", "absent": "new/data", "absent/x": "new/data/x", "absolute/x": "new/x", "twice/x": "new/data/x", "up": "new", "none/x": "none/x"} {
		if got := Resolve(filepath.Join(dir, path)); got != filepath.Join(dir, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := Resolve(filepath.Join(dir, "a", "x")); !strings.HasPrefix(got, dir+"/") {
		t.Errorf("a circle: %s", got)
	}
}
