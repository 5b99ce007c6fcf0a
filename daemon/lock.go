package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// RunningError: another daemon has this state directory.
type RunningError struct{ Path string }

func (e *RunningError) Error() string {
	return fmt.Sprintf("another pgha-backup daemon runs with this state directory: it holds %s", e.Path)
}

// Hint is what a person can do about it.
func (e *RunningError) Hint() string {
	return "stop it, or give this one a cluster.member and cluster.state_dir of its own"
}

// lockState makes sure that one daemon has the state directory, for as long as the
// file is open: the kernel lets go when the process ends, however it ends.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	path := filepath.Join(dir, "daemon.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, &RunningError{path}
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}
