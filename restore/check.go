package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgha-backup/pgha-backup/internal/living"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sys/unix"
)

// State is what the target directory was found to be.
type State string

// The states in which a restore may begin.
const (
	Fresh       State = "fresh"       // absent or empty
	Interrupted State = "interrupted" // left by a restore that did not end: ours to fill again
	Replaced    State = "replaced"    // a stopped cluster with the same system identifier, given up by --force
)

// Ground is the ground a restore stands on: looked at by Check, built on by Execute.
type Ground struct {
	PGDATA string `json:"pgdata"`
	State  State  `json:"state"`
	// Cleared are the tablespace directories that are emptied of this cluster's data.
	Cleared []string `json:"cleared,omitempty"`
	// WAL is where the link pg_wal of a directory that is filled again leads: it stays,
	// and what lies there is emptied too.
	WAL string `json:"wal,omitempty"`

	versions []string // the directories in them that are this cluster's
	links    []string // links an interrupted restore made for tablespaces created in replay
}

// Check looks at everything the plan would touch on this host and changes nothing.
// A refusal holds a *PreflightError for each thing that is in the way. force gives
// up the stopped cluster in pgdata.
func Check(plan Plan, pgdata string, force bool) (Ground, error) {
	const advice = "stop that server, or restore elsewhere"
	ground := Ground{PGDATA: pgdata, State: Fresh}
	if !clean(pgdata) {
		return Ground{}, refuse("give --pgdata as an absolute path", "%q is not a clean absolute path of a directory", pgdata)
	}
	c := checker{plan: plan, force: force, servers: living.Servers("/proc")}
	empty, err := c.directory(advice, "PGDATA", pgdata)
	if err == nil && !empty {
		err = c.occupied(&ground)
	}
	if err == nil && !empty {
		err = c.linkedWAL(advice, &ground)
	}
	for _, dir := range ground.Cleared {
		err = errors.Join(err, c.neighbours(advice, "tablespace", dir))
	}
	if err == nil {
		err = errors.Join(c.tablespaces(ground), c.space(ground))
	}
	if err != nil {
		return Ground{}, err
	}
	return ground, nil
}

type checker struct {
	plan    Plan
	force   bool
	servers []living.Server
}

func clean(dir string) bool {
	return filepath.IsAbs(dir) && filepath.Clean(dir) == dir && dir != "/"
}

// neighbours keeps us off every directory of a server that runs here.
func (c *checker) neighbours(advice, what, dir string) error {
	for _, s := range c.servers {
		for _, theirs := range s.Dirs {
			if living.Overlap(living.Resolve(dir), theirs) {
				return refuse(advice, "%s %s belongs to the running server in %s (process %d)", what, dir, s.PGDATA, s.PID)
			}
		}
	}
	return nil
}

// directory tells whether a directory is absent or empty. It must be no neighbour's;
// if it is there it must be ours, and if not it must be possible to make it.
func (c *checker) directory(advice, what, dir string) (empty bool, err error) {
	if err := c.neighbours(advice, what, dir); err != nil {
		return false, err
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return true, creatable(what, dir)
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, refuse("", "%s %s is a link that leads nowhere", what, dir)
	}
	if err != nil {
		return false, refuse("", "%s: %v", what, err)
	}
	if !info.IsDir() {
		return false, refuse("", "%s %s is not a directory", what, dir)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return false, refuse("run as the user that will run the server", "%s %s belongs to user id %d, not to us (%d)", what, dir, owner, os.Geteuid())
	}
	if unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK) != nil {
		return false, refuse("", "%s %s: we may not read, write and search it", what, dir)
	}
	entries, err := os.ReadDir(dir)
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), unclaimed) }), err
}

func creatable(what, dir string) error {
	at := existing(filepath.Dir(dir))
	if info, err := os.Stat(at); err != nil || !info.IsDir() || unix.Access(at, unix.W_OK|unix.X_OK) != nil {
		return refuse("make the directory as root and give it to the user that runs this", "%s %s cannot be made: %s is not a directory we may write", what, dir, at)
	}
	return nil
}

