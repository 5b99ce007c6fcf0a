package backup

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

// Source is the server that is backed up: by file copy on its own host, or streamed
// over the replication protocol to any.
type Source struct {
	Server   *server.Server // a session of its own; the caller closes it
	Streamed bool           // over a second session that replicates; one stream, whatever Options.Workers is
	PGDATA   string         // the data directory as this host sees it; empty: where the server says
	Member   string         // Patroni's name of the member
	Reason   string         // why this member, for the manifest; may be empty

	// Leader opens a session on whoever leads now; the backup closes it. Only a
	// standby needs it: the leader makes the checkpoint that the backup begins at and
	// ends the segments that it needs. It is asked again when the copy is done, so
	// that a failover meanwhile does no harm.
	Leader func(context.Context) (*server.Server, error)
}

// method is what a manifest calls it.
func (s Source) method() string {
	if s.Streamed {
		return "base-backup"
	}
	return "file-copy"
}

// Options say how. Zero values take the defaults.
type Options struct {
	ID      catalog.BackupID // required
	Comment string
	Tool    string // version of this program, for the manifest

	Workers  int   // files copied at once; 2
	PackSize int64 // bytes of plaintext after which a pack ends; 256 MiB
	Rate     int64 // bytes read each second by all workers; 0 is no limit

	// MaxLag is how many bytes a standby may be behind the leader when its backup
	// begins; 0 is no limit.
	MaxLag int64

	// ConditionalWrites goes into repository.json if this backup makes the repository.
	ConditionalWrites string
	// ArchiveStall is how long the wait for WAL in the repository, for a standby's
	// replay or for a leader goes on without progress, ArchiveLimit how long the first
	// of them in all; 60 s and 1 h.
	ArchiveStall, ArchiveLimit time.Duration

	Events Events
}

func (o Options) withDefaults() Options {
	o.Workers = cmp.Or(o.Workers, 2)
	o.PackSize = cmp.Or(o.PackSize, 256<<20)
	o.ConditionalWrites = cmp.Or(o.ConditionalWrites, "required")
	o.ArchiveStall = cmp.Or(o.ArchiveStall, time.Minute)
	o.ArchiveLimit = cmp.Or(o.ArchiveLimit, time.Hour)
	return o
}

// Phase is a part of a backup, in the order in which they come.
type Phase string

// The phases.
const (
	PhasePreflight Phase = "preflight"
	PhaseStart     Phase = "start"
	PhaseCopy      Phase = "copy"
	PhaseStop      Phase = "stop"
	PhaseWAL       Phase = "wal"
	PhaseCommit    Phase = "commit"
)

// Progress is how far the copy is.
type Progress struct {
	Files, FilesTotal int   // FilesTotal is 0 where a server streams
	Bytes, BytesTotal int64 // of the database, uncompressed; BytesTotal is an estimate there
}

// Events tell a caller how a backup goes. Any of them may be nil. They are called
// from several goroutines, but never at once.
type Events struct {
	Phase    func(Phase)
	Progress func(Progress) // each second while files are copied, and at the end
	Waiting  func(string)   // while something is waited for: for what, in words
	Warning  func(string)
}

// PreflightError refuses a backup before anything was changed: the server may
// have switched its WAL segment, the repository holds no new backup object.
type PreflightError struct {
	Reason string
	Advice string
	Err    error // what lies below; may be nil
}

func (e *PreflightError) Error() string {
	if e.Err != nil {
		return e.Reason + ": " + e.Err.Error()
	}
	return e.Reason
}

func (e *PreflightError) Unwrap() error { return e.Err }

// Hint is what a person can do about it; may be empty.
func (e *PreflightError) Hint() string {
	if hint, ok := e.Err.(interface{ Hint() string }); ok && e.Advice == "" {
		return hint.Hint()
	}
	return e.Advice
}

// AbandonedError ends a backup under way whose server is not what it was when the
// backup began. Nothing was committed; the next attempt chooses its source anew.
type AbandonedError struct{ Reason string }

func (e *AbandonedError) Error() string {
	return e.Reason + " during the backup: nothing was committed"
}

// Hint is what a person can do about it.
func (e *AbandonedError) Hint() string { return "look at patronictl list and take another backup" }

// needed are directories that no tablespace and no option moves: a link in their
// place would leave a hole in the backup.
var needed = map[string]bool{"base": true, "global": true, "pg_xact": true, "pg_multixact": true, "pg_commit_ts": true,
	"pg_twophase": true, "pg_logical": true, "pg_tblspc": true}

func inTablespaces(list []postgres.Tablespace, oid uint32) bool {
	return slices.ContainsFunc(list, func(t postgres.Tablespace) bool { return t.OID == oid })
}
