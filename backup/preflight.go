package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// preflight proves that the backup can be taken and that WAL reaches this
// repository, before a byte is copied or a backup object written.
func (t *take) preflight(ctx context.Context) error {
	var err error
	if t.facts, err = t.source.Server.Facts(ctx); err != nil {
		return &PreflightError{Reason: "the server does not say what it is", Err: err}
	}
	t.archive.size = t.facts.SegmentSize
	if err := t.checkServer(); err != nil {
		return err
	}
	t.writer = t.facts
	if t.facts.InRecovery {
		if err := t.checkStandby(ctx); err != nil {
			return err
		}
		defer t.leave()
	}
	if f := t.writer; !f.Archives() {
		return &PreflightError{Reason: fmt.Sprintf("WAL is not archived: archive_mode is %q, archive_command %q", f.ArchiveMode, f.ArchiveCommand),
			Advice: "a backup is worth nothing without the WAL of its time: set archive_mode = on (needs a restart) and archive_command to archive-push"}
	}
	checkFiles := t.checkDirectory
	if t.source.Streamed {
		checkFiles = t.openStream
	}
	if err := checkFiles(ctx); err != nil {
		return err
	}
	if err := t.openRepository(ctx); err != nil {
		return err
	}
	if err := t.proveArchiving(ctx); err != nil || !t.facts.InRecovery {
		return err
	}
	return t.catchUp(ctx)
}

func (t *take) checkServer() error {
	f := t.facts
	switch at := t.repository.Location(); {
	case !f.Version.Supported():
		return &PreflightError{Reason: fmt.Sprintf("PostgreSQL %s is not supported", f.Version),
			Advice: fmt.Sprintf("this version is made for PostgreSQL %d to %d", postgres.OldestMajor, postgres.NewestMajor)}
	case f.InRecovery && t.source.Leader == nil:
		return &PreflightError{Reason: "the server is a standby", Advice: "take the backup on the leader"}
	case f.System != at.System:
		return &PreflightError{Reason: fmt.Sprintf("the server is system %s, the repository is that of %s", f.System, at.System),
			Advice: "is this the right cluster, and was it not upgraded or made anew?"}
	}
	return nil
}

// checkDirectory makes sure that the files here are those of the server there.
func (t *take) checkDirectory(context.Context) error {
	t.source.PGDATA = cmp.Or(t.source.PGDATA, t.facts.DataDirectory)
	here, err := os.Stat(t.source.PGDATA)
	if err != nil {
		return &PreflightError{Reason: "the data directory cannot be read on this host", Err: err,
			Advice: "a backup by file copy runs on the server's own host, as the user that owns PGDATA"}
	}
	if there, err := os.Stat(t.facts.DataDirectory); err == nil && !os.SameFile(here, there) {
		return &PreflightError{Reason: fmt.Sprintf("the server's data directory is %s, the one configured %s", t.facts.DataDirectory, t.source.PGDATA),
			Advice: "point the configuration at the server that owns this directory"}
	}
	t.groupAccess = here.Mode().Perm()&0o040 != 0
	_, t.control, err = readControl(t.source.PGDATA)
	if err != nil {
		return &PreflightError{Reason: "the data directory's pg_control cannot be read", Err: err}
	}
	if t.control.System != t.facts.System {
		return &PreflightError{Reason: fmt.Sprintf("%s belongs to system %s, the server to %s", t.source.PGDATA, t.control.System, t.facts.System),
			Advice: "host, port and data directory in the configuration are of two different servers"}
	}
	return t.checkPages()
}

func (t *take) checkPages() error {
	if t.control.BlockSize != postgres.PageSize {
		return &PreflightError{Reason: fmt.Sprintf("the server is built with pages of %d bytes", t.control.BlockSize), Advice: "only pages of 8192 bytes are supported"}
	}
	return nil
}

func (t *take) openRepository(ctx context.Context) error {
	info, _, err := t.repository.KnownInfo(ctx)
	if errors.Is(err, storage.ErrNotExist) {
		info, err = t.repository.Create(ctx, t.facts.SegmentSize, t.options.ConditionalWrites, time.Now())
	}
	if err == nil && info.SegmentSize != t.facts.SegmentSize {
		err = fmt.Errorf("it has WAL segments of %d bytes, the server %d", info.SegmentSize, t.facts.SegmentSize)
	}
	if err != nil {
		return &PreflightError{Reason: "the repository " + t.repository.Root() + " cannot be used", Err: err}
	}
	return nil
}

// proveArchiving ends the current segment and waits for it, so that terabytes are
// not copied into a backup that can never be whole. The record before the switch
// makes sure that an idle server has something to end.
func (t *take) proveArchiving(ctx context.Context) error {
	lsn, err := t.archive.server.CreateRestorePoint(ctx, fmt.Sprintf("%.63s", "pgha-backup "+string(t.options.ID)))
	if err == nil {
		err = t.archive.server.SwitchWAL(ctx)
	}
	if err == nil {
		err = t.archive.wait(ctx, span{t.writer.Timeline, lsn, lsn})
	}
	if err != nil {
		return &PreflightError{Reason: "WAL does not reach the repository", Err: err}
	}
	return nil
}

// readControl reads pg_control until its checksum is right: the server may be
// writing it.
func readControl(pgdata string) ([]byte, postgres.ControlData, error) {
	for try := 1; ; try++ {
		content, err := os.ReadFile(filepath.Join(pgdata, filepath.FromSlash(controlFile)))
		if err != nil {
			return nil, postgres.ControlData{}, err
		}
		control, err := postgres.ParseControlData(content)
		if err == nil || !errors.Is(err, postgres.ErrControlCRC) || try == 20 {
			return content, control, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
