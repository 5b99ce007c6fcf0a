package catalog

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// Format is the repository format this version writes and the newest it reads.
const Format = 1

var scopePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// ValidateScope checks a Patroni scope for use in keys.
func ValidateScope(scope string) error {
	if len(scope) > 128 || !scopePattern.MatchString(scope) {
		return fmt.Errorf("scope %q: want letters, digits, '_', '-' and '.', at most 128", scope)
	}
	return nil
}

// layout makes every key of one cluster's repository.
type layout struct{ root string }

func newLayout(at Location) layout { return layout{root: at.Scope + "/" + at.System.String()} }

func (l layout) key(parts ...string) storage.Key {
	return storage.Key(l.root + "/" + strings.Join(parts, "/"))
}

func (l layout) repository() storage.Key { return l.key("repository.json") }

func (l layout) walRoot() storage.Key { return l.key("wal") + "/" }

func (l layout) walTimeline(tli postgres.TimelineID) storage.Key {
	return l.key("wal", tli.String()) + "/"
}

func (l layout) wal(f postgres.WALFile) storage.Key {
	if f.Kind == postgres.WALHistory {
		return l.key("wal", f.String())
	}
	return l.key("wal", f.Segment.Timeline.String(), fmt.Sprintf("%08X", f.Segment.Log), f.String())
}

func (l layout) conflicts() storage.Key { return l.key("conflict") + "/" }

func (l layout) conflict(f postgres.WALFile, sha256 string) storage.Key {
	return l.key("conflict", f.String(), sha256)
}

func (l layout) resolved(f postgres.WALFile) storage.Key {
	return l.key("conflict", f.String(), resolvedName)
}

func (l layout) backups() storage.Key { return l.key("backup") + "/" }

func (l layout) backup(id BackupID, name string) storage.Key {
	return l.key("backup", string(id), name)
}

func (l layout) run(id BackupID, run RunID, name string) storage.Key {
	return l.key("backup", string(id), string(run), name)
}

func (l layout) holds(id BackupID) storage.Key { return l.key("hold", string(id)) + "/" }

func (l layout) hold(id BackupID, name string) storage.Key { return l.holds(id) + storage.Key(name) }

// Object names inside a backup.
const (
	manifestName       = "manifest.json"
	expiredName        = "expired.json"
	removalName        = "removal.json"
	startedName        = "started"
	indexName          = "index"
	backupManifestName = "backup_manifest"
	resolvedName       = "resolved" // of a conflict
)
