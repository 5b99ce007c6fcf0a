package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Main runs a package's tests and then fails if they left anything behind. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
func Main(m *testing.M) int {
	before := runDirs()
	code := m.Run()
	if os.Getenv("PGHA_KEEP") == "1" {
		return code
	}
	if err := Residue(before); err != nil {
		fmt.Fprintln(os.Stderr, "lab: left behind:", err)
		return 1
	}
	return code
}

// Residue tells what runs of this process have left: run directories that were not there before,
// and processes that touch them.
func Residue(before map[string]bool) error {
	for dir := range runDirs() {
		if before[dir] || !ours(dir) {
			continue
		}
		return fmt.Errorf("directory %s with processes %v", dir, processes(dir))
	}
	if pids := touching(filepath.Join(os.TempDir(), ownRuns())); len(pids) > 0 {
		return fmt.Errorf("processes %v", pids)
	}
	var open []string
	registry.Range(func(_, r any) bool {
		open = append(open, r.(*Run).Dir)
		return true
	})
	if len(open) > 0 {
		return fmt.Errorf("runs %s are still open", strings.Join(open, ", "))
	}
	return nil
}

func runDirs() map[string]bool {
	dirs := map[string]bool{}
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), runPattern+"*"))
	for _, dir := range found {
		dirs[dir] = true
	}
	return dirs
}

// ours tells whether this process made the run.
func ours(dir string) bool {
	return strings.HasPrefix(filepath.Base(dir), ownRuns())
}

func ownRuns() string { return fmt.Sprintf("%s%d-", runPattern, os.Getpid()) }