// existing is the nearest of a path and its parents that exists.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// occupied judges a PGDATA that is not empty.
func (c *checker) occupied(ground *Ground) error {
	left, err := readMarker(ground.PGDATA)
	if err != nil {
		return refuse("", "%v", err)
	}
	raw, err := os.ReadFile(filepath.Join(ground.PGDATA, controlFile))
	switch absent := errors.Is(err, fs.ErrNotExist); {
	case left != nil && (absent || neverStarted(ground.PGDATA)):
		if left.System != c.plan.Backup.System || left.PGDATA != ground.PGDATA {
			return refuse("remove it by hand, or restore elsewhere", "%s holds an interrupted restore of system %s into %s, not of %s",
				ground.PGDATA, left.System, left.PGDATA, c.plan.Backup.System)
		}
		ground.State = Interrupted
		ground.Cleared, ground.versions, ground.links, ground.WAL = left.Tablespaces, left.Versions, left.Links, left.WAL
		return nil
	case absent:
		return refuse("choose an empty or absent directory", "%s is neither empty nor a PostgreSQL data directory", ground.PGDATA)
	case err != nil:
		return err
	}
	control, err := postgres.ParseControlData(raw)
	if err == nil && control.System != c.plan.Backup.System {
		err = fmt.Errorf("it has system identifier %s, the backup %s", control.System, c.plan.Backup.System)
	}
	major, versionErr := os.ReadFile(filepath.Join(ground.PGDATA, "PG_VERSION"))
	if err = errors.Join(err, versionErr); err != nil {
		return refuse("choose an empty or absent directory", "%s is not a directory of this cluster: %v", ground.PGDATA, err)
	}
	if pid := living.Postmaster("/proc", ground.PGDATA); pid != 0 {
		return refuse("stop the server (Patroni: pause and stop it on this member) before its directory is replaced",
			"%s has a postmaster.pid of a process that lives (%d)", ground.PGDATA, pid)
	}
	if !c.force {
		return refuse("restore into another directory, or give up this stopped cluster and its listed tablespaces with --force",
			"%s holds a cluster with the system identifier of the backup", ground.PGDATA)
	}
	ground.State = Replaced
	ground.versions = []string{versionDirectory(strings.TrimSpace(string(major)), control.CatalogVersion)}
	ground.Cleared = living.TablespaceLinks(ground.PGDATA)
	if left != nil { // interrupted while it replaced: its tablespaces may be emptied already
		ground.Cleared, ground.links = append(ground.Cleared, left.Tablespaces...), left.Links
		ground.versions = append(ground.versions, left.Versions...)
	}
	slices.Sort(ground.Cleared)
	ground.Cleared = slices.Compact(ground.Cleared)
	return nil
}

// linkedWAL finds where the WAL of a cluster lies that is replaced. An interrupted restore
// believes only the link that it began with.
func (c *checker) linkedWAL(advice string, ground *Ground) error {
	link, before := filepath.Join(ground.PGDATA, "pg_wal"), ground.WAL
	ground.WAL = ""
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 || ground.State == Interrupted && living.Resolve(link) != before {
		return nil
	}
	ground.WAL = living.Resolve(link)
	if _, err = c.directory(advice, "WAL directory", link); err != nil {
		return err
	}
	return c.foreignWAL(ground.WAL)
}

// foreignWAL refuses a directory with WAL of another cluster, which may be stopped.
func (c *checker) foreignWAL(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if _, parseErr := postgres.ParseWALFile(e.Name()); parseErr != nil || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		head := make([]byte, 64)
		n, _ := io.ReadFull(f, head)
		_ = f.Close()
		if h, err := postgres.ParseWALHeader(head[:n]); err == nil && h.System != c.plan.Backup.System {
			return refuse("lead pg_wal elsewhere, or remove the link", "WAL directory %s holds WAL of another cluster: %s is of system %s", dir, e.Name(), h.System)
		}
	}
	return err
}

// neverStarted tells whether a restored directory still waits for its first start,
// in which the server takes its backup_label away.
func neverStarted(pgdata string) bool {
	_, err := os.Lstat(filepath.Join(pgdata, labelFile))
	return err == nil
}

