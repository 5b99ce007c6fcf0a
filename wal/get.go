package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// DefaultBatch is how many segments one Get fetches, its own included.
const DefaultBatch = 8

// Getter brings WAL files back, as restore_command does.
type Getter struct {
	Bucket   storage.Bucket
	Identity string // names the bucket on this host, as "s3://endpoint/bucket"
	Scope    string
	DataDir  string // as hook.DataDir found it; may be empty
	Mode     hook.Mode
	State    string // directory for small notes; may be empty or unwritable
	Spool    string // directory for segments fetched ahead; empty: none are
	Batch    int    // segments fetched by one Get, its own included; 0 is DefaultBatch
	Timeouts Timeouts
	Log      *slog.Logger // may be nil

	into   string   // where the file is put; "": where it is asked for
	beyond *Fetcher // nil: nothing goes on after a Get
}

// Get puts the file under dest, PostgreSQL's %f and %p, and returns when it is
// there and nothing is left running. The error is an *AbsentError if that is
// proven; every other error is trouble, see ExitCode.
func (g *Getter) Get(ctx context.Context, name, dest string) error {
	file, err := postgres.ParseWALFile(name)
	if err != nil {
		return err
	}
	if file == firstHistory {
		return &AbsentError{file}
	}
	r := &retrieval{Getter: g, file: file, dest: dest, into: cmp.Or(g.into, dest), log: logger(g.Log)}
	if control, err := ReadControl(g.DataDir); err == nil {
		r.system, r.size = control.System, control.SegmentSize
	}
	if r.fromSpool() {
		return nil
	}
	if !r.quick() {
		return r.untilStalled(ctx)
	}
	// Promotion calls several times in series: what failed a moment ago is not
	// waited for again (R11).
	if g.failedLately() {
		return errors.New("the archive did not answer a moment ago, not asked again yet")
	}
	ctx, cancel := context.WithTimeout(ctx, standbyLimit)
	defer cancel()
	ctx, r.watch = watchProgress(ctx, cmp.Or(g.Timeouts.Standby, 2*time.Second))
	defer r.watch.stop()
	err = stalled(ctx, r.try(ctx))
	g.noteFailure(unanswered(err))
	return err
}

// standbyLimit bounds a standby's get of a file that keeps coming: of large
// segments, or over a slow line.
const standbyLimit = time.Minute

// retrieval is one Get under way.
type retrieval struct {
	*Getter
	file   postgres.WALFile
	dest   string
	into   string
	log    *slog.Logger
	system postgres.SystemIdentifier // 0: not known yet
	size   postgres.SegmentSize      // 0: not known yet
	watch  *progressWatch
	best   int64 // most bytes that any try brought
}

// quick tells whether PostgreSQL can go on without an answer. In a promotion it
// falls back to the parent's history in pg_wal, but without one it would write a
// history that has lost its ancestors.
func (r *retrieval) quick() bool {
	if r.Mode == hook.Promotion && r.file.Kind == postgres.WALHistory {
		_, err := os.Stat(filepath.Join(filepath.Dir(r.dest), r.file.String()))
		return err == nil
	}
	return r.Mode == hook.Standby || r.Mode == hook.Promotion
}

// untilStalled tries until it has the file, its absence is proven, or no try got
// further than those before it for the time of the mode.
func (r *retrieval) untilStalled(ctx context.Context) error {
	limit := r.Timeouts.patient(r.Mode)
	ctx, r.watch = watchProgress(ctx, limit)
	defer r.watch.stop()
	pause, said := min(100*time.Millisecond, limit/20), time.Time{}
	var last error
	for {
		err := r.try(ctx)
		if _, absent := errors.AsType[*AbsentError](err); err == nil || absent {
			return err
		}
		if ctx.Err() != nil {
			return stalled(ctx, cmp.Or(last, err)) // what was wrong before says more
		}
		last = err
		if now := time.Now(); now.Sub(said) > 30*time.Second {
			r.log.Warn("archive-get: trying again", "file", r.file.String(), "mode", r.Mode.String(), "gives up after", limit.String(), "error", err)
			said = now
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return stalled(ctx, err)
		}
		pause = min(2*pause, 15*time.Second, limit/20)
	}
}

func (r *retrieval) try(ctx context.Context) error {
	repository, err := r.open(ctx)
	if err != nil {
		return err
	}
	if err = r.fetch(ctx, repository); !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	return proveAbsent(ctx, repository, r.file)
}

// open finds the repository: by pg_control, else the scope must hold only one.
func (r *retrieval) open(ctx context.Context) (*catalog.Repository, error) {
	if r.system == 0 {
		systems, err := catalog.Systems(ctx, r.Bucket, r.Scope)
		switch {
		case err != nil:
			return nil, fmt.Errorf("find the repository of %s: %w", r.Scope, err)
		case len(systems) == 0:
			return nil, fmt.Errorf("find the repository of %s: nothing of it is stored", r.Scope)
		case len(systems) > 1:
			return nil, fmt.Errorf("find the repository of %s: %d system identifiers %v are stored, and no pg_control in %q says which", r.Scope, len(systems), systems, r.DataDir)
		}
		r.system = systems[0]
	}
	repository := catalog.New(r.Bucket, catalog.Location{Scope: r.Scope, System: r.system}, catalog.Options{})
	if r.size == 0 {
		info, _, err := repository.KnownInfo(ctx)
		if err != nil {
			return nil, fmt.Errorf("open repository %s: %w", repository.Root(), err)
		}
		r.size = info.SegmentSize
	}
	return repository, nil
}

// fetch brings our own file and, as soon as its first bytes are there, the next ones.
func (r *retrieval) fetch(ctx context.Context, repository *catalog.Repository) error {
	sweepTemps(filepath.Dir(r.dest), time.Now())
	if r.beyond.await(ctx, r) {
		return nil
	}
	ahead := r.newPrefetch(ctx, repository)
	var n int64
	err := catalog.Twice(func() error {
		n = 0
		return place(r.into, func(w io.Writer) error {
			return fetchWAL(ctx, repository, r.file, r.size, writerFunc(func(b []byte) (int, error) {
				ahead.start()
				if n += int64(len(b)); n > r.best {
					r.best = n
					r.watch.alive()
				}
				return w.Write(b)
			}))
		})
	})
	ahead.finish(err == nil)
	return err
}

// fetchWAL brings a file and checks what the catalog cannot: the size of a segment.
func fetchWAL(ctx context.Context, repository *catalog.Repository, file postgres.WALFile, size postgres.SegmentSize, w io.Writer) error {
	object, err := repository.GetWAL(ctx, file, catalog.AtMost(w, max(int64(size), 1<<20)))
	if err != nil {
		return err
	}
	if (file.Kind == postgres.WALSegment || file.Kind == postgres.WALPartial) && object.Size != int64(size) {
		return fmt.Errorf("%w: %s has %d bytes, a segment here has %d", codec.ErrCorrupt, file, object.Size, size)
	}
	return nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
