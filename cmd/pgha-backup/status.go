package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/spf13/cobra"
)

// statusDocument is what status prints in JSON.
type statusDocument struct {
	about
	Repository        string           `json:"repository"`
	RepositoryType    string           `json:"repository_type"`
	ConditionalWrites string           `json:"conditional_writes"`
	Leader            string           `json:"leader,omitempty"`
	Members           int              `json:"members,omitempty"`
	Paused            bool             `json:"paused,omitempty"`
	Backups           int              `json:"backups"`
	Last              *backupDocument  `json:"last_backup,omitempty"`
	Windows           []catalog.Window `json:"recoverable"`
	// RPO is the age of the newest archived segment: what is younger may be only on
	// the servers.
	RPO       *float64              `json:"rpo_seconds,omitempty"`
	Timelines []catalog.TimelineWAL `json:"timelines"`
	Conflicts []string              `json:"conflicts,omitempty"`
	// Daemon is what the daemon on this host says; absent where none answers.
	Daemon *daemon.Status `json:"daemon,omitempty"`
	// Local is this host's server; absent on a host without one.
	Local    *daemon.Local `json:"local,omitempty"`
	Problems []string      `json:"problems"`
}

func newStatusCommand(a *app) *cobra.Command {
	return a.surveying(&cobra.Command{
		Use: "status", Short: "Say whether the cluster can be restored, to when, and what is wrong", Args: exactly(),
		Long: "Reads the repository, and asks Patroni and the server on this host, if there is one.\n" +
			"Exits 10 when anything is wrong that needs a person: a gap in the WAL archive, no whole backup, a conflict,\n" +
			"emulated create-once writes, no leader, an archiver that fails or stalls, pg_wal that is full soon,\n" +
			"a standby that may recycle WAL which is not archived.\n" +
			"The daemon on this host is asked for what only it knows: the next backup, what runs, how fast pg_wal grows.",
	}, a.status)
}

func (a *app) status(ctx context.Context, s survey, _ []string) error {
	d := a.describeStatus(ctx, s)
	err := a.print(d, func() error { return a.statusTable(s, d) })
	if err == nil && len(d.Problems) > 0 {
		err = fail(exitDegraded, "", "degraded: %s", plural(len(d.Problems), "problem"))
	}
	return err
}

func (a *app) describeStatus(ctx context.Context, s survey) statusDocument {
	r := a.config.Repository()
	d := statusDocument{about: s.about, Repository: r.Name, RepositoryType: r.Type,
		ConditionalWrites: r.ConditionalWrites, Backups: len(s.Backups), Windows: s.Windows, Timelines: s.Archive.Timelines, Conflicts: s.Conflicts}
	d.Problems = append([]string{}, daemon.Problems(s.Survey, r)...)
	d.RPO = daemon.RPO(s.Windows, a.now())
	if b, err := s.Find("latest"); err == nil {
		last := describe(b)
		d.Last = &last
	}
	if now, ok := a.askDaemon(ctx); ok {
		d.Daemon, d.Local = &now, now.Local
		d.Problems = append(d.Problems, now.Trouble()...)
	} else if c := a.config.Cluster; c.DataDir != "" {
		l := daemon.LookLocal(ctx, c.DSN.Reveal(), c.DataDir, c.StateDir, a.now())
		d.Local = &l
		d.Problems = append(d.Problems, l.Problems()...)
	}
	if !a.hasPatroni() {
		return d
	}
	t, err := a.topology(ctx)
	d.Leader, d.Members, d.Paused = t.Leader, len(t.Members), t.Paused
	switch {
	case err != nil:
		d.Problems = append(d.Problems, "leader: "+err.Error())
	case t.Leader == "":
		if none := "leader: nobody leads the cluster"; !slices.Contains(d.Problems, none) { // the daemon may have said so
			d.Problems = append(d.Problems, none)
		}
	case t.SystemIdentifier != 0 && t.SystemIdentifier != s.Info.SystemIdentifier:
		d.Problems = append(d.Problems, fmt.Sprintf("cluster: Patroni runs system %s now, this repository is of %s", t.SystemIdentifier, s.Info.SystemIdentifier))
	}
	return d
}