// versionDirectory is the name a server gives its directory in a tablespace.
func versionDirectory(major string, catalogVersion uint32) string {
	return fmt.Sprintf("PG_%s_%d", major, catalogVersion)
}

// tablespaces holds every path, old or future, to R24.
func (c *checker) tablespaces(ground Ground) (refused error) {
	const earlier = "choose a target before that tablespace was made, or restore on a host without that directory"
	type use struct {
		oid uint32
		dir string
	}
	uses := []use{{0, ground.PGDATA}}
	for _, t := range c.plan.Tablespaces {
		what, advice := fmt.Sprintf("tablespace %d", t.OID), fmt.Sprintf("--tablespace-mapping %s=/an/empty/directory", shellQuote(strings.ReplaceAll(t.From, "=", `\=`)))
		dirs := []string{t.To}
		if t.Later {
			advice = earlier
		}
		if t.Later && t.To != t.From {
			// Replay makes the link to the path of the record, whatever link is there; so
			// that path must be free to become our link to the mapped directory.
			if _, err := os.Lstat(t.From); err == nil && !slices.Contains(ground.links, t.From) {
				refused = errors.Join(refused, refuse(earlier, "%s is created during recovery at %s, which exists here: PostgreSQL cannot be led elsewhere", what, t.From))
				continue
			}
			dirs = append(dirs, t.From)
		}
		for i, dir := range dirs {
			if !clean(dir) {
				refused = errors.Join(refused, refuse("", "%s: %q is not a clean absolute path", what, dir))
				continue
			}
			for _, other := range uses {
				if other.oid != t.OID && living.Overlap(living.Resolve(dir), living.Resolve(other.dir)) {
					refused = errors.Join(refused, refuse("map every tablespace to a directory of its own: --tablespace-mapping OLD=NEW", "%s at %s overlaps %s", what, dir, other.dir))
				}
			}
			uses = append(uses, use{t.OID, dir})
			if i > 0 {
				refused = errors.Join(refused, c.neighbours(advice, what, dir), creatable(what, dir))
				continue
			}
			empty, err := c.directory(advice, what, dir)
			if err == nil && !empty && !slices.Contains(ground.Cleared, dir) {
				err = refuse(advice, "%s: %s is not empty and does not belong to %s", what, dir, ground.PGDATA)
			}
			refused = errors.Join(refused, err)
		}
	}
	return refused
}

// space compares what will be written with what is free, file system by file system.
func (c *checker) space(ground Ground) error {
	type filesystem struct {
		need, free int64
		at         string
	}
	all := map[uint64]filesystem{}
	add := func(dir string, bytes int64) error {
		at := existing(living.Resolve(dir))
		var stat unix.Stat_t
		var fs unix.Statfs_t
		if err := errors.Join(unix.Stat(at, &stat), unix.Statfs(at, &fs)); err != nil {
			return fmt.Errorf("free space of %s: %w", at, err)
		}
		all[stat.Dev] = filesystem{need: all[stat.Dev].need + bytes, free: int64(fs.Bavail) * fs.Bsize, at: at}
		return nil
	}
	at := map[string]string{"base": ground.PGDATA}
	for _, t := range c.plan.Tablespaces {
		if !t.Later {
			at[fmt.Sprint(t.OID)] = t.To
		}
	}
	for _, pack := range c.plan.Backup.Packs {
		volume, _, _ := strings.Cut(pack.Name, "-")
		if at[volume] == "" {
			return fmt.Errorf("the plan has no place for tablespace %s", volume)
		}
		if err := add(at[volume], pack.Plain); err != nil {
			return err
		}
	}
	if ground.State != Fresh {
		for _, dir := range append([]string{ground.PGDATA}, ground.Cleared...) {
			if err := add(dir, -used(dir)); err != nil {
				return err
			}
		}
	}
	for _, f := range all {
		if f.need > f.free {
			return refuse("make room, or restore elsewhere", "the file system of %s has %d MiB free, the restore needs %d MiB and room for WAL",
				f.at, f.free>>20, f.need>>20)
		}
	}
	return nil
}

// used is what the files below a directory take on its file system.
func used(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return bytes
}
