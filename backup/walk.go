package backup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// item is one file or directory to copy. tablespace 0 is PGDATA itself.
type item struct {
	path       string // as in the backup: relative to PGDATA, with slashes
	disk       string // as on this host
	tablespace uint32
	size       int64
	dir        bool
}

// controlFile is copied after everything else: read earlier, the copy of a
// standby would claim to be consistent too soon (R15).
const controlFile = "global/pg_control"

// These are made by the server at the end, or before the start of a streamed backup.
const (
	labelFile = "backup_label"
	mapFile   = "tablespace_map"
)

// walker lists what a base backup copies. What vanishes under it is skipped: WAL
// tells of it.
type walker struct {
	pgdata   string
	version  string // name of the directory that is ours in a tablespace
	summary  bool   // pg_wal/summaries exists from 17 on
	items    []item
	warnings []string
}

// list walks PGDATA and the tablespaces. pg_wal is kept as empty directories.
func (w *walker) list(tablespaces []postgres.Tablespace) error {
	if err := w.directory("", w.pgdata, 0); err != nil {
		return err
	}
	for _, t := range tablespaces {
		link := filepath.Join(w.pgdata, "pg_tblspc", fmt.Sprint(t.OID))
		disk := filepath.Join(link, w.version)
		if _, err := os.Lstat(disk); gone(err) {
			if _, err := os.Lstat(link); !gone(err) {
				return fmt.Errorf("tablespace %d leads to %s, where this host has no %s: is its file system mounted, and do we see what the server sees?", t.OID, t.Path, w.version)
			}
			continue // dropped since the server listed it
		}
		if err := w.add(fmt.Sprintf("pg_tblspc/%d/%s", t.OID, w.version), disk, t.OID); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) directory(at, disk string, tablespace uint32) error {
	entries, err := os.ReadDir(disk)
	if gone(err) && at != "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", disk, err)
	}
	unlogged := unloggedRelations(at, entries)
	for _, entry := range entries {
		name := path.Join(at, entry.Name())
		if at == "" && entry.Name() == catalog.OriginFile || postgres.ExcludedFromBackup(name) || name == controlFile {
			continue
		}
		if f, ok := postgres.ParseRelationFile(name); ok && f.Fork != postgres.ForkInit && unlogged[f.Relation] {
			continue
		}
		if err := w.add(name, filepath.Join(disk, entry.Name()), tablespace); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) add(name, disk string, tablespace uint32) error {
	info, err := os.Lstat(disk)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", disk, err)
	}
	switch {
	case name == "pg_wal" && info.Mode()&(fs.ModeDir|fs.ModeSymlink) != 0:
		w.empty("pg_wal", "pg_wal/archive_status")
		if w.summary {
			w.empty("pg_wal/summaries")
		}
	case info.IsDir():
		w.items = append(w.items, item{path: name, disk: disk, tablespace: tablespace, dir: true})
		if name != "pg_tblspc" { // holds links, each a volume of its own
			return w.directory(name, disk, tablespace)
		}
	case info.Mode().IsRegular():
		w.items = append(w.items, item{path: name, disk: disk, tablespace: tablespace, size: info.Size()})
	case info.Mode()&fs.ModeSymlink != 0:
		return w.link(name, disk)
	default:
		w.warnings = append(w.warnings, fmt.Sprintf("%s is a special file (%s): not copied", disk, info.Mode().Type()))
	}
	return nil
}

// link decides about a symbolic link in PGDATA. As PostgreSQL's own base backup
// does, only tablespaces and pg_wal are followed; unlike it, a link in place of
// the database's own directories is refused, not passed over.
func (w *walker) link(name, disk string) error {
	first, _, _ := strings.Cut(name, "/")
	if needed[first] {
		return fmt.Errorf("%s is a symbolic link: PostgreSQL's files are backed up where PostgreSQL put them; use a tablespace or a mount instead", disk)
	}
	if postgres.ExcludedFromBackup(name + "/x") { // its contents stay out anyway
		w.empty(name)
		return nil
	}
	w.warnings = append(w.warnings, disk+" is a symbolic link: not followed, not in the backup")
	return nil
}

func (w *walker) empty(names ...string) {
	for _, name := range names {
		w.items = append(w.items, item{path: name, disk: filepath.Join(w.pgdata, name), dir: true})
	}
}

// unloggedRelations are those of a directory that have an init fork.
func unloggedRelations(at string, entries []fs.DirEntry) map[postgres.Relation]bool {
	found := map[postgres.Relation]bool{}
	for _, entry := range entries {
		if f, ok := postgres.ParseRelationFile(path.Join(at, entry.Name())); ok && f.Fork == postgres.ForkInit {
			found[f.Relation] = true
		}
	}
	return found
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// queue hands items to workers: a volume's directories first, then its files, the
// largest first, so that no worker is left alone with a large one at the end.
type queue struct {
	mu      sync.Mutex
	volumes map[uint32][]item
}

func newQueue(items []item) *queue {
	q := &queue{volumes: map[uint32][]item{}}
	for _, it := range items {
		q.volumes[it.tablespace] = append(q.volumes[it.tablespace], it)
	}
	for _, list := range q.volumes {
		slices.SortStableFunc(list, func(a, b item) int {
			if a.dir != b.dir {
				if a.dir {
					return -1
				}
				return 1
			}
			return cmp.Compare(b.size, a.size)
		})
	}
	return q
}

// next takes an item, from the worker's own volume as long as it has any, else
// from the volume with the largest file left.
func (q *queue) next(own uint32) (item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.volumes[own]) == 0 {
		best := int64(-1)
		for volume, list := range q.volumes {
			if len(list) > 0 && list[len(list)/2].size > best {
				own, best = volume, list[len(list)/2].size
			}
		}
		if best < 0 {
			return item{}, false
		}
	}
	it := q.volumes[own][0]
	q.volumes[own] = q.volumes[own][1:]
	return it, true
}