func (a *app) statusTable(s survey, d statusDocument) error {
	var lines lines
	lines.add("Cluster", "%s (%s)", d.Cluster, d.System)
	lines.add("Repository", "%s (%s, conditional writes: %s)", d.Repository, d.RepositoryType, d.ConditionalWrites)
	if a.hasPatroni() {
		leader := "nobody"
		if d.Leader != "" {
			leader = fmt.Sprintf("%s of %s", d.Leader, plural(d.Members, "member"))
		}
		if d.Paused {
			leader += ", paused"
		}
		lines.add("Leader", "%s", leader)
	}
	if b := d.Last; b != nil {
		lines.add("Last backup", "%s, finished %sZ (%s ago), %s of %s (%s), %s", b.ID, clock(b.StopTime), age(a.now().Sub(b.StopTime)), b.Type, b.Member, b.Role, byteCount(b.Bytes))
	} else {
		lines.add("Last backup", "none")
	}
	a.daemonLines(&lines, d)
	for _, window := range a.windows(s) {
		lines.add("Recoverable", "%s", window)
	}
	if d.RPO != nil {
		lines.add("RPO now", "%s: the newest archived segment is so old", age(time.Duration(*d.RPO*float64(time.Second))))
	}
	for _, t := range d.Timelines {
		lines.add(fmt.Sprintf("Timeline %d", uint32(t.Timeline)), "%s", a.frontier(t))
	}
	if len(d.Problems) == 0 {
		lines.add("Problems", "none")
	}
	for _, p := range d.Problems {
		lines.add("Problem", "%s", p)
	}
	return lines.print(a.stdout)
}

func (a *app) frontier(t catalog.TimelineWAL) string {
	if len(t.Ranges) == 0 {
		return "no WAL"
	}
	text := "archived to " + t.Ranges[len(t.Ranges)-1].Last.Name()
	if !t.Archived.IsZero() {
		text += fmt.Sprintf(", %s ago", age(max(0, a.now().Sub(t.Archived))))
	}
	return text
}

// askDaemon asks the daemon of this member on this host. Not ok where none answers,
// or another member's does.
func (a *app) askDaemon(ctx context.Context) (d daemon.Status, ok bool) {
	c := a.config.Daemon
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return d, false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	scheme := "http"
	if c.CertFile != "" {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/status", nil)
	if err != nil {
		return d, false
	}
	// Its certificate is for those who come from outside; nothing secret is said here.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answer, err := client.Do(request)
	if err != nil {
		return d, false
	}
	defer answer.Body.Close()
	err = json.NewDecoder(io.LimitReader(answer.Body, 16<<20)).Decode(&d)
	return d, err == nil && d.Cluster == a.config.Cluster.Scope && (a.config.Cluster.Member == "" || d.Member == a.config.Cluster.Member)
}

// daemonLines are what the daemon and the local server say.
func (a *app) daemonLines(lines *lines, d statusDocument) {
	switch s := d.Daemon; {
	case s != nil:
		mode := ""
		if s.Single {
			mode = ", agrees with nobody: no etcd"
		}
		lines.add("Daemon", "version %s on %s, up %s%s", s.Version, s.Member, age(a.now().Sub(s.Started)), mode)
		for _, r := range s.Running {
			lines.add("Running", "%s of %s, %s, %s of %s, since %sZ", r.Backup, r.Source, r.Phase, byteCount(r.Bytes), byteCount(r.BytesTotal), clock(r.Since))
		}
		if next := s.Next; next != nil {
			by := "by " + next.Member + ": " + next.Why
			if next.Member == "" {
				by = "by nobody as things stand: " + next.Why
			}
			lines.add("Next backup", "%s at %sZ, %s", next.Schedule, clock(next.At), by)
		} else {
			lines.add("Next backup", "none is scheduled")
		}
	case len(a.config.Schedules) > 0:
		lines.add("Daemon", "none answers on this host at %s", a.config.Daemon.Listen)
		for _, schedule := range a.config.Schedules {
			if timetable, err := schedule.Timetable(); err == nil {
				lines.add("Next backup", "%s at %sZ, if a daemon runs on another member", schedule.Name, clock(timetable.Next(a.now())))
			}
		}
	}
	if l := d.Local; l != nil && l.Server != "absent" {
		lines.add("Server here", "%s", l.Server)
		archiver := plural(l.Backlog, "file") + " to archive"
		if !l.Waiting.IsZero() {
			archiver += ", the oldest for " + age(a.now().Sub(l.Waiting))
		}
		lines.add("Archiver", "%s", archiver)
		text := fmt.Sprintf("%s, %s free", byteCount(l.WALBytes), byteCount(l.FreeBytes))
		switch {
		case l.FullIn > 0:
			text += ", full in " + age(time.Duration(l.FullIn*float64(time.Second)))
		case d.Daemon != nil:
			text += ", not growing"
		}
		lines.add("pg_wal", "%s", text)
	}
}
