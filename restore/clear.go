package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/internal/living"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sys/unix"
)

// lockGround keeps a second restore off the directory until the file is closed: it
// would take the first one's half for an interrupted restore and empty it. What was
// empty when Check looked must still be, and what was interrupted must not have ended.
func lockGround(ground Ground) (*os.File, error) {
	dir, err := os.Open(ground.PGDATA)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = refuse("wait for it, or end it", "another restore into %s is under way", ground.PGDATA)
	} else if err == nil && ground.State == Fresh {
		err = vacate(dir)
	} else if _, gone := os.Lstat(filepath.Join(ground.PGDATA, MarkerFile)); err == nil && ground.State == Interrupted && gone != nil {
		err = refuse("look what runs there", "%s is no interrupted restore any more: that one has ended since", ground.PGDATA)
	} else if pid := living.Postmaster("/proc", ground.PGDATA); err == nil && pid != 0 {
		err = refuse("stop the server before its directory is replaced", "%s has a postmaster.pid of a process that lives (%d)", ground.PGDATA, pid)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// unclaimed begins the name under which a marker is written: a restore that is killed
// over it leaves a directory with nothing else, which is as good as empty.
const unclaimed = "." + MarkerFile + ".tmp-"

func vacate(dir *os.File) error {
	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		if !strings.HasPrefix(name, unclaimed) {
			return refuse("run the restore again", "%s is not empty any more: it holds %s", dir.Name(), name)
		}
		if err := os.Remove(filepath.Join(dir.Name(), name)); err != nil {
			return err
		}
	}
	return err
}

// claim writes the marker before anything else: whatever happens from here on, the
// next restore knows which directories are its own.
func claim(plan Plan, ground Ground, now time.Time) error {
	m := marker{Format: markerFormat, PGDATA: ground.PGDATA, System: plan.Backup.System, Backup: plan.Backup.ID,
		Started: now.UTC().Truncate(time.Second), WAL: ground.WAL, Tablespaces: slices.Clone(ground.Cleared),
		Links: slices.Clone(ground.links), Versions: slices.Clone(ground.versions)}
	m.Versions = append(m.Versions, versionDirectory(fmt.Sprint(plan.Backup.Version.Major()), uint32(plan.Backup.Settings.CatalogVersion)))
	for _, t := range plan.Tablespaces {
		m.Tablespaces = append(m.Tablespaces, t.To)
		if t.Later && t.From != t.To {
			m.Links = append(m.Links, t.From)
		}
	}
	for _, list := range []*[]string{&m.Tablespaces, &m.Links, &m.Versions} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return m.write(ground.PGDATA)
}

// clear empties what Check allowed to be emptied: first pg_control, durably, so
// that nobody can start the half of a cluster (R25).
func clear(ctx context.Context, ground Ground) error {
	root, err := os.OpenRoot(ground.PGDATA)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := discardControl(root); err != nil {
		return err
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Name() == MarkerFile || e.Name() == "pg_wal" && ground.WAL != "" {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	if ground.WAL != "" {
		if err := clearOf(ground.WAL, ofServer); err != nil {
			return fmt.Errorf("empty WAL directory: %w", err)
		}
	}
	for _, dir := range ground.Cleared {
		if err := clearOf(dir, func(name string) bool { return slices.Contains(ground.versions, name) }); err != nil {
			return fmt.Errorf("empty tablespace: %w", err)
		}
	}
	for _, link := range ground.links {
		if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return atomicfile.SyncDir(ground.PGDATA)
}

// discardControl removes pg_control, and every trace of one, durably.
func discardControl(root *os.Root) error {
	dir, err := root.Open(filepath.Dir(controlFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = root.RemoveAll(controlFile); err == nil {
		err = dir.Sync()
	}
	return errors.Join(err, dir.Close())
}

// ofServer tells whether it is a server that puts this into its WAL directory.
func ofServer(name string) bool {
	_, err := postgres.ParseWALFile(name)
	return err == nil || name == "archive_status" || name == "summaries" || strings.HasPrefix(name, "xlogtemp.") || hook.ByRecovery(name)
}

// clearOf removes what is ours from a directory outside PGDATA, and nothing else: other
// major versions keep theirs in a tablespace beside it.
func clearOf(dir string, ours func(name string) bool) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ours(e.Name()) {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return atomicfile.SyncDir(dir)
}

// MarkerFile stands in PGDATA while a restore writes it. As long as it is there
// without a pg_control, the directory is ours to empty and to fill again.
const MarkerFile = "pgha.restore-in-progress"

// marker is the content of MarkerFile.
type marker struct {
	Format  int                       `json:"format"`
	PGDATA  string                    `json:"pgdata"`
	System  postgres.SystemIdentifier `json:"system_identifier"`
	Backup  catalog.BackupID          `json:"backup"`
	Started time.Time                 `json:"started"`
	// Tablespaces are the directories that this restore empties or fills, Links the
	// links it makes for tablespaces that replay will create.
	Tablespaces []string `json:"tablespaces,omitempty"`
	Links       []string `json:"links,omitempty"`
	// WAL is where pg_wal leads.
	WAL string `json:"wal,omitempty"`
	// Versions are the directories in them that are this cluster's: PG_15_202209061.
	Versions []string `json:"versions,omitempty"`
}

const markerFormat = 1

// readMarker gives nil if there is none.
func readMarker(pgdata string) (*marker, error) {
	data, err := os.ReadFile(filepath.Join(pgdata, MarkerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the marker of an interrupted restore: %w", err)
	}
	var m marker
	if err := json.Unmarshal(data, &m); err != nil || m.Format != markerFormat {
		return nil, fmt.Errorf("%s in %s is not one of this version's markers: remove the directory by hand if it is an interrupted restore", MarkerFile, pgdata)
	}
	return &m, nil
}

func (m marker) write(pgdata string) error {
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(pgdata, MarkerFile), append(data, '\n'), 0o600)
}
