// Package backup takes base backups: it brings the server into backup mode, copies
// its files into packs, waits until the WAL they need is stored, and commits.
package backup

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// take is one backup under way.
type take struct {
	source     Source
	repository *catalog.Repository
	options    Options
	archive    *archiveWait
	stream     *server.BaseBackup // nil: files are copied
	telling    sync.Mutex

	// by preflight
	facts       server.Facts
	writer      server.Facts // of the server that writes WAL: this one, or a standby's leader
	control     postgres.ControlData
	groupAccess bool
	// by start
	began       server.Start
	run         *catalog.Run
	tablespaces []postgres.Tablespace
	// by copyFiles or copyStream, and stop
	copier   *copier
	unpacker *unpacker
	ended    server.Stop
	label    postgres.BackupLabel
	wal      []postgres.WALRange // from start to stop, timeline by timeline
	// by commit
	manifest catalog.Manifest
}

// Take takes a full backup of a running primary, or of a standby if the source knows
// its leader, and commits it. The error is a *PreflightError if nothing was changed.
// After any other one nothing was committed either: what the run has stored is
// garbage for expiry to remove. An error after the start ends the session of
// source.Server, and backup mode with it.
func Take(ctx context.Context, source Source, repository *catalog.Repository, options Options) (catalog.Manifest, error) {
	t := &take{source: source, repository: repository, options: options.withDefaults()}
	defer t.leave()
	t.archive = &archiveWait{repository: repository, server: source.Server, stall: t.options.ArchiveStall, limit: t.options.ArchiveLimit,
		warn: t.warn, waiting: func(text string) { tell(t, options.Events.Waiting, text) }}
	start, copyAll, stop := t.start, t.copyFiles, t.stop
	if source.Streamed {
		start, copyAll, stop = t.startStream, t.copyStream, t.stopStream
	}
	defer func() {
		if t.stream != nil {
			t.stream.Close()
		}
	}()
	for _, step := range []struct {
		phase Phase
		run   func(context.Context) error
	}{
		{PhasePreflight, t.preflight}, {PhaseStart, start}, {PhaseCopy, copyAll}, {PhaseStop, stop}, {PhaseWAL, t.awaitWAL}, {PhaseCommit, t.commit},
	} {
		tell(t, options.Events.Phase, step.phase)
		if err := step.run(ctx); err != nil {
			if step.phase != PhasePreflight {
				source.Server.Close()
			}
			return catalog.Manifest{}, err
		}
	}
	return t.manifest, nil
}

// tell tells an event to who wants it, never two at once.
func tell[T any](t *take, event func(T), what T) {
	if event != nil {
		t.telling.Lock()
		defer t.telling.Unlock()
		event(what)
	}
}

func (t *take) warn(text string) { tell(t, t.options.Events.Warning, text) }

// start brings the server into backup mode and makes sure that we see its files
// as it does.
func (t *take) start(ctx context.Context) error {
	var err error
	if t.began, err = t.source.Server.StartBackup(ctx, t.name()); err != nil {
		return err
	}
	if _, t.control, err = readControl(t.source.PGDATA); err != nil {
		return err
	}
	if t.control.Redo < t.began.LSN || t.control.Timeline != t.began.Timeline {
		return fmt.Errorf("%s does not show the checkpoint that the server has just made (it has %s on timeline %d, the backup began at %s on %d): is it the server's storage, without a cache between?",
			t.source.PGDATA, t.control.Redo, t.control.Timeline, t.began.LSN, t.began.Timeline)
	}
	if t.tablespaces, err = t.source.Server.Tablespaces(ctx); err != nil {
		return err
	}
	return t.startRun(ctx)
}

// name is what the server knows the backup by.
func (t *take) name() string { return "pgha-backup " + string(t.options.ID) }

func (t *take) startRun(ctx context.Context) (err error) {
	t.run, err = t.repository.StartRun(ctx, catalog.Started{ID: t.options.ID, Member: t.source.Member,
		Timeline: t.began.Timeline, StartLSN: t.began.LSN, At: t.began.Time})
	return err
}

