package wal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// spool is a directory of segments fetched ahead, each verified before it got its
// name. Its path holds the boot of the machine, because nothing in it is fsynced
// and a file may be empty after a crash; the system identifier; and a hash of the
// repository and PGDATA.
type spool struct{ dir string }

// spoolAge is how long a segment may wait: what was decided about a conflict in
// the meantime must reach recovery at last.
const spoolAge = time.Hour

func openSpool(root, identity, dataDir string, system postgres.SystemIdentifier) (*spool, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	if dataDir, err = filepath.Abs(dataDir); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(identity + "\n" + dataDir))
	id := strings.TrimSpace(string(boot))
	s := &spool{dir: filepath.Join(root, id, fmt.Sprintf("%s-%x", system, sum[:8]))}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	// Boots before this one.
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if name := entry.Name(); name != id && len(name) == len(id) && strings.Count(name, "-") == 4 {
			_ = os.RemoveAll(filepath.Join(root, name))
		}
	}
	return s, nil
}

// take moves a segment to dest: fs.ErrNotExist if the spool has no usable one.
func (s *spool) take(segment postgres.Segment, size postgres.SegmentSize, dest string, now time.Time) error {
	path := filepath.Join(s.dir, segment.Name())
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(size) || now.Sub(info.ModTime()).Abs() > spoolAge {
		return errors.Join(fs.ErrNotExist, os.Remove(path))
	}
	if err = os.Rename(path, dest); errors.Is(err, syscall.EXDEV) {
		err = place(dest, func(w io.Writer) error { return copyFrom(path, w) })
		_ = os.Remove(path)
	}
	return err
}

func copyFrom(path string, w io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func (s *spool) has(segment postgres.Segment) bool {
	_, err := os.Lstat(filepath.Join(s.dir, segment.Name()))
	return err == nil
}

// store keeps what fill writes; fill fails unless all of it is verified.
func (s *spool) store(segment postgres.Segment, fill func(io.Writer) error) error {
	return place(filepath.Join(s.dir, segment.Name()), fill)
}

// keep removes everything but the wanted segments: after a switch of the timeline
// or the end of a recovery nothing else would.
func (s *spool) keep(wanted []postgres.Segment, now time.Time) {
	names := map[string]bool{}
	for _, segment := range wanted {
		names[segment.Name()] = true
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !names[entry.Name()] && !strings.Contains(entry.Name(), hook.TempMark) {
			_ = os.Remove(filepath.Join(s.dir, entry.Name()))
		}
	}
	sweepTemps(s.dir, now)
}
