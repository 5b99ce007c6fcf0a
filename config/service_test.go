package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func loadText(t *testing.T, text string) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	text = "cluster: {scope: main, member: pg1}\nrepositories: [{name: a, type: s3, s3: {endpoint: 'https://s', bucket: b}}]\n" + text
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServiceDefaults(t *testing.T) {
	c := loadText(t, "schedules: [{name: nightly, cron: '0 2 * * *'}, {name: b2-weekly, cron: '@weekly', max_lag: 0, replica_wait: 0, timezone: Asia/Kathmandu}]\n")
	want := Schedule{Name: "nightly", Cron: "0 2 * * *", Timezone: "UTC", Type: "full", Source: "prefer-replica", MaxLag: 256 << 20,
		ReplicaWait: 15 * time.Minute, Attempts: 3, RetryDelay: 5 * time.Minute, Timeout: 12 * time.Hour}
	if c.Schedules[0] != want || c.Schedules[1].MaxLag != 0 || c.Schedules[1].ReplicaWait != 0 {
		t.Errorf("%+v", c.Schedules)
	}
	if want := (Retention{Keep: 7, Minimum: 1, Grace: 24 * time.Hour, Garbage: 48 * time.Hour}); c.Retention != want {
		t.Errorf("%+v", c.Retention)
	}
	if want := (Daemon{Listen: "127.0.0.1:8018", Socket: "/run/pgha-backup/main.sock"}); c.Daemon != want {
		t.Errorf("%+v", c.Daemon)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "retention.schedule") {
		t.Errorf("%q", c.Warnings)
	}
	weekly, err := c.Schedules[1].Timetable()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	if at := weekly.Next(now); !at.Equal(time.Date(2026, 11, 21, 18, 15, 0, 0, time.UTC)) {
		t.Error(at)
	}
	if never, err := c.Retention.Timetable(); never != nil || err != nil {
		t.Error(never, err)
	}
}

func TestDurations(t *testing.T) {
	c := loadText(t, "schedules: [{name: a, cron: '@daily', latest_start: 90m}]\n"+
		"retention: {keep: 0, window: 2w, grace: 1d, garbage: 49h, schedule: '@every 1h'}\ndaemon: {listen: ''}\n")
	r := c.Retention
	if r.Window != 14*day || r.Grace != day || r.Garbage != 49*time.Hour || c.Schedules[0].LatestStart != 90*time.Minute || c.Daemon.Listen != "" || len(c.Warnings) > 0 {
		t.Errorf("%+v %+v %q", r, c.Daemon, c.Warnings)
	}
	if table, err := r.Timetable(); err != nil || !table.Next(time.Unix(3601, 0)).Equal(time.Unix(7200, 0)) {
		t.Error(err)
	}
	shown := map[string]string{}
	for _, f := range c.Fields() {
		shown[f.Path] = f.Value
	}
	for path, want := range map[string]string{"retention.window": "14d", "retention.grace": "1d", "retention.garbage": "49h0m0s", "schedules[0].cron": "@daily",
		"schedules[0].source": "prefer-replica", "schedules[0].latest_start": "1h30m0s", "backup.wal_timeout": "1h0m0s", "archive.push_timeout": "1m0s"} {
		if shown[path] != want {
			t.Errorf("%s is shown as %q, want %q", path, shown[path], want)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "1d12h", "7", "213503982334w", "99999999999d", "1 d"} {
		if d, err := parseDuration(text); err == nil {
			t.Errorf("%q is %s", text, d)
		}
	}
	if d, err := parseDuration("0"); d != 0 || err != nil {
		t.Error(d, err)
	}
}
