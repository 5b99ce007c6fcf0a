package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"golang.org/x/sync/errgroup"
)

// Options say how a plan is executed.
type Options struct {
	// RestoreCommand is the program and the arguments that fetch WAL, with %f and %p
	// as arguments of their own. It must work with an empty environment.
	RestoreCommand []string
	ArchiveMode    ArchiveMode
	// Member writes no copy but a member of the running cluster, as NewMemberPlan
	// plans it: whoever starts it brings the settings, and it archives where its
	// cluster does. RestoreCommand and ArchiveMode do not count.
	Member bool
	// BinDir is the directory of PostgreSQL's programs. Without it pg_verifybackup
	// does not judge the copy.
	BinDir string
	// VerifyFiles has pg_verifybackup read every file again, whose checksum was looked at
	// while it was written.
	VerifyFiles bool
	// Workers is how many packs are read at once; 0 takes at most four.
	Workers int
	Now     time.Time
	// Progress is told plaintext bytes written and to write, from several goroutines.
	Progress func(done, total int64)
	Log      *slog.Logger
}

// Names that have a meaning of their own in PGDATA.
const (
	controlFile      = "global/pg_control"
	controlTemporary = controlFile + ".pgha-restore"
	labelFile        = "backup_label"
	autoConfFile     = "postgresql.auto.conf"
	serverConfFile   = "postgresql.conf"
	manifestFile     = "backup_manifest"
	patroniCache     = "patroni.dynamic.json"
)

// held are files that are kept in memory and written, or written differently, at
// the end. None is long.
var held = map[string]int64{controlFile: 8192, labelFile: 64 << 10, autoConfFile: 4 << 20}

// left are files of a backup that a copy must not have: links are made by us, the
// signals say what the source was doing. Patroni writes its copy of the dynamic
// configuration itself, at any moment while a member is made; the backup's is of the past.
var left = []string{"tablespace_map", "recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts", manifestFile,
	catalog.OriginFile, MarkerFile, LogFile, hbaFile, patroniCache}

// leftOut tells whether a path of the backup is not written as it is, nor anything below
// it: to a server a directory of that name is a standby.signal, too.
func leftOut(name string) bool {
	first, _, below := strings.Cut(name, "/")
	return slices.Contains(left, first) || name == controlTemporary || below && first == "pg_wal"
}

// execution is one Execute under way.
type execution struct {
	Options
	plan       Plan
	ground     Ground
	repository *catalog.Repository
	backup     *catalog.Backup
	tree       *tree
	total      int64
	done       atomic.Int64

	mu      sync.Mutex
	held    map[string][]byte
	written map[string]catalog.Entry // by path

	loose []string // files that backup_manifest does not list
}

// Execute writes the copy that the plan describes onto the ground that Check found.
// pg_control comes last, so that at any earlier end the directory cannot be started
// and the same restore can simply be run again.
func Execute(ctx context.Context, repository *catalog.Repository, plan Plan, ground Ground, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if plan.Backup.Type != catalog.Full {
		return fmt.Errorf("backup %s (%s) is not a full backup", plan.Backup.ID, plan.Backup.Type)
	}
	backup, err := repository.Open(ctx, plan.Backup)
	if err != nil {
		return err
	}
	x := &execution{Options: o, plan: plan, ground: ground, repository: repository, backup: backup,
		held: map[string][]byte{}, written: map[string]catalog.Entry{}}
	for _, pack := range backup.Index.Packs {
		for _, e := range pack.Entries {
			x.total += e.Size
		}
	}
	if err := atomicfile.MkdirAll(ground.PGDATA, 0o700); err != nil {
		return err
	}
	lock, err := lockGround(ground)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := x.prepare(ctx); err != nil {
		return fmt.Errorf("prepare %s: %w", ground.PGDATA, err)
	}
	defer x.tree.close()
	if err = x.tree.directories(backup.Index); err == nil {
		err = x.packs(ctx)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", ground.PGDATA, err)
	}
	if err := x.finish(ctx); err != nil {
		return fmt.Errorf("finish %s: %w", ground.PGDATA, err)
	}
	return nil
}

// prepare claims and empties the ground.
func (x *execution) prepare(ctx context.Context) (err error) {
	if err := claim(x.plan, x.ground, x.Now); err != nil {
		return err
	}
	if x.ground.State != Fresh {
		if err := clear(ctx, x.ground); err != nil {
			return err
		}
	}
	x.tree, err = openTree(x.plan, x.ground)
	return err
}

// packs writes every pack, several at once.
func (x *execution) packs(ctx context.Context) error {
	workers := x.Workers
	if workers <= 0 {
		workers = min(4, 2*runtime.GOMAXPROCS(0))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range x.backup.Index.Packs {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return x.pack(ctx, i)
		})
	}
	return group.Wait()
}

func (x *execution) pack(ctx context.Context, i int) (err error) {
	r, err := x.backup.OpenPack(ctx, i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Kind == catalog.Dir || leftOut(e.Path) {
			x.progress(e.Size)
			continue
		}
		if err := x.entry(e, r); err != nil {
			return err
		}
	}
}

func (x *execution) entry(e catalog.Entry, r *catalog.PackReader) error {
	if strings.HasPrefix(path.Base(e.Path), "INCREMENTAL.") {
		return fmt.Errorf("%w: %s in a full backup", codec.ErrCorrupt, e.Path)
	}
	if limit, ok := held[e.Path]; ok {
		if e.Size > limit {
			return fmt.Errorf("%w: %s has %d bytes, more than %d", codec.ErrCorrupt, e.Path, e.Size, limit)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		x.progress(e.Size)
		x.mu.Lock()
		x.held[e.Path] = data
		x.mu.Unlock()
	} else if e.Path == serverConfFile && e.Size > held[autoConfFile] {
		return fmt.Errorf("%w: %s has %d bytes", codec.ErrCorrupt, e.Path, e.Size)
	} else if err := x.tree.fill(e.Path, e.Mode, e.Size, r, meter(x.progress)); err != nil {
		return err
	}
	x.mu.Lock()
	x.written[e.Path] = e
	x.mu.Unlock()
	return nil
}

func (x *execution) progress(n int64) {
	done := x.done.Add(n)
	if x.Progress != nil {
		x.Progress(done, x.total)
	}
}

// meter is told the length of what is written to it.
type meter func(int64)

func (m meter) Write(p []byte) (int, error) {
	m(int64(len(p)))
	return len(p), nil
}
