package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

// Status is what /status shows: docs/CLI_JSON.md.
type Status struct {
	Cluster  string                    `json:"cluster"`
	System   postgres.SystemIdentifier `json:"system_identifier,omitempty"`
	Member   string                    `json:"member"`
	Version  string                    `json:"version"`
	Started  time.Time                 `json:"started"`
	Loaded   time.Time                 `json:"config_loaded"`
	Refused  string                    `json:"config_refused,omitempty"` // why a newer one is not in force
	Single   bool                      `json:"single_daemon"`
	Role     cluster.Role              `json:"role"`
	Leader   string                    `json:"leader,omitempty"`
	Paused   bool                      `json:"paused,omitempty"`
	Topology string                    `json:"topology_error,omitempty"` // why leader and role may be old
	Local    *Local                    `json:"local,omitempty"`
	Keep     *Keep                     `json:"keep,omitempty"`

	Surveyed time.Time        `json:"store_seen,omitzero"`
	Store    string           `json:"store_error,omitempty"`
	Windows  []catalog.Window `json:"recoverable"`
	RPO      *float64         `json:"rpo_seconds,omitempty"`
	Last     *LastBackup      `json:"last_backup,omitempty"`
	Next     *NextBackup      `json:"next_backup,omitempty"`

	Schedules []scheduler.State `json:"schedules"`
	Running   []Running         `json:"running"`
	Gaps      []Gap             `json:"gaps"`
	Problems  []string          `json:"problems"`
}

// LastBackup is the newest whole one.
type LastBackup struct {
	ID     catalog.BackupID `json:"id"`
	Member string           `json:"member"`
	Role   string           `json:"role"`
	Reason string           `json:"reason,omitempty"`
	Stop   time.Time        `json:"stop_time"`
}

// NextBackup is the next scheduled time and who would take it if it were now.
type NextBackup struct {
	Schedule string    `json:"schedule"`
	At       time.Time `json:"at"`
	Member   string    `json:"member,omitempty"` // empty: nobody could
	Why      string    `json:"why"`
}

// Running is a task under way in this daemon.
type Running struct {
	Task       string           `json:"task"`
	Backup     catalog.BackupID `json:"backup,omitempty"`
	Source     string           `json:"source,omitempty"` // the member that is copied
	Phase      string           `json:"phase,omitempty"`
	Text       string           `json:"text,omitempty"` // what it waits for
	Since      time.Time        `json:"since"`
	Files      int              `json:"files,omitempty"`
	FilesTotal int              `json:"files_total,omitempty"`
	Bytes      int64            `json:"bytes,omitempty"`
	BytesTotal int64            `json:"bytes_total,omitempty"`
}

// Status is how all stands now.
func (s *service) status(now time.Time) Status {
	t, _, viewErr := s.view.now()
	schedules := s.runner.States()
	next := s.nextBackup(schedules, t, viewErr)
	system := s.system()
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Status{
		Cluster: s.config.Cluster.Scope, System: system, Member: s.me.Member, Version: s.version, Started: s.started,
		Loaded: s.loaded, Refused: s.refused, Single: s.single(), Role: cluster.Unknown, Leader: t.Leader, Paused: t.Paused,
		Keep: s.keep, Surveyed: s.survey.at, Windows: append([]catalog.Window{}, s.survey.Windows...), Next: next,
		Schedules: append([]scheduler.State{}, schedules...), Running: []Running{}, Gaps: append([]Gap{}, s.gaps...), Problems: []string{},
	}
	if m, ok := t.Member(s.me.Member); ok {
		d.Role = m.Role
	}
	if s.config.Cluster.DataDir != "" && !s.local.Seen.IsZero() {
		l := s.local
		d.Local = &l
	}
	if b, err := s.survey.Find("latest"); err == nil {
		m := b.Manifest
		d.Last = &LastBackup{ID: m.ID, Member: m.Member, Role: m.Role, Reason: m.Reason, Stop: m.StopTime}
	}
	d.RPO = RPO(s.survey.Windows, now)
	for _, r := range s.running {
		d.Running = append(d.Running, *r)
	}
	slices.SortFunc(d.Running, func(a, b Running) int { return cmp.Compare(a.Task, b.Task) })
	if viewErr != nil {
		d.Topology = viewErr.Error()
	}
	if s.survey.err != nil {
		d.Store = s.survey.err.Error()
	}
	d.Problems = append(d.Problems, d.Trouble()...)
	if s.survey.empty {
		d.Problems = append(d.Problems, "repository: nothing was archived yet")
	} else if !s.survey.at.IsZero() {
		d.Problems = append(d.Problems, Problems(s.survey.Survey, s.config.Repository())...)
	}
	return d
}

// RPO is the age of the newest archived segment in seconds: what is younger may be
// only on the servers. nil where it is not known.
func RPO(windows []catalog.Window, now time.Time) *float64 {
	n := len(windows)
	if n == 0 || windows[n-1].Archived.IsZero() {
		return nil
	}
	rpo := max(0, now.Sub(windows[n-1].Archived).Seconds())
	return &rpo
}

// Trouble is what needs a person but for what the repository itself shows, of which
// Problems tells.
func (d Status) Trouble() (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if d.Refused != "" {
		add("configuration: the newest is refused, the old one is in force: %s", d.Refused)
	}
	if d.Topology != "" {
		add("etcd: the cluster cannot be seen, schedules wait: %s", d.Topology)
	} else if d.Leader == "" {
		add("leader: nobody leads the cluster")
	}
	if d.Store != "" {
		add("repository: it cannot be read: %s", d.Store)
	}
	if l := d.Local; l != nil {
		all = append(all, l.Problems()...)
		if d.System != 0 && l.System != 0 && d.System != l.System {
			add("cluster: Patroni runs system %s, the data directory here is of %s", d.System, l.System)
		}
	}
	if d.Keep != nil && d.Keep.Problem != "" {
		add("keep: WAL may be recycled here before it is archived: %s", d.Keep.Problem)
	}
	for _, state := range d.Schedules {
		if last := state.Last; last.Result != "" && last.Result != scheduler.Succeeded {
			add("schedule %s: %s %s: %s", state.Job, last.At.UTC().Format(time.RFC3339), last.Result, last.Error)
		}
	}
	return all
}

// etcdUp tells whether etcd answers: what it says may still name no leader.
func etcdUp(err error) bool {
	return err == nil || is[*patroni.UnconfirmedError](err)
}

// nextBackup is the earliest of the schedules and who would take it now.
func (s *service) nextBackup(states []scheduler.State, t cluster.Topology, viewErr error) (next *NextBackup) {
	for _, schedule := range s.settings().Schedules {
		i := slices.IndexFunc(states, func(st scheduler.State) bool { return st.Job == schedule.Name })
		if i < 0 || states[i].Next.IsZero() || next != nil && !states[i].Next.Before(next.At) {
			continue
		}
		next = &NextBackup{Schedule: schedule.Name, At: states[i].Next}
		choice, err := cluster.ChooseSource(t, schedule.Want())
		if err == nil {
			err = viewErr
		}
		if next.Member, next.Why = choice.Member, choice.Reason; err != nil {
			next.Member, next.Why = "", err.Error()
		}
	}
	return next
}
