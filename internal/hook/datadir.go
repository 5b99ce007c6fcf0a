package hook

import (
	"os"
	"path/filepath"
)

// DataDir is the PGDATA that a path of archive_command or restore_command belongs
// to: the directory that lexically holds pg_wal in the path, else the working
// directory, else the configured one; the first that has a PG_VERSION. "" if none.
// PostgreSQL itself calls with a relative path from inside PGDATA, Patroni with an
// absolute one from anywhere.
func DataDir(path, configured string) string {
	for _, dir := range []string{Holder(path), ".", configured} {
		if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); dir != "" && err == nil {
			return dir
		}
	}
	return ""
}

// Holder is the directory that lexically holds pg_wal in a path, else its first one.
func Holder(path string) string {
	dir := filepath.Clean(path)
	for filepath.Base(dir) != "pg_wal" && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
	}
	return filepath.Dir(dir)
}
