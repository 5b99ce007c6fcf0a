package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/internal/living"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sys/unix"
)

// stageName is where a new cluster is restored and recovered: inside its data
// directory, which Patroni takes for empty as long as it holds dot-files only. So an
// interruption leaves nothing that Patroni would start, the target forgotten.
const stageName = ".pgha-bootstrap"

// Stage is a new cluster's data directory, claimed, with the place to recover in.
type Stage struct {
	DataDir string
	PGDATA  string // to restore into

	lock *os.File
	log  *slog.Logger
}

// OpenStage claims dataDir, which must hold nothing that counts, and ends the server
// of an interrupted bootstrap. Close it.
func OpenStage(ctx context.Context, dataDir string, log *slog.Logger) (*Stage, error) {
	if !clean(dataDir) {
		return nil, refuse("", "%q is not a clean absolute path of a directory", dataDir)
	}
	s := &Stage{DataDir: dataDir, PGDATA: filepath.Join(dataDir, stageName), log: log}
	if _, err := os.Lstat(dataDir); errors.Is(err, fs.ErrNotExist) {
		if err := creatable("data directory", dataDir); err != nil {
			return nil, err
		}
	}
	if err := atomicfile.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if s.lock, err = os.Open(dataDir); err != nil {
		return nil, err
	}
	if err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = refuse("wait for it, or end it", "another bootstrap into %s is under way", dataDir)
	}
	if err == nil {
		err = s.vacant()
	}
	if err == nil {
		err = s.endServer(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close gives up the claim.
func (s *Stage) Close() error { return s.lock.Close() }

// vacant holds the directory to Patroni's rule. What is in the stage is ours; without
// a pg_control and a marker, Check would not know it.
func (s *Stage) vacant() error {
	entries, err := os.ReadDir(s.DataDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != "lost+found" {
			return refuse("empty it if nothing in it is needed; a bootstrap that was killed while it moved its files leaves such a directory",
				"%s is not empty: it holds %s", s.DataDir, e.Name())
		}
	}
	for _, sign := range []string{controlFile, MarkerFile} {
		if _, err := os.Lstat(filepath.Join(s.PGDATA, sign)); err == nil {
			return nil
		}
	}
	return os.RemoveAll(s.PGDATA)
}

// endServer ends the server that a killed bootstrap has left behind. What it holds
// is thrown away, so it need not end in peace.
func (s *Stage) endServer(ctx context.Context) error {
	pid := living.Postmaster("/proc", s.PGDATA)
	if pid == 0 {
		return nil
	}
	at, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	switch {
	case err != nil:
		return refuse("find out what it is, and end it", "%s has a postmaster.pid of process %d, which cannot be told to be its server", s.PGDATA, pid)
	case at != living.Resolve(s.PGDATA): // the number went to another server since
		return os.Remove(filepath.Join(s.PGDATA, "postmaster.pid"))
	}
	s.log.Warn("a server of an interrupted bootstrap is ended", "pid", pid, "pgdata", s.PGDATA)
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for living.IsPostgres("/proc", pid) {
		select {
		case <-ctx.Done():
			return refuse("end it", "the server of an interrupted bootstrap, process %d, does not end", pid)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Settle makes the recovered and stopped copy a cluster of its own: without a trace
// of its recovery, but for pgha.origin.json, which keeps it out of the archive that it
// came from; and with the WAL of its own timeline marked for its first archiver. Then
// everything moves up, pg_control's directory last, each step durably.
func (s *Stage) Settle(timeline postgres.TimelineID, subscriptions bool) error {
	data, err := os.ReadFile(filepath.Join(s.PGDATA, controlFile))
	if err != nil {
		return err
	}
	control, err := postgres.ParseControlData(data)
	if err != nil {
		return err
	}
	if control.State != postgres.StateShutDown || control.Timeline != timeline {
		return &VerificationError{Problem: fmt.Sprintf("the recovered cluster is %q on timeline %d, not %q on %d",
			control.State, uint32(control.Timeline), postgres.StateShutDown, uint32(timeline))}
	}
	if err := s.forget(subscriptions); err != nil {
		return fmt.Errorf("remove what belongs to the recovery: %w", err)
	}
	if err := s.markReady(control); err != nil {
		return fmt.Errorf("mark the new timeline's WAL to be archived: %w", err)
	}
	if err := s.moveUp(); err != nil {
		return fmt.Errorf("move %s up: %w", s.PGDATA, err)
	}
	return nil
}

// forget removes settings and files of the recovery and of the source's Patroni.
func (s *Stage) forget(subscriptions bool) error {
	conf := filepath.Join(s.PGDATA, autoConfFile)
	text, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	kept := string(text)
	if i := strings.LastIndex(kept, autoConfMark); i >= 0 {
		kept = kept[:i]
	}
	if subscriptions {
		kept += "max_logical_replication_workers = 0 # or it would take over its source's subscriptions; set by pgha-backup\n"
	}
	if err := atomicfile.Write(conf, []byte(kept), 0o600); err != nil {
		return err
	}
	for _, name := range []string{LogFile, hbaFile, recoverySignal, "standby.signal", "postmaster.opts", patroniCache, manifestFile} {
		if err := os.Remove(filepath.Join(s.PGDATA, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return atomicfile.SyncDir(s.PGDATA)
}

// markReady makes the marks that the server would have made, had it archived: for
// the timeline's history and its whole segments. Without the history in the archive
// no server could follow the new cluster.
func (s *Stage) markReady(control postgres.ControlData) error {
	wal := filepath.Join(s.PGDATA, "pg_wal")
	entries, err := os.ReadDir(wal)
	if err != nil {
		return err
	}
	current := postgres.SegmentAt(control.Timeline, control.Checkpoint, control.SegmentSize)
	for _, e := range entries {
		f, err := postgres.ParseWALFile(e.Name())
		ours := err == nil && f.Segment.Timeline == control.Timeline
		whole := ours && f.Kind == postgres.WALSegment && f.Segment.Number(control.SegmentSize) < current.Number(control.SegmentSize)
		if whole || ours && f.Kind == postgres.WALHistory {
			if err := atomicfile.Write(filepath.Join(wal, "archive_status", e.Name()+".ready"), nil, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveUp: only with the last rename is there a pg_control, without which nothing
// starts the directory.
func (s *Stage) moveUp() error {
	info, err := os.Stat(s.PGDATA)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.PGDATA)
	if err != nil {
		return err
	}
	if err := os.Chmod(s.DataDir, info.Mode().Perm()); err != nil {
		return err
	}
	up := func(name string) error {
		return os.Rename(filepath.Join(s.PGDATA, name), filepath.Join(s.DataDir, name))
	}
	both := func() error { return errors.Join(atomicfile.SyncDir(s.PGDATA), atomicfile.SyncDir(s.DataDir)) }
	last := filepath.Dir(controlFile)
	for _, e := range entries {
		if e.Name() == last {
			continue
		}
		if err := up(e.Name()); err != nil {
			return err
		}
	}
	if err := errors.Join(both(), up(last), both()); err != nil {
		return err
	}
	return errors.Join(os.Remove(s.PGDATA), atomicfile.SyncDir(s.DataDir))
}
