package ledger

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// CommitKey finds a commit: the same number names other transactions on other timelines.
type CommitKey struct {
	Timeline postgres.TimelineID
	XID      uint32
}

// Commit is a transaction's last record as pg_waldump shows it.
type Commit struct {
	CommitKey
	Start postgres.LSN
	Time  time.Time
	Abort bool
}

// Waldump runs PostgreSQL's pg_waldump over one timeline's segments in walDir, from start to end, or to the end
// of valid WAL when end is zero, and returns commits and aborts in WAL order.
func Waldump(ctx context.Context, binDir, walDir string, timeline postgres.TimelineID, start, end postgres.LSN) ([]Commit, error) {
	args := []string{"-p", walDir, "-t", strconv.FormatUint(uint64(timeline), 10), "-s", start.String(), "-r", "Transaction"}
	if end != 0 {
		args = append(args, "-e", end.String())
	}
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "pg_waldump"), args...)
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	commits, err := parseWaldump(out, timeline)
	ended := cmd.Wait()
	if err != nil {
		return nil, err
	}
	// Without an end pg_waldump always complains, about the record it could not find.
	if ended != nil && (end != 0 || len(commits) == 0) {
		return nil, fmt.Errorf("pg_waldump %s: %w: %s", strings.Join(args, " "), ended, strings.TrimSpace(complaint.String()))
	}
	return commits, nil
}

var commitLine = regexp.MustCompile(`^rmgr: Transaction .* tx:\s+(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), .* desc: (COMMIT|ABORT) (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC`)

func parseWaldump(r io.Reader, timeline postgres.TimelineID) ([]Commit, error) {
	var commits []Commit
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		m := commitLine.FindStringSubmatch(in.Text())
		if m == nil {
			continue
		}
		xid, err := strconv.ParseUint(m[1], 10, 32)
		if err != nil {
			return nil, err
		}
		lsn, err := postgres.ParseLSN(m[2])
		if err != nil {
			return nil, err
		}
		at, err := time.Parse("2006-01-02 15:04:05.999999", m[4])
		if err != nil {
			return nil, err
		}
		commits = append(commits, Commit{CommitKey{timeline, uint32(xid)}, lsn, at, m[3] == "ABORT"})
	}
	return commits, in.Err()
}

// Index makes the map that a Cut wants.
func Index(commits []Commit) map[CommitKey]Commit {
	m := make(map[CommitKey]Commit, len(commits))
	for _, c := range commits {
		if !c.Abort {
			m[c.CommitKey] = c
		}
	}
	return m
}

// StopAtTime is where PostgreSQL ends recovery for a time: the start of the first commit or abort past it in
// WAL order, inclusive or not. ok is false when no record is past it.
func StopAtTime(commits []Commit, target time.Time, inclusive bool) (stop postgres.LSN, ok bool) {
	for _, c := range commits {
		if c.Time.After(target) || !inclusive && c.Time.Equal(target) {
			return c.Start, true
		}
	}
	return 0, false
}
