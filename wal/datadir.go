package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// DataDir is the PGDATA that a path of archive_command or restore_command belongs
// to: the directory that lexically holds pg_wal in the path, else the working
// directory, else the configured one; the first that has a PG_VERSION. "" if none.
// PostgreSQL itself calls with a relative path from inside PGDATA, Patroni with an
// absolute one from anywhere.
func DataDir(path, configured string) string {
	dir := filepath.Clean(path)
	for filepath.Base(dir) != "pg_wal" && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
	}
	for _, dir := range []string{filepath.Dir(dir), ".", configured} {
		if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); dir != "" && err == nil {
			return dir
		}
	}
	return ""
}

// ReadControl reads PGDATA's pg_control, again if the server was writing it just
// then. No PGDATA or no pg_control in it is fs.ErrNotExist.
func ReadControl(dataDir string) (postgres.ControlData, error) {
	if dataDir == "" {
		return postgres.ControlData{}, fmt.Errorf("read pg_control: no data directory is known: %w", fs.ErrNotExist)
	}
	for try := 1; ; try++ {
		b, err := os.ReadFile(filepath.Join(dataDir, "global", "pg_control"))
		if err != nil {
			return postgres.ControlData{}, err
		}
		control, err := postgres.ParseControlData(b)
		if err == nil || !errors.Is(err, postgres.ErrControlCRC) || try == 5 {
			return control, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
