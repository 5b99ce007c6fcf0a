package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/wal"
)

// Local is what this host's server and its pg_wal show. Files are read where the
// server does not answer, so that a full disk is seen before it is an outage.
type Local struct {
	Seen time.Time `json:"seen"`
	// Server is primary, standby, down or absent (there is no data directory yet).
	Server string                    `json:"server"`
	Error  string                    `json:"error,omitempty"` // why it does not answer
	System postgres.SystemIdentifier `json:"system_identifier,omitempty"`
	// Backlog counts the files that wait for the archiver; Waiting is since when the
	// oldest of them does.
	Backlog      int       `json:"backlog_files"`
	BacklogBytes int64     `json:"backlog_bytes"`
	Waiting      time.Time `json:"waiting_since,omitzero"`
	// Dropped counts the files that were given up for want of space and of which the
	// repository does not know yet.
	Dropped int `json:"dropped_files,omitempty"`
	// FailingSince is the last success of an archiver whose last attempt failed, or
	// the failure where it never succeeded.
	FailingSince time.Time `json:"archiver_failing_since,omitzero"`
	FailedFile   string    `json:"archiver_failed_file,omitempty"`
	WALBytes     int64     `json:"pg_wal_bytes"`
	FreeBytes    int64     `json:"pg_wal_free_bytes"`
	// FullIn is when the filesystem of pg_wal is full if it goes on growing as in the
	// last minutes, in seconds; absent while it does not grow.
	FullIn float64 `json:"pg_wal_full_seconds,omitempty"`
}

// What is no longer slow but trouble.
const (
	stalledAfter = 2 * time.Minute // the same file waits for the archiver
	fullSoon     = time.Hour
)

// Problems are what needs a person.
func (l Local) Problems() (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	switch since := l.FailingSince; {
	case !since.IsZero():
		add("archiver: failing since %s, last on %s; %d files wait", since.UTC().Format(time.RFC3339), l.FailedFile, l.Backlog)
	case l.Server == "primary" && l.Backlog > 0 && l.Seen.Sub(l.Waiting) > stalledAfter:
		add("archiver: stalled, %d files wait since %s and none fails", l.Backlog, l.Waiting.UTC().Format(time.RFC3339))
	}
	if full := time.Duration(l.FullIn * float64(time.Second)); full > 0 && full < fullSoon {
		add("pg_wal: its filesystem is full in %s if it goes on growing so", full.Round(time.Second))
	}
	if l.Dropped > 0 {
		add("archive: %s of WAL given up for want of space, and the repository does not know yet", plural(l.Dropped, "file"))
	}
	if l.Error != "" {
		add("server: %s", l.Error)
	}
	return all
}

// looker looks at the local server again and again over one session.
type looker struct {
	dsn, pgdata, state string
	session            *server.Server
	sizes              []sizeAt
}

type sizeAt struct {
	at    time.Time
	bytes int64
}

// LookLocal looks once. Without a history there is no FullIn.
func LookLocal(ctx context.Context, dsn, pgdata, state string, now time.Time) Local {
	k := &looker{dsn: dsn, pgdata: pgdata, state: state}
	defer k.close()
	return k.look(ctx, now)
}

func (k *looker) close() {
	if k.session != nil {
		k.session.Close()
		k.session = nil
	}
}

func (k *looker) look(ctx context.Context, now time.Time) Local {
	l := Local{Seen: now}
	if k.pgdata != "" {
		control, _ := wal.ReadControl(k.pgdata)
		l.System = control.System
		k.files(&l, int64(control.SegmentSize), now)
	}
	if err := k.ask(ctx, &l); err != nil {
		k.close()
		l.Server, l.Error = "down", err.Error()
		if _, err := os.Stat(filepath.Join(k.pgdata, "PG_VERSION")); k.pgdata != "" && errors.Is(err, fs.ErrNotExist) {
			l.Server, l.Error = "absent", ""
		}
	}
	return l
}

// ask asks the server, if there is a way to it.
func (k *looker) ask(ctx context.Context, l *Local) (err error) {
	if k.session == nil {
		if k.session, err = server.Connect(ctx, k.dsn); err != nil {
			return err
		}
	}
	if k.pgdata == "" { // a server elsewhere, of which nothing but it tells
		facts, err := k.session.Facts(ctx)
		if err != nil {
			return err
		}
		l.System = facts.System
	}
	p, err := k.session.Position(ctx)
	if err != nil {
		return err
	}
	if l.Server = "primary"; p.InRecovery {
		l.Server = "standby"
		return nil // its statistics are of the time when it led
	}
	a, err := k.session.Archiver(ctx)
	if err == nil && a.Failing() {
		l.FailedFile, l.FailingSince = a.LastFailed, cmp.Or(a.ArchivedAt, a.FailedAt)
	}
	return err
}

// segmentName is the length of a segment's name, and of no other's in pg_wal.
const segmentName = 24

// files reads what needs no server. A directory that is not there counts as empty:
// a member may be being created. Segments all have one size, and their names are in
// the order of the archiver: of 20,000 that wait none but the first is looked at.
func (k *looker) files(l *Local, segment int64, now time.Time) {
	dir := filepath.Join(k.pgdata, "pg_wal")
	first := ""
	for _, name := range namesIn(filepath.Join(dir, "archive_status")) {
		file, ready := strings.CutSuffix(name, ".ready")
		if !ready {
			continue
		}
		if l.Backlog++; len(file) == segmentName {
			l.BacklogBytes += segment
		}
		if first == "" || name < first {
			first = name
		}
	}
	if info, err := os.Lstat(filepath.Join(dir, "archive_status", first)); first != "" && err == nil {
		l.Waiting = info.ModTime()
	}
	for _, name := range namesIn(dir) {
		if segment > 0 && len(name) == segmentName {
			l.WALBytes += segment
		} else if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			l.WALBytes += info.Size()
		}
	}
	if k.state != "" {
		l.Dropped = len(namesIn(wal.DroppedDir(k.state)))
	}
	var fsys syscall.Statfs_t
	if syscall.Statfs(dir, &fsys) != nil {
		return
	}
	l.FreeBytes = int64(fsys.Bavail) * fsys.Bsize
	k.sizes = append(k.sizes, sizeAt{now, l.WALBytes})
	l.FullIn = fullIn(&k.sizes, l.FreeBytes).Seconds()
}

// How much history makes a rate: less is noise, more is the past. A filesystem with
// less than leastFree bytes has no room for two segments: it is full.
const (
	rateLeast = 30 * time.Second
	rateMost  = 10 * time.Minute
	leastFree = 32 << 20
)

// fullIn is how long the free bytes last at the growth that the sizes show; 0 if
// they do not grow. It forgets sizes that are too old.
func fullIn(sizes *[]sizeAt, free int64) time.Duration {
	all := *sizes
	last := all[len(all)-1]
	for len(all) > 1 && last.at.Sub(all[0].at) > rateMost {
		all = all[1:]
	}
	*sizes = all
	if free < leastFree {
		return time.Second
	}
	span, grown := last.at.Sub(all[0].at), last.bytes-all[0].bytes
	if span < rateLeast || grown <= 0 {
		return 0
	}
	return time.Duration(float64(free) / float64(grown) * float64(span))
}

// namesIn are the names in a directory, in no order.
func namesIn(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	return names
}
