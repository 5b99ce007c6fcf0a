package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const system postgres.SystemIdentifier = 7301234567890123456

// alive is a service with something to show and no server anywhere.
func alive(t *testing.T) *service {
	t.Helper()
	c := config.Default()
	c.Cluster = config.Cluster{Scope: "main", Member: "n1", DataDir: "/data", StateDir: t.TempDir()}
	c.Repositories = []config.Repository{{Name: "r", ConditionalWrites: config.Required}}
	c.Schedules = []config.Schedule{{Name: "nightly", Cron: "0 2 * * *", Timezone: "UTC", Source: "prefer-replica", Attempts: 3, Timeout: time.Hour}}
	bucket := mem.New()
	s, err := newService(Options{Log: slog.New(slog.DiscardHandler), Version: "1.2.3", Open: func(c config.Config) (Opener, error) {
		if c.Repositories[0].Name == "broken" {
			return nil, errors.New("no such store")
		}
		return func(id postgres.SystemIdentifier) *catalog.Repository {
			return catalog.New(bucket, catalog.Location{Scope: "main", System: id}, catalog.Options{})
		}, nil
	}}, c)
	if err != nil {
		t.Fatal(err)
	}
	s.schedule()
	s.beat.Store(time.Now().UnixNano())
	return s
}

// healthy adds what a healthy cluster shows.
func (s *service) healthy(now time.Time) {
	topology := three()
	topology.SystemIdentifier = system
	s.see(topology, nil)
	s.local = Local{Seen: now, Server: "primary", System: system, WALBytes: 5 << 20, FreeBytes: 1 << 40}
	s.keep = &Keep{Slot: "pgha_keep_x"}
	m := catalog.Manifest{ID: "20261121T020000Z-nightly", Member: "n2", Role: "replica", Reason: "a replica", StopTime: now.Add(-time.Hour)}
	s.survey.at, s.survey.missed = now, 2
	s.survey.Backups = []catalog.Surveyed{{Manifest: m, State: catalog.BackupOK}, {Manifest: m, State: catalog.BackupDamaged}}
	s.survey.Windows = []catalog.Window{{Backup: m.ID, From: m.StopTime, Last: postgres.Segment{Timeline: 1, Seg: 5}, Archived: now.Add(-30 * time.Second)}}
}

func ask(t *testing.T, s *service, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// A member without data has no pg_wal whose free bytes could be 0.
func TestAbsentServerHasNoWAL(t *testing.T) {
	for server, want := range map[string]bool{"primary": true, "down": true, "absent": false} {
		s := alive(t)
		s.healthy(s.started)
		s.local.Server = server
		var shown []string
		for _, sample := range s.samples(s.started) {
			shown = append(shown, sample.Name)
		}
		if !slices.Contains(shown, "pgha_postgres_up") || slices.Contains(shown, "pgha_pg_wal_free_bytes") != want {
			t.Errorf("%s: %v", server, shown)
		}
	}
}

func TestHealth(t *testing.T) {
	s := alive(t)
	want := func(path string, code int, text string) {
		t.Helper()
		if got, body := ask(t, s, path); got != code || !strings.Contains(body, text) {
			t.Errorf("%s: %d %q, want %d %q", path, got, body, code, text)
		}
	}
	want("/health/live", 200, "ok")
	want("/health/ready", 503, "the cluster has not been seen yet")
	s.healthy(time.Now())
	want("/health/ready", 200, "ok")
	s.see(cluster.Topology{}, errors.New("etcd: no answer"))
	want("/health/ready", 503, "cluster: etcd: no answer")
	s.healthy(time.Now())
	s.survey.at, s.survey.err = time.Now().Add(-time.Hour), errors.New("store: refused")
	want("/health/ready", 503, "repository: not read for more than 5m0s\nstore: refused")
	s.beat.Store(time.Now().Add(-time.Minute).UnixNano())
	want("/health/live", 503, "the main loop has not been seen for 1m0s")
	if code, _ := ask(t, s, "/"); code != 404 {
		t.Errorf("/ answers %d", code)
	}
}

func TestStatusDocument(t *testing.T) {
	s, now := alive(t), time.Now()
	s.healthy(now)
	s.refused = "schedules[0].cron: no"
	_, body := ask(t, s, "/status")
	var d Status
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	if d.Cluster != "main" || d.System != system || d.Role != cluster.Primary || d.Leader != "n1" || !d.Single || d.Last.Member != "n2" || d.Last.Reason != "a replica" {
		t.Error(body)
	}
	if d.RPO == nil || *d.RPO < 29 || *d.RPO > 60 || d.Next == nil || d.Next.Schedule != "nightly" || d.Next.Member != "n2" || d.Next.Why == "" {
		t.Error(body)
	}
	for _, want := range []string{"configuration: the newest is refused, the old one is in force: schedules[0].cron: no", "backup 20261121T020000Z-nightly: 0 files of the server had bad pages"} {
		if !slices.Contains(d.Problems, want) {
			t.Errorf("no %q in %q", want, d.Problems)
		}
	}
}

var metricName = regexp.MustCompile(`\bpgha_[a-z_]+`)

// Every metric that a rule asks for is shown, under the name and labels of the rule.
func TestRulesAskForWhatIsShown(t *testing.T) {
	s := alive(t)
	s.healthy(time.Now())
	code, body := ask(t, s, "/metrics")
	if code != 200 {
		t.Fatal(code, body)
	}
	rules, err := os.ReadFile("../configs/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	asked := metricName.FindAllString(string(rules), -1)
	if len(asked) < 13 {
		t.Fatalf("the rules ask for %q only", asked)
	}
	for _, name := range asked {
		if !strings.Contains(body, "\n"+name+`{cluster="main"`) {
			t.Errorf("no metric %s", name)
		}
	}
	for _, line := range []string{`pgha_backups{cluster="main",state="ok"} 1`, `pgha_backups{cluster="main",state="damaged"} 1`, `pgha_single_daemon{cluster="main"} 1`,
		`pgha_pg_wal_full_seconds{cluster="main"} +Inf`, `pgha_missed_total{cluster="main"} 2`, `pgha_leader{cluster="main"} 1`} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s in\n%s", line, body)
		}
	}
}

