package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/pgha-backup/pgha-backup/daemon"
)

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
