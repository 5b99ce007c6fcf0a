package daemon

import (
	"math"
	"runtime"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon/metrics"
)

// samples are the metrics of this moment: docs/SERVICE.md. What is not known is not shown.
func (s *service) samples(now time.Time) (all []metrics.Sample) {
	d := s.status(now)
	add := func(name, help string, value float64, labels ...string) {
		all = append(all, metrics.Sample{Name: "pgha_" + name, Help: help, Value: value, Labels: append(labels, "cluster", d.Cluster)})
	}
	count := func(name, help string, value int) {
		add(name, help, float64(value))
		all[len(all)-1].Counter = true
	}
	at := func(name, help string, t time.Time, labels ...string) {
		if !t.IsZero() {
			add(name, help, float64(t.UnixMilli())/1000, labels...)
		}
	}
	_, _, viewErr := s.view.now()
	add("build_info", "This version.", 1, "version", s.version, "go", runtime.Version(), "member", d.Member)
	add("etcd_up", "Whether the cluster's topology can be read.", truth(etcdUp(viewErr)))
	add("leader", "Whether this member leads.", truth(d.Leader != "" && d.Leader == d.Member))
	add("single_daemon", "Whether the daemon runs without anybody to agree with.", truth(d.Single))
	add("config_refused", "Whether the newest configuration is not in force.", truth(d.Refused != ""))
	at("config_loaded_timestamp_seconds", "When the configuration in force was loaded.", d.Loaded)
	if l := d.Local; l != nil {
		add("postgres_up", "Whether the local server answers.", truth(l.Server == "primary" || l.Server == "standby"))
	}
	if l := d.Local; l != nil && l.Server != "absent" {
		add("archive_backlog_files", "WAL files that wait for the archiver.", float64(l.Backlog))
		add("archive_backlog_bytes", "Their size.", float64(l.BacklogBytes))
		add("archive_dropped_files", "WAL files that were given up for want of space, and the repository does not know yet.", float64(l.Dropped))
		add("archive_failing", "Whether the archiver's last attempt failed.", truth(!l.FailingSince.IsZero()))
		add("pg_wal_bytes", "Size of pg_wal.", float64(l.WALBytes))
		add("pg_wal_free_bytes", "Free bytes of the filesystem of pg_wal.", float64(l.FreeBytes))
		full := math.Inf(1)
		if l.FullIn > 0 {
			full = l.FullIn
		}
		add("pg_wal_full_seconds", "Until the filesystem of pg_wal is full at the growth of the last minutes; +Inf while it does not grow.", full)
	}
	if d.Keep != nil {
		add("keep_bytes", "WAL of this standby that is not archived.", float64(d.Keep.Bytes))
		add("keep_broken", "Whether it may be recycled here before it is archived.", truth(d.Keep.Problem != ""))
	}
	for _, state := range d.Schedules {
		at("schedule_next_timestamp_seconds", "The next scheduled time.", state.Next, "schedule", state.Job)
		add("schedule_attempts", "Attempts at what is due now.", float64(state.Tries), "schedule", state.Job)
		add("schedule_hung", "Attempts that were abandoned and have not ended.", float64(state.Hung), "schedule", state.Job)
	}
	add("backup_running", "Backups that this daemon takes now.", float64(len(d.Running)))

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hooks.hits != nil {
		pushed, fetched := s.hooks.hits()
		count("push_ahead_hits_total", "Pushes answered from memory: the file was stored before it was asked for.", int(pushed))
		count("get_spool_hits_total", "Gets answered from the spool: the segment was fetched before it was asked for.", int(fetched))
	}
	count("backups_committed_total", "Backups that this daemon committed.", s.counts.committed)
	count("backups_failed_total", "Attempts at a backup that failed in this daemon.", s.counts.failed)
	count("wal_filled_total", "WAL files that the archive lacked and this daemon stored.", s.counts.filled)
	add("store_up", "Whether the repository could be read at the last attempt.", truth(s.survey.err == nil && !s.survey.at.IsZero()))
	if s.survey.at.IsZero() {
		return all
	}
	at("store_seen_timestamp_seconds", "When the repository was last read.", s.survey.at)
	states := map[catalog.BackupState]int{catalog.BackupOK: 0, catalog.BackupDamaged: 0, catalog.BackupWALMissing: 0}
	for _, b := range s.survey.Backups {
		states[b.State]++
	}
	for state, n := range states {
		add("backups", "Backups in the repository.", float64(n), "state", string(state))
	}
	if d.Last != nil {
		at("backup_last_success_timestamp_seconds", "End of the newest whole backup.", d.Last.Stop)
	}
	if d.RPO != nil {
		add("rpo_seconds", "Age of the newest archived segment.", *d.RPO)
	}
	gaps := map[catalog.GapState]int{catalog.GapLate: 0, catalog.GapLost: 0, catalog.GapDropped: 0, catalog.GapAccepted: 0}
	for _, gap := range s.survey.Archive.Gaps() {
		if gap.Accepted != nil {
			gap.State = catalog.GapAccepted
		}
		gaps[gap.State] += gap.Segments
	}
	for state, n := range gaps {
		add("gap_segments", "WAL segments that the archive lacks.", float64(n), "state", string(state))
	}
	add("conflicts", "WAL files of which two contents are kept, undecided.", float64(len(s.survey.Conflicts)))
	count("missed_total", "Scheduled times recorded as missed in the repository.", s.survey.missed)
	return all
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
