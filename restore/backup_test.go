package restore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

const testSystem = postgres.SystemIdentifier(7400000000000000001)

var testNow = time.Date(2026, 11, 21, 5, 0, 0, 0, time.UTC)

// fakeControl is a pg_control of PostgreSQL 15 that our parser believes.
func fakeControl(system postgres.SystemIdentifier) []byte {
	b := make([]byte, 8192)
	le := binary.LittleEndian
	le.PutUint64(b, uint64(system))
	le.PutUint32(b[8:], 1300)
	le.PutUint32(b[12:], 202209061)
	le.PutUint32(b[16:], uint32(postgres.StateInProduction))
	le.PutUint32(b[216:], 8192)
	le.PutUint32(b[220:], 131072)
	le.PutUint32(b[228:], uint32(postgres.DefaultSegmentSize))
	le.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

const fakeLabel = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n" +
	"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-21 04:00:00 UTC\nLABEL: test\nSTART TIMELINE: 1\n"

// content is a backup's volume: path to bytes; a path with a slash at its end is a directory.
type content map[string]string

func baseContent() content {
	return content{
		"PG_VERSION": "15\n", "backup_label": fakeLabel, controlFile: string(fakeControl(testSystem)),
		"postgresql.conf": "max_connections = 50\n", "pg_hba.conf": "local all all peer\n", "pg_ident.conf": "",
		autoConfFile: "work_mem = '8MB'\nprimary_conninfo = 'host=old'\n", "tablespace_map": "16400 /from/ts\n",
		"base/1/1259": strings.Repeat("page", 300_000), "base/1/PG_VERSION": "15\n", "pg_notify/": "", "standby.signal": "",
	}
}

// makeBackup stores a backup of volumes (0 is PGDATA) in a bucket, as a backup run does.
func makeBackup(t *testing.T, bucket storage.Bucket, volumes map[uint32]content) catalog.Manifest {
	t.Helper()
	ctx := t.Context()
	repository := catalog.New(bucket, catalog.Location{Scope: "demo", System: testSystem}, catalog.Options{})
	run, err := repository.StartRun(ctx, catalog.Started{ID: catalog.ManualID(testNow), Member: "n1", Timeline: 1, StartLSN: 0x2000028})
	if err != nil {
		t.Fatal(err)
	}
	m := catalog.Manifest{Type: catalog.Full, Member: "n1", Role: "primary", Source: "file-copy", Version: 150018,
		SegmentSize: postgres.DefaultSegmentSize, Timeline: 1, StartLSN: 0x2000028, StopLSN: 0x2000100, StopTLI: 1,
		Settings: catalog.Settings{CatalogVersion: 202209061, MaxConnections: 100}}
	var index catalog.Index
	var files []postgres.ManifestFile
	for oid, files1 := range volumes {
		if oid != 0 {
			m.Tablespaces = append(m.Tablespaces, postgres.Tablespace{OID: oid, Path: "/from/ts"})
		}
		n := 0
		for name, text := range files1 {
			n++
			pack, err := run.NewPack(ctx, catalog.PackName(oid, n))
			if err != nil {
				t.Fatal(err)
			}
			e := catalog.Entry{Path: strings.TrimSuffix(name, "/"), Mode: 0o644, Size: int64(len(text)), Modified: testNow}
			if oid != 0 {
				e.Path = fmt.Sprintf("pg_tblspc/%d/%s", oid, e.Path)
			}
			if strings.HasSuffix(name, "/") {
				err = pack.Directory(e)
			} else if err = pack.Begin(e); err == nil {
				if _, err = pack.Write([]byte(text)); err == nil {
					e, err = pack.End()
				}
				files = append(files, postgres.ManifestFile{Path: e.Path, Size: e.Size, Modified: e.Modified, CRC32C: e.CRC32C})
			}
			if err != nil {
				t.Fatal(err)
			}
			toc, info, err := pack.Close()
			if err != nil {
				t.Fatal(err)
			}
			index.Packs = append(index.Packs, toc)
			m.Packs = append(m.Packs, info)
		}
	}
	var text bytes.Buffer
	if err := postgres.WriteBackupManifest(&text, m.Version, testSystem, func(yield func(postgres.ManifestFile) bool) {
		for _, f := range files {
			if !yield(f) {
				return
			}
		}
	}, []postgres.WALRange{{Timeline: 1, Start: m.StartLSN, End: m.StopLSN}}); err != nil {
		t.Fatal(err)
	}
	if m, err = run.Commit(ctx, m, index, text.Bytes()); err != nil {
		t.Fatal(err)
	}
	return m
}

// scene is a plan for a synthetic backup, with places below one temporary directory.
type scene struct {
	plan    Plan
	pgdata  string
	options Options
}

func newScene(t *testing.T, m catalog.Manifest) scene {
	t.Helper()
	dir := t.TempDir()
	target := Target{Kind: LSN, LSN: 0x2000200, Action: Promote}
	s := scene{pgdata: filepath.Join(dir, "copy", "data"), plan: Plan{Backup: m, Target: target, Effective: target, Timeline: 1,
		History: postgres.RootHistory(1), WAL: []postgres.Segment{{Timeline: 1, Seg: 2}}}}
	for _, ts := range m.Tablespaces {
		s.plan.Tablespaces = append(s.plan.Tablespaces, TablespacePlan{OID: ts.OID, From: ts.Path, To: filepath.Join(dir, fmt.Sprint("ts", ts.OID))})
	}
	script := filepath.Join(dir, "archive get")
	if err := os.WriteFile(script, []byte("[ $1 = 000000010000000000000002 ] && echo wal >\"$2\" || exit 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.options = Options{RestoreCommand: []string{"/bin/sh", script, "%f", "%p"}, ArchiveMode: ArchiveOff, Now: testNow}
	return s
}

func repositoryIn(bucket storage.Bucket) *catalog.Repository {
	return catalog.New(bucket, catalog.Location{Scope: "demo", System: testSystem}, catalog.Options{})
}

// restore checks and executes, as the command does.
func (s scene) restore(ctx context.Context, bucket storage.Bucket, force bool) error {
	ground, err := Check(s.plan, s.pgdata, force)
	if err != nil {
		return err
	}
	return Execute(ctx, repositoryIn(bucket), s.plan, ground, s.options)
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func exists(parts ...string) bool {
	_, err := os.Lstat(filepath.Join(parts...))
	return err == nil
}

func put(t *testing.T, text string, parts ...string) {
	t.Helper()
	path := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
