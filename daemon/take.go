package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/retention"
)

// takeBackup takes one backup: by file copy of this host's member, or of another
// member over the replication protocol.
func (s *service) takeBackup(ctx context.Context, t task) (catalog.Manifest, error) {
	c := s.settings()
	member := backup.Member{Name: t.From.Member, DSN: c.Cluster.DSN.Reveal(), PGDATA: c.Cluster.DataDir, Streamed: t.From.Remote,
		Repository: func(system postgres.SystemIdentifier) (*catalog.Repository, error) {
			if now := s.system(); now != system {
				return nil, fmt.Errorf("the server is of system %s, the cluster is %s", system, now)
			}
			return s.repository()
		}}
	if s.watch != nil {
		member.Topology = func(context.Context) (cluster.Topology, error) {
			now, _, err := s.view.now()
			return now, err
		}
	}
	if t.From.Remote {
		now, _, err := s.view.now()
		if err != nil {
			return catalog.Manifest{}, err
		}
		m, _ := now.Member(t.From.Member)
		member.ConnURL, member.PGDATA = m.ConnURL, ""
	}
	return member.Backup(ctx, t.From.Reason, backup.Options{
		ID: t.ID, Tool: s.version, Workers: c.Backup.Workers, PackSize: int64(c.Backup.PackSize), Rate: int64(c.Backup.RateLimit), MaxLag: int64(t.Schedule.MaxLag),
		ConditionalWrites: c.Repository().ConditionalWrites, ArchiveLimit: c.Backup.WALTimeout, Events: t.Events,
	})
}

// applyRetention removes what the configuration no longer keeps.
func (s *service) applyRetention(ctx context.Context) ([]any, error) {
	repository, err := s.repository()
	if err != nil {
		return nil, err
	}
	facts, err := retention.Gather(ctx, repository)
	if err != nil {
		return nil, err
	}
	plan, err := retention.NewPlan(facts, s.settings().Retention.Policy(), time.Now())
	if err != nil {
		return nil, err
	}
	o, err := retention.Apply(ctx, repository, plan, retention.Options{By: s.me.Member, Log: s.log})
	if err != nil {
		return nil, err
	}
	return []any{"hidden", fmt.Sprint(o.Hidden), "shown", fmt.Sprint(o.Shown), "removed", fmt.Sprint(o.Removed), "runs", len(o.Runs), "wal", o.WAL,
		"withdrawn", fmt.Sprint(o.Withdrawn)}, nil
}
