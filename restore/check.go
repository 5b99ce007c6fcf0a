package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

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

	versions []string // the directories in them that are this cluster's
	links    []string // links an interrupted restore made for tablespaces created in replay
}

// Check looks at everything the plan would touch on this host and changes nothing.
// A refusal is a *PreflightError. force gives up the stopped cluster in pgdata.
func Check(plan Plan, pgdata string, force bool) (Ground, error) {
	c := checker{plan: plan, force: force, servers: livingServers("/proc"), uid: os.Geteuid()}
	ground, err := c.check(pgdata)
	if err != nil {
		return Ground{}, err
	}
	if len(c.problems) > 0 {
		return Ground{}, &PreflightError{Problems: c.problems, Advice: c.advice}
	}
	return ground, nil
}

type checker struct {
	plan     Plan
	force    bool
	servers  []living
	uid      int
	problems []string
	advice   string
}

func (c *checker) refuse(advice, format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
	if c.advice == "" {
		c.advice = advice
	}
}

func (c *checker) check(pgdata string) (Ground, error) {
	if !filepath.IsAbs(pgdata) || filepath.Clean(pgdata) != pgdata || pgdata == "/" {
		c.refuse("give --pgdata as an absolute path", "%q is not a clean absolute path of a directory", pgdata)
		return Ground{}, nil
	}
	ground := Ground{PGDATA: pgdata, State: Fresh}
	c.neighbours("stop that server, or restore elsewhere", "PGDATA", pgdata)
	empty, err := c.directory("PGDATA", pgdata)
	if err != nil {
		return ground, err
	}
	if !empty {
		if err := c.occupied(&ground); err != nil {
			return ground, err
		}
	}
	for _, dir := range ground.Cleared {
		c.neighbours("stop that server, or restore elsewhere", "tablespace", dir)
	}
	if len(c.problems) > 0 {
		return ground, nil
	}
	if err := c.tablespaces(ground); err != nil {
		return ground, err
	}
	return ground, c.space(ground)
}

// neighbours keeps us off every directory of a server that runs here.
func (c *checker) neighbours(advice, what, dir string) (theirs bool) {
	for _, s := range c.servers {
		for _, theirs := range s.dirs {
			if overlap(resolve(dir), theirs) {
				c.refuse(advice, "%s %s belongs to the running server in %s (process %d)", what, dir, s.pgdata, s.pid)
				return true
			}
		}
	}
	return false
}

// directory tells whether a directory is absent or empty; if it is there it must be
// ours, and if not it must be possible to make it.
func (c *checker) directory(what, dir string) (empty bool, err error) {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		c.creatable(what, dir)
		return true, nil
	}
	if err != nil {
		c.refuse("", "%s: %v", what, err)
		return true, nil
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if info, err = os.Stat(dir); err != nil {
			c.refuse("", "%s %s is a link that leads nowhere", what, dir)
			return true, nil
		}
	}
	if !info.IsDir() {
		c.refuse("", "%s %s is not a directory", what, dir)
		return true, nil
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != c.uid {
		c.refuse("run as the user that will run the server", "%s %s belongs to user id %d, not to us (%d)", what, dir, owner, c.uid)
		return true, nil
	}
	if unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK) != nil {
		c.refuse("", "%s %s: we may not read, write and search it", what, dir)
		return true, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("%s: %w", what, err)
	}
	return len(entries) == 0, nil
}

func (c *checker) creatable(what, dir string) {
	for at := filepath.Dir(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if errors.Is(err, fs.ErrNotExist) && at != "/" {
			continue
		}
		if err != nil || !info.IsDir() || unix.Access(at, unix.W_OK|unix.X_OK) != nil {
			c.refuse("make the directory as root and give it to the user that runs this", "%s %s cannot be made: %s is not a directory we may write", what, dir, at)
		}
		return
	}
}

