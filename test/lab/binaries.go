package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Root is the top of the source tree.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod at or above %s", dir)
		}
	}
}

// Build compiles a command of this tree, "pgha-backup" for cmd/pgha-backup, and
// puts it into the run's directory, where every user can run it wherever the
// tree lies. It returns the program's path.
func (r *Run) Build(name string) string {
	r.t.Helper()
	to := r.Path("bin", name)
	if _, err := os.Stat(to); err == nil {
		return to
	}
	root, err := Root()
	if err != nil {
		r.t.Fatalf("lab: %v", err)
	}
	out := filepath.Join(root, ".cache", "lab", name)
	building.Lock() // none is copied while it is written for a test beside
	defer building.Unlock()
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("lab: build %s: %v\n%s", name, err, b)
	}
	return r.bring(out)
}

var building sync.Mutex

// cache is where `make deps` keeps what no package of the host provides.
func cache() string {
	if dir := os.Getenv("PGHA_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/pgha-backup"
}

// tool finds a program that `make deps` installs and brings it into the run's directory.
func (r *Run) tool(name string) string {
	r.t.Helper()
	home, _ := os.UserHomeDir()
	places := []string{filepath.Join(cache(), "bin", name), filepath.Join(home, "go", "bin", name)}
	if p, err := exec.LookPath(name); err == nil {
		places = append(places, p)
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return r.bring(p)
		}
	}
	r.t.Fatalf("lab: %s is not installed: run `make deps` (looked in %v)", name, places)
	return ""
}

// bring copies a program into the run's bin directory: it may lie where only root can enter.
func (r *Run) bring(from string) string {
	r.t.Helper()
	to := r.Path("bin", filepath.Base(from))
	if _, err := os.Stat(to); err == nil {
		return to
	}
	if err := os.MkdirAll(r.Path("bin"), 0o755); err != nil {
		r.t.Fatalf("lab: %v", err)
	}
	// By another process: a program that this one has open for writing, at a moment when a test beside forks, is busy.
	if b, err := exec.Command("install", "-m", "755", from, to).CombinedOutput(); err != nil {
		r.t.Fatalf("lab: bring %s: %v\n%s", from, err, b)
	}
	return to
}

// BinDir is the directory of PostgreSQL's programs of a major version: the host's
// own, or those of the private prefix that `make deps` unpacks.
func BinDir(t T, major int) string {
	t.Helper()
	host := fmt.Sprintf("/usr/lib/postgresql/%d/bin", major)
	for _, dir := range []string{host, filepath.Join(prefix(major), host)} {
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
			return dir
		}
	}
	t.Fatalf("lab: PostgreSQL %d is not installed: run `make deps`", major)
	return ""
}

func prefix(major int) string { return filepath.Join(cache(), fmt.Sprintf("pg%d", major)) }
