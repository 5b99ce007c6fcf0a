package wal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/hook"
)

// place makes a file appear whole under dest. It does not fsync: PostgreSQL does
// that when it takes the file over, and the spool does not outlive a reboot.
func place(dest string, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(dest), filepath.Base(dest)+hook.TempMark+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second close is harmless
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), dest)
}

// sweepTemps removes what killed processes left unfinished in a directory.
func sweepTemps(dir string, now time.Time) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !strings.Contains(entry.Name(), hook.TempMark) {
			continue
		}
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > time.Hour {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}
