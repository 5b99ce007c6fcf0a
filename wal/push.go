package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/storage"
)

// DefaultPushTimeout is how long a push goes on without a byte of progress.
const DefaultPushTimeout = 60 * time.Second

// Pusher archives WAL files, as archive_command does.
type Pusher struct {
	Bucket   storage.Bucket
	Identity string // names the bucket on this host, as "s3://endpoint/bucket"
	Scope    string
	Options  catalog.Options
	// Emulate: create-once writes are emulated, the store has none. Otherwise Probe
	// must find that it has them before a repository is made; nil skips the probe.
	Emulate bool
	Probe   func(context.Context) error
	// AskAlways looks for the repository before each push: a directory may be the
	// mount point of a filesystem that is gone since the last one.
	AskAlways bool
	DataDir   string        // configured PGDATA; may be empty
	State     string        // directory for small notes; may be empty or unwritable
	Timeout   time.Duration // without a byte of progress; 0 is DefaultPushTimeout
	// DropBelow lets PushOrDrop give WAL up while pg_wal has less free, in bytes; 0: never.
	DropBelow int64
	Member    string       // who gave it up
	Log       *slog.Logger // may be nil
	Now       func() time.Time
}

// RefusedError refuses a file that is whole but must not be archived from here:
// one of another cluster than PGDATA's, or of a restored copy in the archive that
// it came from.
type RefusedError struct{ Problem, Advice string }

func (e *RefusedError) Error() string { return e.Problem }

// Hint says what an operator does next.
func (e *RefusedError) Hint() string { return e.Advice }

// Push stores one file; path is PostgreSQL's %p, relative or absolute. Only without
// an error may the file be acknowledged.
func (p *Pusher) Push(ctx context.Context, path string) (catalog.PutOutcome, error) {
	return p.push(ctx, path, nil)
}

func (p *Pusher) push(ctx context.Context, path string, l *loan) (catalog.PutOutcome, error) {
	src, err := readSource(path, l)
	if err != nil {
		return "", err
	}
	return p.store(ctx, path, src, l)
}

// store stores what was read from path.
func (p *Pusher) store(ctx context.Context, path string, src source, l *loan) (catalog.PutOutcome, error) {
	defer src.close()
	log := logger(p.Log)
	if err := p.settle(path, &src, log); err != nil {
		return "", err
	}
	ctx, watch := watchProgress(ctx, cmp.Or(p.Timeout, DefaultPushTimeout))
	defer watch.stop()
	ctx = storage.WithProgress(ctx, func(int) { watch.alive() })
	repository := catalog.New(p.Bucket, catalog.Location{Scope: p.Scope, System: src.system}, p.Options)
	err := p.ensure(ctx, repository, src.size, log)
	if err != nil {
		return "", stalled(ctx, fmt.Errorf("prepare repository %s: %w", repository.Root(), err))
	}
	var outcome catalog.PutOutcome
	if src.large != nil {
		outcome, err = repository.PutWALFrom(ctx, src.file, src.large, src.length, src.facts)
	} else {
		var packed catalog.PackedWAL
		if packed, err = repository.PackWAL(l.forObject(len(src.plain)), src.file, src.plain, src.facts); err == nil {
			l.packed()
			outcome, err = repository.PutPackedWAL(ctx, packed)
		}
	}
	if err != nil {
		return "", stalled(ctx, fmt.Errorf("archive %s: %w", src.file, err))
	}
	if src.unread != nil {
		log.Warn("WAL file cannot be read to its end; it is archived as it is", "file", src.file.String(), "error", src.unread)
	}
	return outcome, nil
}

// settle finds out whose file it is, and refuses it if it is not ours to archive.
func (p *Pusher) settle(path string, src *source, log *slog.Logger) error {
	dataDir := hook.DataDir(path, p.DataDir)
	control, err := ReadControl(dataDir)
	switch {
	case err == nil && src.system == 0:
		src.system, src.size = control.System, control.SegmentSize
	case err == nil && src.system != control.System:
		return &RefusedError{fmt.Sprintf("%s comes from system %s, its data directory is of system %s", path, src.system, control.System),
			"the file was copied here from another cluster: remove it and its .ready file, it is not WAL of this server"}
	case err != nil && src.system == 0:
		return fmt.Errorf("find the cluster that %s belongs to: %w", path, err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		log.Warn("the segment's own header decides whose it is", "error", err)
	}
	if dataDir == "" {
		return nil
	}
	name := filepath.Join(dataDir, catalog.OriginFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var origin catalog.Origin
	if err == nil {
		origin, err = catalog.ParseOrigin(name, b)
	}
	if err != nil {
		return fmt.Errorf("find out where this data directory was restored from: %w", err)
	}
	if origin.Scope == p.Scope && origin.System == src.system {
		return &RefusedError{fmt.Sprintf("this data directory was restored from backup %s of %s: it may not write into the archive it came from", origin.Backup, origin.Scope),
			"if it is to replace the cluster that it came from, and that one is stopped for good, release it: rm " + name +
				"; if it is a copy, give it archive_mode=off or a scope of its own"}
	}
	return nil
}

func (p *Pusher) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
