package catalog

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// Manifest is manifest.json: the record that makes a backup exist.
type Manifest struct {
	Format  int        `json:"format"`
	ID      BackupID   `json:"id"`
	Run     RunID      `json:"run"`
	Type    BackupType `json:"type"`
	Parent  BackupID   `json:"parent,omitempty"`
	Scope   string     `json:"scope"`
	Member  string     `json:"member"`
	Role    string     `json:"role"`             // of the member copied from: primary or replica
	Source  string     `json:"source"`           // "file-copy" or "base-backup"
	Reason  string     `json:"reason,omitempty"` // why this member
	Tool    string     `json:"tool"`             // version of pgha-backup
	Comment string     `json:"comment,omitempty"`

	System      postgres.SystemIdentifier `json:"system_identifier"`
	Version     postgres.Version          `json:"server_version"`
	SegmentSize postgres.SegmentSize      `json:"wal_segment_size"`
	Timeline    postgres.TimelineID       `json:"timeline"`
	StartLSN    postgres.LSN              `json:"start_lsn"`      // redo point: replay begins here
	Checkpoint  postgres.LSN              `json:"checkpoint_lsn"` // of the starting checkpoint
	StopLSN     postgres.LSN              `json:"stop_lsn"`       // consistent from here on
	StopTLI     postgres.TimelineID       `json:"stop_timeline"`
	StartTime   time.Time                 `json:"start_time"` // the server's clock
	StopTime    time.Time                 `json:"stop_time"`  // the server's clock

	Settings    Settings              `json:"settings"`
	Tablespaces []postgres.Tablespace `json:"tablespaces,omitempty"`

	Codec          codec.Name `json:"codec"`
	Packs          []PackInfo `json:"packs"`
	Index          Document   `json:"index"`
	BackupManifest Document   `json:"backup_manifest"`
	Files          int        `json:"files"`
	Bytes          int64      `json:"bytes"`  // of the database, uncompressed
	Stored         int64      `json:"stored"` // in the bucket
	Damage         []Damage   `json:"damage,omitempty"`
	Vanished       int        `json:"vanished,omitempty"` // files removed while we copied
}

// BackupType is full or incr.
type BackupType string

// The types of backup.
const (
	Full        BackupType = "full"
	Incremental BackupType = "incr"
)

// Settings are the values of the server that a restore must respect: recovery on
// a standby stops if the first five are lower than they were.
type Settings struct {
	MaxConnections       int    `json:"max_connections"`
	MaxWorkerProcesses   int    `json:"max_worker_processes"`
	MaxWALSenders        int    `json:"max_wal_senders"`
	MaxPreparedXacts     int    `json:"max_prepared_transactions"`
	MaxLocksPerXact      int    `json:"max_locks_per_transaction"`
	WALLevel             string `json:"wal_level"`
	WALLogHints          bool   `json:"wal_log_hints"`
	DataChecksumVersion  int    `json:"data_checksum_version"` // 0: off
	TrackCommitTimestamp bool   `json:"track_commit_timestamp"`
	BlockSize            int    `json:"block_size"`
	RelationSegmentSize  int    `json:"relation_segment_size"` // blocks
	CatalogVersion       int    `json:"catalog_version"`
	PGDATA               string `json:"pgdata"`
	ConfigFile           string `json:"config_file"`
	GroupAccess          bool   `json:"group_access,omitempty"` // PGDATA is 0750
}

func (s Settings) minima() []int {
	return []int{s.MaxConnections, s.MaxWorkerProcesses, s.MaxWALSenders, s.MaxPreparedXacts, s.MaxLocksPerXact}
}

// PackInfo is one stored pack.
type PackInfo struct {
	Name   string `json:"name"` // base-0001.tar, 16400-0001.tar
	Size   int64  `json:"size"` // as stored
	Plain  int64  `json:"plain"`
	SHA256 string `json:"sha256"` // as stored
	// EndLSN is the server's position when the pack ended: what a resumed run needs (R23).
	EndLSN postgres.LSN `json:"end_lsn,omitempty"`
}

// Document is a stored document that the manifest vouches for.
type Document struct {
	Size   int64  `json:"size"` // as stored
	SHA256 string `json:"sha256"`
}

// Damage is a file whose pages fail their checksum; Blocks are at most 1000.
type Damage struct {
	Path   string   `json:"path"`
	Blocks []uint32 `json:"blocks"`
}

// Damaged tells whether the backup holds bad pages: such a one is never the last
// good one, never used for a replica, never counted by retention (R16).
func (m Manifest) Damaged() bool { return len(m.Damage) > 0 }

// Validate refuses a manifest that contradicts itself or reaches outside.
func (m Manifest) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := ParseBackupID(string(m.ID)); err != nil {
		bad("%w", err)
	}
	if !runPattern.MatchString(string(m.Run)) {
		bad("run %q: want eight hexadecimal digits", m.Run)
	}
	if m.Type != Full && m.Type != Incremental {
		bad("type %q: want full or incr", m.Type)
	}
	if (m.Type == Incremental) != (m.Parent != "") {
		bad("parent %q does not fit type %s", m.Parent, m.Type)
	}
	if m.Parent != "" {
		if _, err := ParseBackupID(string(m.Parent)); err != nil {
			bad("parent: %w", err)
		}
	}
	if m.System == 0 || m.Timeline == 0 || m.StopTLI < m.Timeline {
		bad("system identifier %s, timelines %d to %d", m.System, m.Timeline, m.StopTLI)
	}
	if m.StartLSN == 0 || m.StopLSN < m.StartLSN {
		bad("start %s and stop %s", m.StartLSN, m.StopLSN)
	}
	if err := m.SegmentSize.Validate(); err != nil {
		bad("%w", err)
	} else if span := uint64(m.StopLSN-m.StartLSN) / uint64(m.SegmentSize); span >= maxNeeded {
		bad("start %s and stop %s are %d segments apart", m.StartLSN, m.StopLSN, span)
	}
	for _, n := range m.Settings.minima() {
		if n < 0 || n > math.MaxInt32 {
			bad("setting of %d", n)
		}
	}
	if _, _, err := codec.Parse(string(m.Codec), ""); err != nil {
		bad("%w", err)
	}
	known := map[string]bool{"base": true}
	for _, ts := range m.Tablespaces {
		if known[fmt.Sprint(ts.OID)] || ts.OID == 0 || !strings.HasPrefix(ts.Path, "/") || strings.ContainsRune(ts.Path, 0) {
			bad("tablespace %d at %q", ts.OID, ts.Path)
		}
		known[fmt.Sprint(ts.OID)] = true
	}
	seen := map[string]bool{}
	for _, p := range m.Packs {
		volume, _, ok := strings.Cut(p.Name, "-")
		if !ok || !packPattern.MatchString(p.Name) || !known[volume] || seen[p.Name] {
			bad("pack %q", p.Name)
		}
		if p.Size < 0 || p.Plain < 0 || p.Plain > maxFrames*FrameSize || len(p.SHA256) != 64 {
			bad("pack %q: size %d, plain %d, sha256 %q", p.Name, p.Size, p.Plain, p.SHA256)
		}
		seen[p.Name] = true
	}
	if len(m.Packs) == 0 {
		bad("no packs")
	}
	if len(m.Index.SHA256) != 64 || m.Index.Size < 0 || len(m.BackupManifest.SHA256) != 64 || m.BackupManifest.Size < 0 {
		bad("index and backup_manifest without hashes")
	}
	return errors.Join(errs...)
}