func TestReload(t *testing.T) {
	s := alive(t)
	try := func(change func(*config.Config), err error) string {
		s.reload(func() (config.Config, error) {
			c := s.settings()
			c.Schedules, c.Repositories = slices.Clone(c.Schedules), slices.Clone(c.Repositories)
			change(&c)
			return c, err
		})
		return s.refused
	}
	jobs := func() (names []string) {
		for _, state := range s.runner.States() {
			names = append(names, state.Job)
		}
		return names
	}
	add := func(c *config.Config) {
		c.Schedules = append(c.Schedules, config.Schedule{Name: "weekly", Cron: "0 3 * * 0", Timezone: "UTC"})
	}
	if got := try(add, errors.New("config.yaml: 3: colour: unknown")); got != "config.yaml: 3: colour: unknown" || len(jobs()) != 1 {
		t.Errorf("%q, jobs %v", got, jobs())
	}
	if got := try(func(c *config.Config) { c.Patroni.Etcd.Password = config.NewSecret("new") }, nil); got != "patroni: it changed, which takes a restart of the daemon" {
		t.Errorf("%q", got)
	}
	if got := try(func(c *config.Config) { c.Repositories[0].Name = "broken"; add(c) }, nil); got != "no such store" || len(jobs()) != 1 {
		t.Errorf("%q, jobs %v", got, jobs())
	}
	if got := try(add, nil); got != "" || !slices.Equal(jobs(), []string{"nightly", "weekly"}) {
		t.Errorf("%q, jobs %v", got, jobs())
	}
}

// The first backup is due once, when the repository is read and holds no whole one.
func TestFirstBackupIsDue(t *testing.T) {
	s := alive(t)
	names := func() (all []string) {
		for _, j := range s.jobs() {
			all = append(all, j.Name)
		}
		return all
	}
	if got := names(); !slices.Equal(got, []string{"nightly"}) {
		t.Errorf("before the repository was read: %v", got)
	}
	if from := s.jobs()[0].From; !from.After(time.Now().AddDate(1, 0, 0)) {
		t.Errorf("before the repository was read, times from %s on are due", from)
	}
	s.survey.at, s.survey.Info.Created = time.Now(), time.Now()
	if got := names(); !slices.Equal(got, []string{"nightly", "first"}) {
		t.Errorf("without a backup: %v", got)
	}
	if from := s.jobs()[0].From; !from.Equal(s.survey.Info.Created) {
		t.Errorf("times from %s on are due, the repository is of %s", from, s.survey.Info.Created)
	}
	s.healthy(time.Now())
	if got := names(); !slices.Equal(got, []string{"nightly"}) {
		t.Errorf("with one: %v", got)
	}
}

// The daemon starts, serves and ends without any server to talk to, and tells systemd so.
func TestRunWithoutAnybody(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	heard := systemd(t, name)
	c := config.Default()
	c.Cluster = config.Cluster{Scope: "main", Member: "n1", DataDir: t.TempDir(), StateDir: t.TempDir(), DSN: config.NewSecret("host=/nonexistent")}
	c.Repositories = []config.Repository{{Name: "r"}}
	c.Daemon.Listen = "127.0.0.1:0"
	env := map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
	hangups := make(chan os.Signal, 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Config: c, Reload: hangups, Load: func() (config.Config, error) { return c, nil }, Getenv: func(key string) string { return env[key] },
			Open: func(config.Config) (Opener, error) {
				return func(id postgres.SystemIdentifier) *catalog.Repository {
					return catalog.New(mem.New(), catalog.Location{Scope: "main", System: id}, catalog.Options{})
				}, nil
			}})
	}()
	next := func(want string) {
		t.Helper()
		for {
			if got := heard(); strings.HasPrefix(got, want) {
				return
			} else if got != "WATCHDOG=1" {
				t.Fatalf("systemd heard %q, want %q", got, want)
			}
		}
	}
	next("READY=1\nSTATUS=serving main")
	next("WATCHDOG=1")
	hangups <- os.Interrupt
	next("RELOADING=1\nMONOTONIC_USEC=")
	next("READY=1")
	stop()
	next("STOPPING=1")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
