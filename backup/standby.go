package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

// checkStandby refuses a standby whose backup would be late, stand still, or end in
// nothing. On success the leader's session is open: it is the one that archives.
func (t *take) checkStandby(ctx context.Context) error {
	if err := t.meetLeader(ctx); err != nil {
		return &PreflightError{Reason: "the leader cannot be asked", Err: err}
	}
	at, err := t.archive.server.Position(ctx)
	if err != nil {
		return &PreflightError{Reason: "the leader cannot be asked", Err: err}
	}
	standby, err := t.source.Server.Standby(ctx)
	if err != nil {
		return &PreflightError{Reason: "the standby does not say how it follows", Err: err}
	}
	if refused := unfit(t.facts, standby, t.writer, at.LSN, t.options.MaxLag); refused != nil {
		return refused
	}
	return nil
}

// unfit tells why a standby cannot be the source, beside a leader that is at lsn.
func unfit(own server.Facts, s server.Standby, leader server.Facts, lsn postgres.LSN, maxLag int64) *PreflightError {
	const another = "look at primary_conninfo and at PostgreSQL's log of this member, or choose another one"
	lag := int64(lsn) - int64(s.Replayed)
	switch {
	case leader.System != own.System:
		return &PreflightError{Reason: fmt.Sprintf("the leader is system %s, this standby %s", leader.System, own.System),
			Advice: "is the address that Patroni gives for the leader right?"}
	case leader.InRecovery:
		return &PreflightError{Reason: "the leader is in recovery itself",
			Advice: "a promotion is under way: try again; or this is a standby cluster, which writes no WAL of its own: back up its primary cluster"}
	case !leader.FullPageWrites:
		return &PreflightError{Reason: "full_page_writes is off on the leader",
			Advice: "turn it on: pages that the standby writes while they are copied are made whole by full page images alone"}
	case s.Delay > 0:
		return &PreflightError{Reason: fmt.Sprintf("the standby replays %s late: recovery_min_apply_delay is set", s.Delay), Advice: "choose another member"}
	case s.Paused:
		return &PreflightError{Reason: "replay is paused on the standby", Advice: "resume it with SELECT pg_wal_replay_resume(), or choose another member"}
	case !s.Streams:
		return &PreflightError{Reason: "the standby does not stream", Advice: another}
	case s.Timeline != leader.Timeline:
		return &PreflightError{Reason: fmt.Sprintf("the standby streams timeline %d, the leader writes on %d", uint32(s.Timeline), uint32(leader.Timeline)), Advice: another}
	case maxLag > 0 && lag > maxLag:
		return &PreflightError{Reason: fmt.Sprintf("the standby is %d bytes behind the leader, the limit is %d", lag, maxLag),
			Advice: "wait, choose another member, or raise backup.max_lag"}
	}
	return nil
}

// meetLeader opens a session on whoever leads now and asks what it is.
func (t *take) meetLeader(ctx context.Context) error {
	t.leave()
	leader, err := t.source.Leader(ctx)
	if err != nil {
		return err
	}
	t.archive.server, t.archive.lost = leader, false
	t.writer, err = leader.Facts(ctx)
	return err
}

// leave ends the session on the leader, if there is one: it is not kept while
// files are copied.
func (t *take) leave() {
	if t.archive.server != t.source.Server {
		t.archive.server.Close()
		t.archive.server = t.source.Server
	}
}

// catchUp makes the leader write a checkpoint and waits until the standby has
// replayed it: a backup of a standby begins at its last restartpoint, and under an
// idle leader that may be so old that its WAL was never archived.
func (t *take) catchUp(ctx context.Context) error {
	refuse := func(reason string, err error) error { return &PreflightError{Reason: reason, Err: err} }
	want, err := t.archive.server.Checkpoint(ctx)
	if err != nil {
		return refuse("the leader makes no checkpoint", err)
	}
	var seen postgres.LSN
	for progress := time.Now(); ; {
		at, err := t.position(ctx)
		if err != nil {
			return refuse("the standby cannot be asked", err)
		}
		if at >= want {
			return nil
		}
		if at > seen {
			seen, progress = at, time.Now()
		}
		if waited := time.Since(progress); waited > t.options.ArchiveStall {
			return &PreflightError{Reason: fmt.Sprintf("the standby has replayed up to %s and nothing more for %s, the leader's checkpoint ends at %s",
				at, waited.Round(time.Second), want), Advice: "a query on the standby or a lost connection may hold up replay: see PostgreSQL's log of this member"}
		}
		tell(t, t.options.Events.Waiting, fmt.Sprintf("waiting for the standby to replay up to %s; it is at %s", want, at))
		if err := pause(ctx, firstLook); err != nil {
			return err
		}
	}
}

