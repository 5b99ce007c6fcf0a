package postgres

import (
	"regexp"
	"slices"
	"strings"
)

// Fork is one of the files that make a relation, as file names have it.
type Fork string

// The forks. Only the main one has data pages whose LSN tells of every change (R19).
const (
	ForkMain Fork = ""
	ForkFSM  Fork = "fsm"
	ForkVM   Fork = "vm"
	ForkInit Fork = "init"
)

// Relation names the storage of a table or index. Tablespace is 0 for base and
// global, Database 0 for global.
type Relation struct {
	Tablespace, Database, Number uint32
}

// RelationFile is a file that holds pages of a relation.
type RelationFile struct {
	Relation
	Fork    Fork
	Segment uint32 // 0 for the first file, n for the one that ends in .n
	Temp    bool   // of a temporary table: never backed up
}

// FirstBlock is the number of the file's first block, as page checksums count;
// perSegment is RelationBlocks of pg_control.
func (f RelationFile) FirstBlock(perSegment uint32) uint32 { return f.Segment * perSegment }

// relationFile captures: database; or tablespace and database; backend of a temporary
// relation; number; fork; segment.
var relationFile = regexp.MustCompile(`^(?:global|base/([1-9]\d*)|pg_tblspc/([1-9]\d*)/PG_[^/]*/([1-9]\d*))` +
	`/(?:t(0|[1-9]\d*)_)?([1-9]\d*)(?:_(fsm|vm|init))?(?:\.([1-9]\d*))?$`)

// ParseRelationFile reads a path relative to PGDATA; false if it does not name a
// file of a relation.
func ParseRelationFile(path string) (RelationFile, bool) {
	m := relationFile.FindStringSubmatch(path)
	if m == nil {
		return RelationFile{}, false
	}
	ok := true
	number := func(s string) uint32 {
		if s == "" {
			return 0
		}
		v, fits := parsePositive(s)
		ok = ok && fits
		return v
	}
	f := RelationFile{
		Relation: Relation{Tablespace: number(m[2]), Database: number(m[1] + m[3]), Number: number(m[5])},
		Fork:     Fork(m[6]), Segment: number(m[7]), Temp: m[4] != "",
	}
	if !ok {
		return RelationFile{}, false
	}
	return f, true
}

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