// occupied judges a PGDATA that is not empty.
func (c *checker) occupied(ground *Ground) error {
	left, err := readMarker(ground.PGDATA)
	if err != nil {
		c.refuse("", "%v", err)
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(ground.PGDATA, controlFile))
	switch {
	case left != nil && (errors.Is(err, fs.ErrNotExist) || neverStarted(ground.PGDATA)):
		if left.System != c.plan.Backup.System {
			c.refuse("remove it by hand, or restore elsewhere", "%s holds an interrupted restore of system %s, not %s", ground.PGDATA, left.System, c.plan.Backup.System)
			return nil
		}
		if left.PGDATA != ground.PGDATA {
			c.refuse("remove it by hand, or restore elsewhere", "%s holds an interrupted restore into %s", ground.PGDATA, left.PGDATA)
			return nil
		}
		ground.State = Interrupted
		ground.Cleared, ground.versions, ground.links = left.Tablespaces, left.Versions, left.Links
		return nil
	case errors.Is(err, fs.ErrNotExist):
		c.refuse("choose an empty or absent directory", "%s is neither empty nor a PostgreSQL data directory", ground.PGDATA)
		return nil
	case err != nil:
		return err
	}
	control, err := postgres.ParseControlData(raw)
	if err == nil && control.System != c.plan.Backup.System {
		err = fmt.Errorf("it has system identifier %s, the backup %s", control.System, c.plan.Backup.System)
	}
	major, versionErr := os.ReadFile(filepath.Join(ground.PGDATA, "PG_VERSION"))
	if err = errors.Join(err, versionErr); err != nil {
		c.refuse("choose an empty or absent directory", "%s is not a directory of this cluster: %v", ground.PGDATA, err)
		return nil
	}
	if pid := postmaster("/proc", ground.PGDATA); pid != 0 {
		c.refuse("stop the server (Patroni: pause and stop it on this member) before its directory is replaced",
			"%s has a postmaster.pid of a process that lives (%d)", ground.PGDATA, pid)
		return nil
	}
	if !c.force {
		c.refuse("restore into another directory, or give up this stopped cluster and its listed tablespaces with --force",
			"%s holds a cluster with the system identifier of the backup", ground.PGDATA)
		return nil
	}
	ground.State = Replaced
	ground.versions = []string{versionDirectory(strings.TrimSpace(string(major)), control.CatalogVersion)}
	for _, dir := range tablespaceLinks(ground.PGDATA) {
		ground.Cleared = append(ground.Cleared, dir)
	}
	if left != nil { // interrupted while it replaced: its tablespaces may be emptied already
		ground.Cleared, ground.links = append(ground.Cleared, left.Tablespaces...), left.Links
		ground.versions = append(ground.versions, left.Versions...)
	}
	slices.Sort(ground.Cleared)
	ground.Cleared = slices.Compact(ground.Cleared)
	return nil
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

// postmaster is the process id in postmaster.pid if that process may be a server, else 0.
func postmaster(proc, pgdata string) int {
	data, err := os.ReadFile(filepath.Join(pgdata, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if pid = max(pid, -pid); err != nil || pid == 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return 0
	}
	// The number may have gone to another program since: only one whose program we
	// can see, and which is not PostgreSQL's, is no server.
	if _, err := os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "exe")); err == nil && !isPostgres(proc, pid) {
		return 0
	}
	return pid
}

// tablespaces holds every path, old or future, to R24.
func (c *checker) tablespaces(ground Ground) error {
	type use struct {
		oid uint32
		dir string
	}
	uses := []use{{0, ground.PGDATA}}
	for _, t := range c.plan.Tablespaces {
		what := fmt.Sprintf("tablespace %d", t.OID)
		dirs := []string{t.To}
		if t.Later && t.To != t.From {
			// Replay makes the link to the path of the record, whatever link is there; so
			// that path must be free to become our link to the mapped directory.
			if _, err := os.Lstat(t.From); err == nil && !slices.Contains(ground.links, t.From) {
				c.refuse("choose a target before that tablespace was made, or restore on a host without that directory",
					"%s is created during recovery at %s, which exists here: PostgreSQL cannot be led elsewhere", what, t.From)
				continue
			}
			dirs = append(dirs, t.From)
		}
		for i, dir := range dirs {
			if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
				c.refuse("", "%s: %q is not a clean absolute path", what, dir)
				continue
			}
			for _, other := range uses {
				if other.oid != t.OID && overlap(resolve(dir), resolve(other.dir)) {
					c.refuse("map every tablespace to a directory of its own: --tablespace-mapping OLD=NEW", "%s at %s overlaps %s", what, dir, other.dir)
				}
			}
			uses = append(uses, use{t.OID, dir})
			advice := fmt.Sprintf("--tablespace-mapping %s=/an/empty/directory", t.From)
			if t.Later {
				advice = "choose a target before that tablespace was made, or restore on a host without that directory"
			}
			if c.neighbours(advice, what, dir) {
				continue
			}
			if i > 0 {
				c.creatable(what, dir)
				continue
			}
			if empty, err := c.directory(what, dir); err != nil {
				return err
			} else if !empty && !slices.Contains(ground.Cleared, dir) {
				c.refuse(advice, "%s: %s is not empty and does not belong to %s", what, dir, ground.PGDATA)
			}
		}
	}
	return nil
}

// space compares what will be written with what is free, file system by file system.
func (c *checker) space(ground Ground) error {
	need := map[uint64]int64{}
	free := map[uint64]int64{}
	where := map[uint64]string{}
	add := func(dir string, bytes int64) error {
		at := resolve(dir)
		for {
			if _, err := os.Stat(at); err == nil {
				break
			}
			at = filepath.Dir(at)
		}
		var stat unix.Stat_t
		var fs unix.Statfs_t
		if err := errors.Join(unix.Stat(at, &stat), unix.Statfs(at, &fs)); err != nil {
			return fmt.Errorf("free space of %s: %w", at, err)
		}
		need[stat.Dev] += bytes
		free[stat.Dev], where[stat.Dev] = int64(fs.Bavail)*fs.Bsize, at
		return nil
	}
	at := map[string]string{"base": ground.PGDATA}
	for _, t := range c.plan.Tablespaces {
		if !t.Later {
			at[strconv.FormatUint(uint64(t.OID), 10)] = t.To
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
	for dev, bytes := range need {
		if bytes > free[dev] {
			c.refuse("make room, or restore elsewhere", "the file system of %s has %d MiB free, the restore needs %d MiB and room for WAL",
				where[dev], free[dev]>>20, bytes>>20)
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
