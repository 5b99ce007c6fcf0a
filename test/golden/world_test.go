// Package golden_test reads the repositories that released versions have written:
// what this version cannot restore is a broken promise.
package golden_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

var makeNew = flag.String("make", "", "make a new golden repository in this directory and test nothing")

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// scope is the cluster's name in every golden repository.
const scope = "golden"

// expectations is expected.json: what the repository was known to hold when it was made.
type expectations struct {
	Format     int                       `json:"format"`
	Program    string                    `json:"program"`
	Major      int                       `json:"major"`
	System     postgres.SystemIdentifier `json:"system_identifier"`
	Backup     catalog.BackupID          `json:"backup"`
	StartLSN   postgres.LSN              `json:"start_lsn"`
	StopLSN    postgres.LSN              `json:"stop_lsn"`
	Tablespace string                    `json:"tablespace"`
	Targets    []target                  `json:"targets"`
}

// target is a restore and what the table marks then holds.
type target struct {
	Flags    []string            `json:"flags"`
	Timeline postgres.TimelineID `json:"timeline"`
	LSN      postgres.LSN        `json:"lsn"` // end of the last record replayed
	Marks    string              `json:"marks"`
}

// world is a repository in a directory and our program.
type world struct {
	*testing.T
	run    *lab.Run
	binary string
	config string
	dir    string // of the repository
}

// newWorld is the program on a repository in dir; server adds lines to the cluster's configuration.
func newWorld(t *testing.T, dir, server string) *world {
	t.Helper()
	run := lab.RunOf(t)
	w := &world{T: t, run: run, binary: run.Build("pgha-backup"), dir: dir}
	w.config = run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster:
  scope: %s
  member: g1
  bin_dir: %s
  state_dir: %s
%srepositories:
  - {name: golden, type: file, file: {path: %s}, codec: zstd, level: best}
log: {level: error}
`, scope, lab.BinDir(t, 15), run.Mkdir(lab.User1, 0o700, "state"), server, dir), "pgha.yaml")
	return w
}

// must runs our program and insists on success.
func (w *world) must(args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	cmd := w.run.Command(ctx, lab.User1, nil, append([]string{w.binary, "--config", w.config}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			w.Fatalf("%s: exit %d\n%s%s", strings.Join(args, " "), exit.ExitCode(), stdout.String(), stderr.String())
		}
		w.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return stdout.String()
}

// marks reads the table of marks of a server, through its index too.
func marks(t *testing.T, dsn string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(t.Context(), "select name from marks order by id")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// objects are the keys of a file repository with their paths.
func objects(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			key, rerr := filepath.Rel(dir, path)
			found[key], err = path, rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