// copyFiles copies everything but what must come last.
func (t *take) copyFiles(ctx context.Context) error {
	w := &walker{pgdata: t.source.PGDATA, summary: t.facts.Version.Major() >= 17,
		version: fmt.Sprintf("PG_%d_%d", t.facts.Version.Major(), t.control.CatalogVersion)}
	if err := w.list(t.tablespaces); err != nil {
		return err
	}
	if len(w.items) > catalog.MaxEntries { // before hours of copying, not after
		return &PreflightError{Reason: fmt.Sprintf("%d files and directories are more than a backup can hold, %d", len(w.items), catalog.MaxEntries)}
	}
	for _, warning := range w.warnings {
		t.warn(warning)
	}
	t.copier = t.newCopier()
	total := Progress{}
	for _, it := range w.items {
		if !it.dir {
			total.FilesTotal++
			total.BytesTotal += it.size
		}
	}
	return t.watched(ctx, total, func(ctx context.Context) error { return t.copier.copyAll(ctx, w.items, t.options.Workers) })
}

func (t *take) newCopier() *copier {
	c := &copier{run: t.run, packSize: t.options.PackSize, checksums: t.control.ChecksumVersion != 0,
		perFile: t.control.RelationBlocks, start: t.began.LSN, position: t.position, warn: t.warn, numbers: map[uint32]int{}}
	if t.options.Rate > 0 {
		c.limit = rate.NewLimiter(rate.Limit(t.options.Rate), catalog.FrameSize)
	}
	return c
}

// watched copies under the eyes of watch; the first to fail ends both.
func (t *take) watched(ctx context.Context, total Progress, work func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	group.Go(func() error {
		defer close(done)
		return work(ctx)
	})
	group.Go(func() error { return t.watch(ctx, done, total) })
	return group.Wait()
}

// How often the server is asked whether it is alive and still the same, and how
// long it may take to answer.
const (
	aliveEvery   = 5
	aliveTimeout = 2 * time.Minute
)

// watch tells of progress each second and ends the copy when the server is not
// what it was: a demoted, promoted or restarted one has left backup mode.
func (t *take) watch(ctx context.Context, done <-chan struct{}, p Progress) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		finished := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-done:
			finished = true
		case <-tick.C:
		}
		p.Files, p.Bytes = int(t.copier.files.Load()), t.copier.bytes.Load()
		tell(t, t.options.Events.Progress, p)
		if finished {
			return nil
		}
		if n%aliveEvery == 0 {
			if _, err := t.position(ctx); err != nil {
				return err
			}
		}
	}
}

// position is where the server writes, or how far it has replayed; an
// *AbandonedError if it is not what it was any more.
func (t *take) position(ctx context.Context) (postgres.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	p, err := t.source.Server.Position(ctx)
	switch {
	case err != nil:
		return 0, err
	case p.InRecovery && !t.facts.InRecovery:
		return 0, &AbandonedError{"the server became a standby"}
	case !p.InRecovery && t.facts.InRecovery:
		return 0, &AbandonedError{"the standby was promoted"}
	case !p.Started.Equal(t.facts.Started):
		return 0, &AbandonedError{"the server was restarted"}
	}
	return p.LSN, nil
}

// stop copies pg_control when everything else is copied, ends backup mode, and
// stores what can only be known then.
func (t *take) stop(ctx context.Context) error {
	if _, err := t.position(ctx); err != nil {
		return err
	}
	control, data, err := readControl(t.source.PGDATA)
	if err != nil {
		return err
	}
	if data.System != t.facts.System || data.Timeline != t.began.Timeline && !t.facts.InRecovery {
		return fmt.Errorf("pg_control is now of system %s on timeline %d: the directory was exchanged during the backup", data.System, data.Timeline)
	}
	if t.ended, err = t.source.Server.StopBackup(ctx); err != nil {
		return err
	}
	return t.finish(ctx, control, data)
}

// finish judges what the server said at the end, and stores what comes last.
func (t *take) finish(ctx context.Context, control []byte, data postgres.ControlData) (err error) {
	if t.label, err = postgres.ParseBackupLabel(t.ended.Label); err != nil {
		return err
	}
	if t.label.StartLSN != t.began.LSN || t.label.StartTimeline != t.began.Timeline || t.ended.LSN < t.began.LSN {
		return fmt.Errorf("the server stopped another backup than ours: it began at %s on timeline %d, ours at %s on %d",
			t.label.StartLSN, t.label.StartTimeline, t.began.LSN, t.began.Timeline)
	}
	t.wal = []postgres.WALRange{{Timeline: t.began.Timeline, Start: t.began.LSN, End: t.ended.LSN}}
	if t.facts.InRecovery {
		if err := t.settleEnd(ctx, data); err != nil {
			return err
		}
	}
	if err := t.settleTablespaces(); err != nil {
		return err
	}
	pack, err := t.copier.open(ctx, 0)
	if err != nil {
		return err
	}
	defer pack.Abort() // does nothing once it is stored
	last := []struct{ path, content string }{{labelFile, t.ended.Label}, {mapFile, t.ended.TablespaceMap}, {controlFile, string(control)}}
	for _, f := range last {
		if f.content == "" {
			continue
		}
		entry := catalog.Entry{Path: f.path, Size: int64(len(f.content)), Mode: 0o600, Modified: t.ended.Time}
		if t.groupAccess {
			entry.Mode = 0o640
		}
		if err := t.copier.whole(ctx, pack, entry, []byte(f.content)); err != nil {
			return err
		}
	}
	pack.stored.index, pack.stored.info, err = pack.Close()
	pack.stored.info.EndLSN = t.ended.LSN
	return err
}

