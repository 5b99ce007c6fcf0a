package wal

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// pgdata lays out what a real server left as a data directory, and returns the
// segments of its first timeline.
func pgdata(t *testing.T) (dir string, segments []string) {
	t.Helper()
	dir = t.TempDir()
	for _, sub := range []string{"global", "pg_wal"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "PG_VERSION"), []byte("15\n"))
	f, err := os.Open("../postgres/testdata/pg15.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := path.Base(h.Name)
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if name == "pg_control" {
			write(t, filepath.Join(dir, "global", name), b)
		}
		if file, err := postgres.ParseWALFile(name); err == nil {
			write(t, filepath.Join(dir, "pg_wal", name), b)
			if file.Kind == postgres.WALSegment && file.Segment.Timeline == 1 {
				segments = append(segments, name)
			}
		}
	}
	slices.Sort(segments)
	return dir, segments
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pusher(bucket storage.Bucket, state string) *Pusher {
	return &Pusher{Bucket: bucket, Identity: "test", Scope: "main", State: state}
}

// archive pushes everything in pg_wal.
func archive(t *testing.T, bucket storage.Bucket, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, err := pusher(bucket, "").Push(t.Context(), filepath.Join(dir, "pg_wal", entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func must(t *testing.T, dir string) postgres.SystemIdentifier {
	t.Helper()
	control, err := ReadControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	return control.System
}

// dir is the directory of a getter's spool.
func (r *retrieval) spoolDir(t *testing.T) string {
	t.Helper()
	r.file, r.dest = postgres.WALFile{Kind: postgres.WALSegment}, hook.RecoveryXLOG
	return r.spool().dir
}
