package backup

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

// Each standby that is no source is refused in these words.
func TestUnfit(t *testing.T) {
	const another = "look at primary_conninfo and at PostgreSQL's log of this member, or choose another one"
	for want, c := range map[string]struct {
		change func(own, leader *server.Facts, s *server.Standby)
		maxLag int64
		hint   string
	}{
		"": {func(_, _ *server.Facts, s *server.Standby) { s.Replayed = 0x3000000 }, 0x1000000, ""},
		"the leader is system 43, this standby 42": {func(_, leader *server.Facts, _ *server.Standby) { leader.System = 43 }, 0,
			"is the address that Patroni gives for the leader right?"},
		"the leader is in recovery itself": {func(_, leader *server.Facts, _ *server.Standby) { leader.InRecovery = true }, 0,
			"a promotion is under way: try again; or this is a standby cluster, which writes no WAL of its own: back up its primary cluster"},
		"full_page_writes is off on the leader": {func(_, leader *server.Facts, _ *server.Standby) { leader.FullPageWrites = false }, 0,
			"turn it on: pages that the standby writes while they are copied are made whole by full page images alone"},
		"the standby replays 1h0m0s late: recovery_min_apply_delay is set": {func(_, _ *server.Facts, s *server.Standby) { s.Delay = time.Hour }, 0,
			"choose another member"},
		"replay is paused on the standby": {func(_, _ *server.Facts, s *server.Standby) { s.Paused = true }, 0,
			"resume it with SELECT pg_wal_replay_resume(), or choose another member"},
		"the standby does not stream":                            {func(_, _ *server.Facts, s *server.Standby) { s.Streams, s.Timeline = false, 0 }, 0, another},
		"the standby streams timeline 2, the leader writes on 3": {func(_, _ *server.Facts, s *server.Standby) { s.Timeline = 2 }, 0, another},
		"the standby is 16777217 bytes behind the leader, the limit is 16777216": {func(_, _ *server.Facts, s *server.Standby) { s.Replayed = 0x2FFFFFF }, 0x1000000,
			"wait, choose another member, or raise backup.max_lag"},
	} {
		own, leader := server.Facts{System: 42, InRecovery: true, FullPageWrites: true}, server.Facts{System: 42, Timeline: 3, FullPageWrites: true}
		s := server.Standby{Streams: true, Timeline: 3, Replayed: 0x4000000}
		c.change(&own, &leader, &s)
		err := unfit(own, s, leader, 0x4000000, c.maxLag)
		switch {
		case err == nil && want != "":
			t.Errorf("not refused, want %q", want)
		case err != nil && (err.Error() != want || err.Hint() != c.hint):
			t.Errorf("%s\n%s\nwant %s\n%s", err, err.Hint(), want, c.hint)
		}
	}
}

func TestAbandonedSaysWhatToDo(t *testing.T) {
	e := &AbandonedError{"the standby was promoted"}
	if e.Error() != "the standby was promoted during the backup: nothing was committed" || e.Hint() != "look at patronictl list and take another backup" {
		t.Errorf("%s\n%s", e, e.Hint())
	}
}

// The WAL of a backup across failovers, by timeline and by the files to wait for.
func TestSpans(t *testing.T) {
	const mib = postgres.LSN(segmentSize)
	type history = []postgres.HistoryEntry
	for name, c := range map[string]struct {
		tli         postgres.TimelineID
		entries     history
		start, stop postgres.LSN
		wal         []postgres.WALRange
		spans       []span
	}{
		"one timeline": {1, nil, 3*mib + 40, 5 * mib, []postgres.WALRange{{Timeline: 1, Start: 3*mib + 40, End: 5 * mib}}, []span{{1, 3*mib + 40, 5 * mib}}},
		"begun behind the fork": {2, history{{Parent: 1, Switch: 3 * mib}}, 3 * mib, 4 * mib,
			[]postgres.WALRange{{Timeline: 2, Start: 3 * mib, End: 4 * mib}}, []span{{2, 3 * mib, 4 * mib}}},
		"a failover": {2, history{{Parent: 1, Switch: 5*mib + 100}}, 3*mib + 40, 6*mib + 9,
			[]postgres.WALRange{{Timeline: 1, Start: 3*mib + 40, End: 5*mib + 100}, {Timeline: 2, Start: 5*mib + 100, End: 6*mib + 9}},
			[]span{{1, 3*mib + 40, 5 * mib}, {2, 5*mib + 100, 6*mib + 9}}},
		"at a segment's end": {2, history{{Parent: 1, Switch: 5 * mib}}, 3*mib + 40, 6*mib + 9,
			[]postgres.WALRange{{Timeline: 1, Start: 3*mib + 40, End: 5 * mib}, {Timeline: 2, Start: 5 * mib, End: 6*mib + 9}},
			[]span{{1, 3*mib + 40, 5 * mib}, {2, 5 * mib, 6*mib + 9}}},
		"within one segment": {2, history{{Parent: 1, Switch: 3*mib + 100}}, 3*mib + 40, 3*mib + 900,
			[]postgres.WALRange{{Timeline: 1, Start: 3*mib + 40, End: 3*mib + 100}, {Timeline: 2, Start: 3*mib + 100, End: 3*mib + 900}},
			[]span{{2, 3*mib + 100, 3*mib + 900}}},
		"two failovers, one timeline without a segment": {4, history{{Parent: 1, Switch: 1 * mib}, {Parent: 2, Switch: 4*mib + 8}, {Parent: 3, Switch: 4*mib + 90}}, 2 * mib, 4*mib + 99,
			[]postgres.WALRange{{Timeline: 2, Start: 2 * mib, End: 4*mib + 8}, {Timeline: 3, Start: 4*mib + 8, End: 4*mib + 90}, {Timeline: 4, Start: 4*mib + 90, End: 4*mib + 99}},
			[]span{{2, 2 * mib, 4 * mib}, {4, 4*mib + 90, 4*mib + 99}}},
	} {
		wal := ranges(postgres.TimelineHistory{Timeline: c.tli, Entries: c.entries}, c.start, c.stop)
		if !slices.Equal(wal, c.wal) {
			t.Errorf("%s: %v, want %v", name, wal, c.wal)
		}
		if got := spans(wal, segmentSize); !slices.Equal(got, c.spans) {
			t.Errorf("%s: %v, want %v", name, got, c.spans)
		}
	}
}