// settleTablespaces makes the server's map the truth: one created after the start
// is made by replay, so its packs do not count.
func (t *take) settleTablespaces() error {
	mapped, err := postgres.ParseTablespaceMap(t.ended.TablespaceMap)
	if err != nil {
		return err
	}
	var kept []*storedPack
	for _, pack := range t.copier.packs {
		if pack.tablespace == 0 || inTablespaces(mapped, pack.tablespace) {
			kept = append(kept, pack)
		}
	}
	for _, ts := range mapped {
		if !inTablespaces(t.tablespaces, ts.OID) {
			t.warn(fmt.Sprintf("tablespace %d at %s was dropped when the backup began: nothing of it was copied", ts.OID, ts.Path))
		}
	}
	t.tablespaces, t.copier.packs = mapped, kept
	return nil
}

// awaitWAL waits until the repository holds what the backup needs to be consistent.
func (t *take) awaitWAL(ctx context.Context) error {
	if t.facts.InRecovery {
		if err := t.endSegment(ctx); err != nil {
			return err
		}
	}
	for _, s := range spans(t.wal, t.facts.SegmentSize) {
		if err := t.archive.wait(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (t *take) commit(ctx context.Context) error {
	m := catalog.Manifest{
		Type: catalog.Full, Member: t.source.Member, Role: "primary", Source: t.source.method(), Reason: t.source.Reason, Tool: t.options.Tool, Comment: t.options.Comment,
		Version: t.facts.Version, SegmentSize: t.facts.SegmentSize,
		Timeline: t.began.Timeline, StartLSN: t.began.LSN, Checkpoint: t.label.CheckpointLSN, StopLSN: t.ended.LSN, StopTLI: t.wal[len(t.wal)-1].Timeline,
		StartTime: t.began.Time.UTC(), StopTime: t.ended.Time.UTC(),
		Settings: t.settings(), Tablespaces: t.tablespaces, Damage: t.copier.damage, Vanished: t.copier.vanished,
	}
	if t.facts.InRecovery {
		m.Role = "replica"
	}
	var index catalog.Index
	for _, pack := range t.copier.packs {
		index.Packs = append(index.Packs, pack.index)
		m.Packs = append(m.Packs, pack.info)
	}
	files := func(yield func(postgres.ManifestFile) bool) {
		for _, pack := range index.Packs {
			for _, e := range pack.Entries {
				if e.Kind == catalog.File && !yield(postgres.ManifestFile{Path: e.Path, Size: e.Size, Modified: e.Modified, CRC32C: e.CRC32C}) {
					return
				}
			}
		}
	}
	for f := range files {
		m.Files++
		m.Bytes += f.Size
	}
	var manifest bytes.Buffer
	if err := postgres.WriteBackupManifest(&manifest, t.facts.Version, t.facts.System, files, t.wal); err != nil {
		return err
	}
	var err error
	t.manifest, err = t.run.Commit(ctx, m, index, manifest.Bytes())
	return err
}

func (t *take) settings() catalog.Settings {
	c := t.control
	return catalog.Settings{
		MaxConnections: c.MaxConnections, MaxWorkerProcesses: c.MaxWorkerProcesses, MaxWALSenders: c.MaxWALSenders,
		MaxPreparedXacts: c.MaxPreparedXacts, MaxLocksPerXact: c.MaxLocksPerXact, WALLevel: c.WALLevel.String(),
		WALLogHints: c.WALLogHints, DataChecksumVersion: int(c.ChecksumVersion), TrackCommitTimestamp: c.TrackCommitTimestamp,
		BlockSize: int(c.BlockSize), RelationSegmentSize: int(c.RelationBlocks), CatalogVersion: int(c.CatalogVersion),
		PGDATA: t.facts.DataDirectory, ConfigFile: t.facts.ConfigFile, GroupAccess: t.groupAccess,
	}
}
