package main

import (
	"errors"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/config"
)

const someSchedules = `schedules:
  - {name: nightly, cron: "0 2 * * *", timezone: Europe/Berlin}
  - {name: b6h, cron: "@every 6h", source: leader}
retention: {schedule: "@every 1h"}
`

func (h *host) schedules(text string) {
	h.t.Helper()
	h.write("config.yaml", "cluster: {scope: main, member: pg1}\nrepositories: [{name: nas, type: file, file: {path: "+h.repository+"}}]\n"+text)
}

func TestSchedule(t *testing.T) {
	h := newHost(t)
	h.schedules(someSchedules)
	created := time.Date(2026, 11, 19, 20, 0, 0, 0, time.UTC)
	r := h.catalog(system)
	_, err := r.Create(t.Context(), size, "required", created)
	h.must(err)
	if code, stdout, stderr := h.run("schedule"); code != 0 {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	} else {
		h.golden("schedule-new.txt", stdout)
	}
	h.backup("20261119T200000Z-first", 2, 3)
	h.backup("20261120T010000Z-nightly", 2, 3)
	h.backup("20261120T120000Z-b6h", 3, 4, catalog.Damage{Path: "base/5/16384", Blocks: []uint32{7}})
	h.backup("20261121T010000Z-nightly", 3, 4)
	h.backup("20261121T090000Z-manual-1f0a", 3, 4)
	for id, why := range map[catalog.BackupID]string{"20261120T180000Z-b6h": "its latest start has passed", "20261121T010000Z-nightly": "it came after all"} {
		h.must(r.ReportMissed(t.Context(), catalog.Missed{Backup: id, Reason: why, By: "pg2", At: noon}))
	}
	for name, args := range map[string][]string{"schedule.txt": {"schedule"}, "schedule.json": {"schedule", "--last", "2", "--format", "json"}} {
		code, stdout, stderr := h.run(args...)
		if code != 0 || stderr != "" {
			t.Errorf("exit %d, %q", code, stderr)
		}
		h.golden(name, stdout)
	}
	// What is reported is due no more.
	h.must(r.ReportMissed(t.Context(), catalog.Missed{Backup: "20261121T120000Z-b6h", Reason: "late", By: "pg2", At: noon}))
	_, stdout, _ := h.run("schedule", "--last", "1")
	h.golden("schedule-missed.txt", stdout)
	h.schedules("")
	_, stdout, _ = h.run("schedule", "--last", "0")
	h.golden("schedule-none.txt", stdout)
}

func TestWhoServes(t *testing.T) {
	s := config.Schedule{Source: cluster.PreferReplica, ReplicaWait: 15 * time.Minute}
	leader := cluster.Member{Name: "pg1", Role: cluster.Primary, State: "running", Timeline: 1, LSN: 1000}
	replica := cluster.Member{Name: "pg2", Role: cluster.Replica, State: "running", Timeline: 1, LSN: 1000, ReplicationState: "streaming"}
	both := cluster.Topology{Leader: "pg1", Members: []cluster.Member{leader, replica}}
	if member, why, _ := whoServes(s, both, nil); member != "pg2" || why == "" {
		t.Error(member, why)
	}
	if member, why, refused := whoServes(s, cluster.Topology{Leader: "pg1", Members: []cluster.Member{leader}}, nil); member != "pg1" || why[:12] != "after 15m0s:" {
		t.Error(member, why, refused)
	}
	s.Source = cluster.FromReplica
	if member, why, _ := whoServes(s, cluster.Topology{Leader: "pg1", Members: []cluster.Member{leader}}, nil); member != "" || why == "" {
		t.Error(member, why)
	}
	if member, why, _ := whoServes(s, both, errors.New("etcd does not answer")); member != "" || why != "etcd does not answer" {
		t.Error(member, why)
	}
}