// The end is what the copied pg_control says, along the timelines to it; a
// pg_control that cannot be that of this backup is refused.
func TestSettleEnd(t *testing.T) {
	const mib = postgres.LSN(segmentSize)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pg_wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"00000003.history": "1\t0/100000\tx\n2\t0/500064\ty\n", "00000004.history": "1\t0/200000\tx\n"} {
		if err := os.WriteFile(filepath.Join(dir, "pg_wal", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		control postgres.ControlData
		fails   string
		wal     []postgres.WALRange
	}{
		"pg_backup_stop came later": {postgres.ControlData{State: postgres.StateInArchiveRecovery, MinRecovery: 5 * mib, MinRecoveryTimeline: 2}, "",
			[]postgres.WALRange{{Timeline: 2, Start: 3 * mib, End: 5 * mib}}},
		"followed": {postgres.ControlData{State: postgres.StateInArchiveRecovery, MinRecovery: 6 * mib, MinRecoveryTimeline: 3}, "",
			[]postgres.WALRange{{Timeline: 2, Start: 3 * mib, End: 5*mib + 100}, {Timeline: 3, Start: 5*mib + 100, End: 6 * mib}}},
		"a stranger's timeline": {postgres.ControlData{State: postgres.StateInArchiveRecovery, MinRecovery: 6 * mib, MinRecoveryTimeline: 4},
			"the standby followed to timeline 4: 00000004.history does not go back to 0/300000 on timeline 2", nil},
		"no history": {postgres.ControlData{State: postgres.StateInArchiveRecovery, MinRecovery: 6 * mib, MinRecoveryTimeline: 5},
			"the standby followed to timeline 5: open " + dir + "/pg_wal/00000005.history: no such file or directory", nil},
		"in production": {postgres.ControlData{State: postgres.StateInProduction, MinRecovery: 5 * mib, MinRecoveryTimeline: 2},
			`pg_control of the standby says "in production", which a restored copy would refuse`, nil},
		"before the checkpoint": {postgres.ControlData{State: postgres.StateInArchiveRecovery, MinRecovery: 4 * mib, MinRecoveryTimeline: 2},
			"pg_control makes the copy consistent at 0/400000 on timeline 2, the backup began at 0/400000 on 2 and ended at 0/600000: is " + dir + " the server's storage, without a cache between?", nil},
		"of a later time": {postgres.ControlData{State: postgres.StateInArchiveRecovery, MinRecovery: 6*mib + 1, MinRecoveryTimeline: 2},
			"pg_control makes the copy consistent at 0/600001 on timeline 2, the backup began at 0/400000 on 2 and ended at 0/600000: is " + dir + " the server's storage, without a cache between?", nil},
	} {
		b := &take{source: Source{PGDATA: dir}, facts: server.Facts{DataDirectory: dir}, began: server.Start{LSN: 3 * mib, Timeline: 2}, ended: server.Stop{LSN: 6 * mib}, label: postgres.BackupLabel{CheckpointLSN: 4 * mib}}
		err := b.settleEnd(t.Context(), c.control)
		switch {
		case err != nil || c.fails != "":
			if err == nil || err.Error() != c.fails {
				t.Errorf("%s: %v\nwant %s", name, err, c.fails)
			}
		case b.ended.LSN != c.control.MinRecovery || !slices.Equal(b.wal, c.wal):
			t.Errorf("%s: ended at %s by %v", name, b.ended.LSN, b.wal)
		}
	}
}
