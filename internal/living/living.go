// Package living finds the PostgreSQL servers that run on this host, and the
// directories that are theirs.
package living

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Server is a PostgreSQL server that runs, with every directory that is its own.
type Server struct {
	PID    int
	PGDATA string
	Dirs   []string // PGDATA, its WAL directory and its tablespaces, links resolved
}

// Servers finds servers by their processes, because a copied postmaster.pid
// proves nothing and a missing one proves nothing either. Servers of other users
// stay unseen; their directories refuse us anyway.
func Servers(proc string) []Server {
	entries, _ := os.ReadDir(proc)
	var found []Server
	seen := map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !IsPostgres(proc, pid) {
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
		server := Server{PID: pid, PGDATA: pgdata, Dirs: []string{pgdata}}
		if wal, err := filepath.EvalSymlinks(filepath.Join(pgdata, "pg_wal")); err == nil {
			server.Dirs = append(server.Dirs, wal)
		}
		for _, dir := range TablespaceLinks(pgdata) {
			server.Dirs = append(server.Dirs, Resolve(dir))
		}
		found = append(found, server)
	}
	return found
}

// IsPostgres tells whether a process runs PostgreSQL's server program.
func IsPostgres(proc string, pid int) bool {
	exe, err := os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres"
}

// TablespaceLinks reads where the links in pg_tblspc lead.
func TablespaceLinks(pgdata string) (found []string) {
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

// Resolve follows the links of a path as far as it exists, those too that lead to what
// is still to be made.
func Resolve(path string) string { return resolve(path, 40) }

func resolve(path string, links int) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if to, err := os.Readlink(path); err == nil && links > 0 {
		if !filepath.IsAbs(to) {
			to = filepath.Join(parent, to)
		}
		return resolve(to, links-1)
	}
	if parent == path {
		return path
	}
	return filepath.Join(resolve(parent, links), filepath.Base(path))
}

// Overlap tells whether one directory is the other or lies inside it.
func Overlap(a, b string) bool {
	inside := func(a, b string) bool {
		rel, err := filepath.Rel(a, b)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	return inside(a, b) || inside(b, a)
}

// Postmaster is the process id in postmaster.pid if that process may be a server, else 0.
func Postmaster(proc, pgdata string) int {
	data, err := os.ReadFile(filepath.Join(pgdata, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	number, err := strconv.ParseInt(strings.TrimSpace(line), 10, 32)
	pid := int(max(number, -number))
	if err != nil || pid == 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return 0
	}
	// The number may have gone to another program since: only one whose program we
	// can see, and which is not PostgreSQL's, is no server.
	if _, err := os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "exe")); err == nil && !IsPostgres(proc, pid) {
		return 0
	}
	return pid
}
