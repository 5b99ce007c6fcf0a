package restore

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// living is a PostgreSQL server that runs on this host, with every directory that
// is its own.
type living struct {
	pid    int
	pgdata string
	dirs   []string // pgdata, its WAL directory and its tablespaces, links resolved
}

// livingServers finds servers by their processes, because a copied postmaster.pid
// proves nothing and a missing one proves nothing either. Servers of other users
// stay unseen; their directories refuse us anyway.
func livingServers(proc string) []living {
	entries, _ := os.ReadDir(proc)
	var found []living
	seen := map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !isPostgres(proc, pid) {
			continue
		}
		pgdata, err := os.Readlink(filepath.Join(proc, e.Name(), "cwd"))
		if err != nil || seen[pgdata] {
			continue
		}
		seen[pgdata] = true
		if _, err := os.Stat(filepath.Join(pgdata, "PG_VERSION")); err != nil {
			continue
		}
		server := living{pid: pid, pgdata: pgdata, dirs: []string{pgdata}}
		if wal, err := filepath.EvalSymlinks(filepath.Join(pgdata, "pg_wal")); err == nil {
			server.dirs = append(server.dirs, wal)
		}
		for _, dir := range tablespaceLinks(pgdata) {
			server.dirs = append(server.dirs, resolve(dir))
		}
		found = append(found, server)
	}
	return found
}

func isPostgres(proc string, pid int) bool {
	exe, err := os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres"
}

// tablespaceLinks reads where the links in pg_tblspc lead.
func tablespaceLinks(pgdata string) (found []string) {
	dir := filepath.Join(pgdata, "pg_tblspc")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // a tablespace in place, inside PGDATA
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		found = append(found, filepath.Clean(to))
	}
	return found
}

// resolve follows the links of a path as far as it exists.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(resolve(parent), filepath.Base(path))
}

// overlap tells whether one directory is the other or lies inside it.
func overlap(a, b string) bool {
	inside := func(a, b string) bool {
		rel, err := filepath.Rel(a, b)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	return inside(a, b) || inside(b, a)
}
