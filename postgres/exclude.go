package postgres

import (
	"slices"
	"strings"
)

var (
	// emptiedAtStart are directories whose contents the server makes anew.
	emptiedAtStart = []string{"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
	// keptInWAL are the directories in pg_wal that a backup holds empty.
	keptInWAL = []string{"pg_wal/archive_status", "pg_wal/summaries"}
	// ofThisServer are files of PGDATA that speak of the running server, of the
	// backup it came from, or that it was just writing.
	ofThisServer = []string{"postmaster.pid", "postmaster.opts", "backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old",
		"backup_manifest", "backup_manifest.tmp", "recovery.signal", "standby.signal", "postgresql.auto.conf.tmp", "current_logfiles.tmp"}
)

// ExcludedFromBackup tells whether a path relative to PGDATA stays out of a base
// backup: what PostgreSQL's own leaves out, the signal files, and temporary
// relations. An excluded directory is left out with all that it holds; those that
// the server wants to find, empty, are not excluded themselves.
//
// Unlogged relations need a look at their directory: a relation with an init fork
// is copied as that fork only.
func ExcludedFromBackup(path string) bool {
	if slices.Contains(ofThisServer, path) {
		return true
	}
	first, _, below := strings.Cut(path, "/")
	if below && (slices.Contains(emptiedAtStart, first) || first == "pg_wal" && !slices.Contains(keptInWAL, path)) {
		return true
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "pgsql_tmp") || strings.HasPrefix(part, "pg_internal.init") || part == ".DS_Store" {
			return true
		}
	}
	f, ok := ParseRelationFile(path)
	return ok && f.Temp
}