// settleEnd takes the end from the copied pg_control, where a restored copy will
// call itself consistent: every page copied before it was written no later (R15).
// What pg_backup_stop says is the same of a moment later. The standby may have
// followed a new leader meanwhile.
func (t *take) settleEnd(ctx context.Context, control postgres.ControlData) error {
	if control.State != postgres.StateInArchiveRecovery {
		return fmt.Errorf("pg_control of the standby says %q, which a restored copy would refuse", control.State)
	}
	end, tli := control.MinRecovery, control.MinRecoveryTimeline
	if end <= t.label.CheckpointLSN || end > t.ended.LSN || tli < t.began.Timeline {
		return fmt.Errorf("pg_control makes the copy consistent at %s on timeline %d, the backup began at %s on %d and ended at %s: is %s the server's storage, without a cache between?",
			end, uint32(tli), t.label.CheckpointLSN, uint32(t.began.Timeline), t.ended.LSN, t.facts.DataDirectory)
	}
	history := postgres.RootHistory(tli)
	if tli != t.began.Timeline {
		name := postgres.HistoryFile(tli).String()
		text, err := t.history(ctx, tli)
		if err == nil {
			history, err = postgres.ParseTimelineHistory(tli, text)
		}
		if err == nil && !history.Contains(t.began.Timeline, t.began.LSN) {
			err = fmt.Errorf("%s does not go back to %s on timeline %d", name, t.began.LSN, uint32(t.began.Timeline))
		}
		if err != nil {
			return fmt.Errorf("the standby followed to timeline %d: %w", uint32(tli), err)
		}
	}
	t.ended.LSN, t.wal = end, ranges(history, t.began.LSN, end)
	return nil
}

// history is what the standby knows of a timeline's past.
func (t *take) history(ctx context.Context, tli postgres.TimelineID) ([]byte, error) {
	if t.source.Streamed {
		return t.stream.History(ctx, tli)
	}
	return os.ReadFile(filepath.Join(t.source.PGDATA, "pg_wal", postgres.HistoryFile(tli).String()))
}

// ranges are the WAL from start to stop as the timelines of a branch wrote it.
func ranges(h postgres.TimelineHistory, start, stop postgres.LSN) (all []postgres.WALRange) {
	for _, e := range h.Entries {
		if e.Switch > start {
			all = append(all, postgres.WALRange{Timeline: e.Parent, Start: start, End: e.Switch})
			start = e.Switch
		}
	}
	return append(all, postgres.WALRange{Timeline: h.Timeline, Start: start, End: stop})
}

// spans are the same WAL by the files that a restore reads: the segment in which a
// timeline was left is read under the name that its child gave it.
func spans(wal []postgres.WALRange, size postgres.SegmentSize) (all []span) {
	for i, r := range wal {
		s := span{r.Timeline, r.Start, r.End}
		if i+1 < len(wal) {
			s.last = postgres.SegmentAt(r.Timeline, r.End, size).Start(size)
		}
		if s.first < s.last || i+1 == len(wal) {
			all = append(all, s)
		}
	}
	return all
}

// endSegment makes whoever leads now end the segment with the backup's end, which
// an idle leader would keep for itself. In the middle of a failover it waits.
func (t *take) endSegment(ctx context.Context) error {
	for began := time.Now(); ; {
		err := t.meetLeader(ctx)
		if err == nil {
			err = t.archive.server.SwitchWAL(ctx)
		}
		if err == nil {
			t.archive.left = t.writer.Timeline != t.wal[len(t.wal)-1].Timeline
			return nil
		}
		if ctx.Err() != nil || time.Since(began) > t.options.ArchiveStall {
			return fmt.Errorf("end the leader's WAL segment: %w", err)
		}
		tell(t, t.options.Events.Waiting, "waiting for a leader: "+err.Error())
		if err := pause(ctx, lastLook); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
