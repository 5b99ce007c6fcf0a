package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// verify lets PostgreSQL's own pg_verifybackup judge the copy. pg_control is not in place
// yet and is checked by us. So were the checksums, of what went into each file: a second
// look would find it in the page cache.
func (x *execution) verify(ctx context.Context) error {
	if x.BinDir == "" {
		x.Log.Warn("no directory of PostgreSQL's programs: pg_verifybackup did not judge the copy")
		return nil
	}
	args := []string{"--no-parse-wal", "--quiet", "--ignore=" + controlFile, "--ignore=" + MarkerFile, "--ignore=" + patroniCache}
	if !x.VerifyFiles {
		args = append(args, "--skip-checksums")
	}
	status, said, err := x.run(ctx, filepath.Join(x.BinDir, "pg_verifybackup"), append(args, x.ground.PGDATA)...)
	if err != nil {
		return fmt.Errorf("run pg_verifybackup: %w", err)
	}
	if status != 0 {
		return &VerificationError{Problem: "pg_verifybackup refuses the copy: " + said,
			Advice: "the backup or this host's storage is damaged: run verify on the backup, or restore another one with --backup"}
	}
	return nil
}

// run runs a program in the copy, with an empty environment, and gives its exit
// status, 255 if a signal ended it, and its last words.
func (x *execution) run(ctx context.Context, program string, args ...string) (status int, said string, err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = x.ground.PGDATA, []string{}, 5*time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return 0, "", ctx.Err()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status = exit.ExitCode(); status < 0 {
			status = 255
		}
		err = nil
	}
	return status, lastLines(out, 5), err
}

// probeLimit is how long one probe of restore_command may take: its own last
// deadline is a quarter of an hour without progress.
const probeLimit = 20 * time.Minute

// probe runs the restore_command that was written as the server will, but with an
// empty environment, for one file that the archive has and one that it has not (R26).
func (x *execution) probe(ctx context.Context) error {
	if x.Member {
		return nil // its restore_command is Patroni's; the WAL of its first start is there
	}
	segment := postgres.SegmentAt(x.plan.Backup.Timeline, x.plan.Backup.StartLSN, x.plan.Backup.SegmentSize)
	if len(x.plan.WAL) > 0 {
		segment = x.plan.WAL[0]
	}
	for _, ask := range []struct {
		file, path string
		want       int
	}{
		{segment.Name(), "pg_wal/RECOVERYXLOG", 0},
		{postgres.HistoryFile(^postgres.TimelineID(0)).String(), "pg_wal/RECOVERYHISTORY", 1},
	} {
		got, said, err := x.ask(ctx, ask.file, ask.path)
		if err != nil {
			return err
		}
		if got != ask.want {
			return &VerificationError{
				Problem: fmt.Sprintf("restore_command for %s ended with status %d, want %d: %s", ask.file, got, ask.want, said),
				Advice:  "recovery would fail in the same way: it runs as this user, in PGDATA, without environment variables; credentials belong into the configuration file",
			}
		}
	}
	return nil
}

func (x *execution) ask(ctx context.Context, file, path string) (status int, said string, err error) {
	command := strings.NewReplacer("%%", "%", "%f", file, "%p", path).Replace(ShellCommand(x.RestoreCommand))
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	status, said, err = x.run(ctx, "/bin/sh", "-c", command)
	if err != nil {
		return 0, "", fmt.Errorf("restore_command for %s: %w", file, err)
	}
	got, statErr := os.Stat(filepath.Join(x.ground.PGDATA, path))
	if err := os.RemoveAll(filepath.Join(x.ground.PGDATA, path)); err != nil {
		return 0, "", err
	}
	if status == 0 && (statErr != nil || got.Size() == 0) {
		return 255, "it said 0 and brought nothing", nil
	}
	return status, said, nil
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// FindBinDir finds PostgreSQL's programs of one major version: in the directory
// that is preferred (may be empty), where Debian and the PGDG packages put them,
// and where pg_config says.
func FindBinDir(ctx context.Context, major int, preferred string) (string, error) {
	places := []string{preferred, fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major)}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		places = append(places, strings.TrimSpace(string(out)))
	}
	for _, dir := range places {
		if dir == "" {
			continue
		}
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		// "postgres (PostgreSQL) 15.18 (Debian 15.18-1)", "19beta1"
		_, version, _ := strings.Cut(string(out), ") ")
		number := strings.FieldsFunc(version, func(r rune) bool { return r < '0' || r > '9' })
		if err == nil && len(number) > 0 && number[0] == fmt.Sprint(major) {
			return dir, nil
		}
	}
	return "", refuse("install the server package of that version, or set patroni.bin_dir in the configuration",
		"no programs of PostgreSQL %d on this host (looked in %s)", major, strings.Join(places, ", "))
}
