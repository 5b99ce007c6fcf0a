package wal

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Dropped: the file is given up so that PostgreSQL can go on. It is in no archive;
// what is durable is the record of it.
const Dropped catalog.PutOutcome = "dropped"

// While the store does not answer, one push in dropEvery asks it, for dropTimeout
// where a failure is younger than dropLately: in the full time of a push PostgreSQL
// could fill the rest of the disk.
const (
	dropEvery   = 30 * time.Second
	dropTimeout = 10 * time.Second
	dropLately  = 5 * time.Minute
)

// Drop is <state>/dropped/<file>: a WAL file that was acknowledged without an archive.
type Drop struct {
	File    string                    `json:"file"`
	WAL     postgres.WALFile          `json:"-"` // File, read
	System  postgres.SystemIdentifier `json:"system_identifier"`
	Size    int                       `json:"size"`
	SHA256  string                    `json:"sha256"`
	MinTime time.Time                 `json:"min_time,omitzero"` // of its commits and aborts
	MaxTime time.Time                 `json:"max_time,omitzero"`
	At      time.Time                 `json:"at"`
	Member  string                    `json:"member"`
}

// PushOrDrop is Push for who acknowledges to PostgreSQL. With DropBelow it gives a file
// up where the filesystem of pg_wal has less than that free and the store does not
// answer, now or a moment ago: the record of it is durable before it returns. A store
// that answers, be it with a refusal or a conflict, costs no WAL.
func (p *Pusher) PushOrDrop(ctx context.Context, path string) (catalog.PutOutcome, error) {
	return p.orDrop(ctx, path, func(ctx context.Context, p Pusher) (catalog.PutOutcome, error) { return p.Push(ctx, path) })
}

func (p *Pusher) orDrop(ctx context.Context, path string, push func(context.Context, Pusher) (catalog.PutOutcome, error)) (catalog.PutOutcome, error) {
	if !p.mayDrop(path) {
		return push(ctx, *p)
	}
	note, record := filepath.Join(p.State, "archive-push.failed"), filepath.Join(DroppedDir(p.State), filepath.Base(path))
	try := *p
	if age, known := ageOf(note, p.now()); known && age < dropLately && p.full(path) {
		// Who asks again for a dropped file has crashed meanwhile: the store goes first.
		if _, err := os.Stat(record); age < dropEvery && errors.Is(err, fs.ErrNotExist) {
			return p.drop(path, record, errors.New("it did not answer a moment ago"))
		}
		try.Timeout = min(cmp.Or(p.Timeout, DefaultPushTimeout), dropTimeout)
	}
	outcome, err := push(ctx, try)
	if ctx.Err() != nil {
		return outcome, err // the end of the caller says nothing of the store
	}
	setNote(note, unanswered(err))
	switch {
	case err == nil:
		_ = os.Remove(record) // else the daemon does
	case unanswered(err) && p.full(path):
		return p.drop(path, record, err)
	}
	return outcome, err
}

// mayDrop: a history too, which PostgreSQL never removes from pg_wal: the daemon keeps its
// record until it is stored. A .partial holds nothing that the next timeline's first segment
// does not, and nobody restores from a .backup. One that waited would hold up all behind it.
func (p *Pusher) mayDrop(path string) bool {
	_, err := postgres.ParseWALFile(filepath.Base(path))
	return p.DropBelow > 0 && p.State != "" && err == nil
}

// full tells whether the filesystem of the file is so; one that cannot be asked is not.
func (p *Pusher) full(path string) bool {
	var fsys syscall.Statfs_t
	err := syscall.Statfs(filepath.Dir(path), &fsys)
	return err == nil && int64(fsys.Bavail)*fsys.Bsize < p.DropBelow
}

// drop records a file, which must be one that Push would have taken.
func (p *Pusher) drop(path, record string, why error) (catalog.PutOutcome, error) {
	log := logger(p.Log)
	src, err := readSource(path, nil)
	if err != nil {
		return "", err
	}
	defer src.close()
	sum := sha256.New()
	if err = p.settle(path, &src, log); err == nil {
		_, err = io.Copy(sum, io.NewSectionReader(src.at(), 0, src.length))
	}
	if err != nil {
		return "", err
	}
	d := Drop{File: src.file.String(), System: src.system, Size: int(src.length), SHA256: hex.EncodeToString(sum.Sum(nil)),
		At: p.now().UTC().Truncate(time.Second), Member: p.Member}
	if src.facts != nil {
		d.MinTime, d.MaxTime = src.facts.MinTime, src.facts.MaxTime
	}
	b, err := json.Marshal(d)
	if err == nil {
		err = errors.Join(atomicfile.MkdirAll(filepath.Dir(record), 0o700), atomicfile.Write(record, append(b, '\n'), 0o600))
	}
	if err != nil {
		return "", fmt.Errorf("pg_wal is nearly full, and %s is not given up, because that cannot be recorded: %w (the store: %w)", src.file, err, why)
	}
	lost := "this WAL is given up, and no time behind it can be reached before the next backup"
	if src.file.Kind == postgres.WALHistory {
		lost = "this history stays in pg_wal until the daemon has stored it; until then another server may make the same timeline"
	}
	log.Error("ALARM: pg_wal is nearly full and the store does not answer: "+lost,
		"file", d.File, "record", record, "from", d.MinTime, "to", d.MaxTime, "store", why)
	return Dropped, nil
}

// DroppedDir holds the records.
func DroppedDir(state string) string { return filepath.Join(state, "dropped") }

// Drops reads the records of a state directory, in the order of their names. What
// cannot be read is in the error, and the others are there all the same.
func Drops(state string) (all []Drop, err error) {
	entries, err := os.ReadDir(DroppedDir(state))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, e := range entries {
		file, no := postgres.ParseWALFile(e.Name())
		if no != nil {
			continue // unfinished: it was never acknowledged
		}
		d := Drop{WAL: file}
		b, unread := os.ReadFile(filepath.Join(DroppedDir(state), e.Name()))
		if unread == nil {
			unread = json.Unmarshal(b, &d)
		}
		if unread == nil && d.File != e.Name() {
			unread = fmt.Errorf("it names %q", d.File)
		}
		if size := postgres.SegmentSize(d.Size); unread == nil && file.Kind == postgres.WALSegment && (size.Validate() != nil || int(size) != d.Size) {
			unread = fmt.Errorf("a segment of %d bytes", d.Size)
		}
		if unread != nil {
			err = errors.Join(err, fmt.Errorf("read the record of a dropped file, %s: %w", filepath.Join(DroppedDir(state), e.Name()), unread))
			continue
		}
		all = append(all, d)
	}
	return all, err
}

// Forget removes the record, when others know of it or the file is archived after all.
func (d Drop) Forget(state string) error { return os.Remove(filepath.Join(DroppedDir(state), d.File)) }
