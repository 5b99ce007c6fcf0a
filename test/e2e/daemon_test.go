package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestDaemons lets three daemons compete for every scheduled time while the leader is
// exchanged twice, once in peace and once by kill -9 of its whole host.
func TestDaemons(t *testing.T) {
	w := newWorld(t, worldOptions{extra: often})
	d := w.daemons(20 * time.Second)
	began := time.Now()
	journal := t.TempDir()
	stop := w.work(journal)
	one := w.cluster.Leader()
	d.more(2, 90*time.Second) // the first one of the repository among them
	w.seenFromOutside(d, one)
	w.reloads(d, one)

	second := w.cluster.Switchover(nil)
	t.Logf("%s leads now", second.Name)
	after := d.onTimeline(second, 2, 90*time.Second)
	if after.Role != "replica" || after.State != "ok" {
		t.Errorf("after the switchover: %+v", after)
	}

	d.running[second.Name].Kill9()
	dead, third := w.cluster.Failover()
	t.Logf("%s is dead with its daemon, %s leads now", dead.Name, third.Name)
	after = d.onTimeline(third, 3, 2*time.Minute)
	dead.Start()
	if err := d.running[dead.Name].Restart(); err != nil {
		t.Fatal(err)
	}
	stop()
	w.cluster.WaitHealthy(2 * time.Minute)
	m := w.marker()
	m.mark("last")
	m.archived()

	taken, missed := d.eachTimeOnce(began, time.Now().Add(-d.period))
	t.Logf("%d scheduled times were taken, %d missed", taken, missed)
	if missed > taken {
		t.Errorf("%d of %d were missed", missed, missed+taken)
	}
	firsts := 0
	for _, id := range d.manifests() {
		if id.Schedule() == catalog.FirstSchedule {
			firsts++
		}
		w.must(third, "restore", "--plan", "--target-immediate", "--backup", string(id), "--pgdata", third.Home+"/planned")
	}
	if firsts != 1 {
		t.Errorf("%d first backups", firsts)
	}
	for _, m := range w.cluster.Members {
		if size := d.residentMiB(m); size > 200 {
			t.Errorf("the daemon of %s has %.0f MiB", m.Name, size)
		}
	}
	d.stop()
	r := w.restoreAndStart(third, "--backup", string(after.ID))
	if got := r.marks(); got != "last" {
		t.Errorf("the copy holds %q", got)
	}
	r.judge(journal, w.commits(3))
}

// seenFromOutside looks at metrics, health, and status in a terminal.
func (w *world) seenFromOutside(d *daemons, m *lab.Member) {
	w.Helper()
	s := d.until(m, 70*time.Second, "the daemon to know of the last backup", func(s daemon.Status) bool { return s.Last != nil && s.Next != nil })
	if s.Role != "primary" || s.Leader != m.Name || s.Single || s.Next.Schedule != "often" || s.Next.Member == m.Name || s.Last.Role != "replica" || len(s.Windows) == 0 {
		w.Errorf("status %+v", s)
	}
	body, err := d.get(m, "/metrics")
	if err != nil {
		w.Fatal(err)
	}
	for _, want := range []string{`pgha_etcd_up{cluster="lab"} 1`, `pgha_leader{cluster="lab"} 1`, `pgha_store_up{cluster="lab"} 1`, `pgha_single_daemon{cluster="lab"} 0`,
		`pgha_archive_failing{cluster="lab"} 0`, `pgha_backups{cluster="lab",state="ok"}`, `pgha_backup_last_success_timestamp_seconds{`, `pgha_rpo_seconds{`,
		`pgha_schedule_next_timestamp_seconds{cluster="lab",schedule="often"}`} {
		if !strings.Contains(string(body), want) {
			w.Errorf("no %s in the metrics:\n%s", want, body)
		}
	}
	if strings.Contains(string(body), w.s3.SecretKey) {
		w.Error("the metrics show a secret")
	}
	if _, err := d.get(m, "/health/live"); err != nil {
		w.Error(err)
	}
	shown := w.do(m, "status").stdout
	for _, want := range []string{" Next backup: often at ", " by " + s.Next.Member, " Daemon:      version ", " Server here: primary", " RPO now: ", " pg_wal: "} {
		if !strings.Contains(shown, want) {
			w.Errorf("no %q in\n%s", want, shown)
		}
	}
	if r := w.do(m, "daemon"); r.code != 4 || !strings.Contains(r.stderr, "another pgha-backup daemon runs with this state directory") {
		w.Errorf("a second daemon of one member: %s", r)
	}
}

// reloads has a bad configuration refused and a good one taken.
func (w *world) reloads(d *daemons, m *lab.Member) {
	w.Helper()
	path := m.Run().Path("pgha-" + m.Name + ".yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	reload := func(text string) {
		w.Helper()
		m.Run().WriteFile(m.User, 0o600, text, "pgha-"+m.Name+".yaml")
		if err := d.running[m.Name].Signal(syscall.SIGHUP); err != nil {
			w.Fatal(err)
		}
	}
	reload(string(good) + "colour: blue\n")
	d.until(m, 10*time.Second, "the bad configuration to be refused", func(s daemon.Status) bool { return strings.Contains(s.Refused, "colour") })
	if body, err := d.get(m, "/metrics"); err != nil || !strings.Contains(string(body), `pgha_config_refused{cluster="lab"} 1`) {
		w.Errorf("%v: %s", err, body)
	}
	reload(strings.Replace(string(good), "  - {name: often", "  - {name: rarely, cron: '0 4 1 1 *'}\n  - {name: often", 1))
	d.until(m, 10*time.Second, "the new schedule", func(s daemon.Status) bool { return s.Refused == "" && len(s.Schedules) == 2 })
	reload(string(good))
	d.until(m, 10*time.Second, "the old schedules", func(s daemon.Status) bool { return len(s.Schedules) == 1 })
}

// TestDaemonsLose takes etcd away altogether, and a daemon in the middle of a backup.
func TestDaemonsLose(t *testing.T) {
	hba := []any{"local all all scram-sha-256", "local replication all scram-sha-256", "host replication all 127.0.0.0/8 scram-sha-256", "host all all 127.0.0.0/8 scram-sha-256"}
	w := newWorld(t, worldOptions{extra: strings.Replace(often, "retention:", "backup: {rate_limit: 4MiB}\nretention:", 1),
		patroni: map[string]any{"postgresql": map[string]any{"pg_hba": hba}}})
	w.cluster.PatchConfig(`{"failsafe_mode": true}`)
	d := w.daemons(20 * time.Second)
	began := time.Now()
	leader := w.cluster.Leader()
	d.more(1, 90*time.Second)

	var victim *lab.Member
	var backup catalog.BackupID
	lab.Poll(t, time.Minute, "a backup in the middle of its copy", func() error {
		for _, m := range w.cluster.Members {
			if s, err := d.status(m); err == nil && len(s.Running) > 0 && s.Running[0].Phase == "copy" {
				victim, backup = m, s.Running[0].Backup
				return nil
			}
		}
		return errNotYet
	})
	d.running[victim.Name].Kill9()
	t.Logf("%s died in the middle of %s", victim.Name, backup)
	d.more(1, 90*time.Second)
	if err := d.running[victim.Name].Restart(); err != nil {
		t.Fatal(err)
	}

	lab.Poll(t, 30*time.Second, "Patroni's failsafe mode to be on", func() error {
		if _, found, err := w.cluster.Etcd.Get(w.cluster.Key("failsafe")); err != nil || !found {
			return errNotYet
		}
		return nil
	})
	for _, e := range w.cluster.Etcd.Members {
		e.Kill9()
	}
	for _, m := range w.cluster.Members {
		s := d.until(m, time.Minute, "the schedule to wait for etcd", func(s daemon.Status) bool {
			return s.Topology != "" && len(s.Schedules) > 0 && strings.Contains(s.Schedules[len(s.Schedules)-1].Waits, "cannot be seen")
		})
		if _, err := d.get(m, "/health/ready"); err == nil {
			t.Errorf("the daemon of %s is ready without etcd: %+v", m.Name, s)
		}
	}
	var segment string
	leader.QueryRow("select pg_walfile_name(pg_switch_wal())", &segment)
	lab.Poll(t, 30*time.Second, "archiving to go on without etcd", func() error { return w.stored(segment) })
	for _, e := range w.cluster.Etcd.Members {
		e.Start()
	}
	w.cluster.Etcd.Wait()
	for _, m := range w.cluster.Members {
		d.until(m, time.Minute, "etcd to be seen again", func(s daemon.Status) bool { return s.Topology == "" && s.Leader != "" })
	}
	w.cluster.WaitHealthy(time.Minute)
	d.more(1, 90*time.Second)
	w.backupHost(d)
	taken, missed := d.eachTimeOnce(began, time.Now().Add(-2*d.period))
	t.Logf("%d scheduled times were taken, %d missed, since %s", taken, missed, began.UTC().Format(time.TimeOnly))
	d.stop()
}

// backupHost lets a daemon without a data directory take over for replicas whose own
// daemons have ended.
func (w *world) backupHost(d *daemons) {
	w.Helper()
	for _, m := range w.cluster.Replicas() {
		if err := d.running[m.Name].Stop(syscall.SIGTERM, 25*time.Second); err != nil {
			w.Fatal(err)
		}
		delete(d.running, m.Name)
	}
	run, leader := lab.RunOf(w.T), w.cluster.Leader()
	state := run.Mkdir(lab.UserInfra, 0o700, "backup-host")
	_, repository, _ := strings.Cut(w.config(leader, w.s3.Endpoint), "repositories:")
	text := fmt.Sprintf("cluster: {scope: %s, member: host, state_dir: %s, dsn: 'host=%s user=postgres dbname=postgres password=%s'}\npatroni: {etcd: {endpoints: [%s]}}\nrepositories:%s",
		w.cluster.Scope, state, leader.Host, lab.Password, "http://"+strings.Join(w.cluster.Etcd.Endpoints(), ", http://"), repository) +
		strings.ReplaceAll(often, "{host}:8018", leader.Host+":8019")
	config := run.WriteFile(lab.UserInfra, 0o600, text, "pgha-host.yaml")
	d.running["host"] = run.Start(lab.UserInfra, "daemon-host", nil, w.binary, "--config", config, "daemon")
	known := d.manifests()
	lab.Poll(w, 90*time.Second, "a backup by the backup host", func() error {
		for _, id := range d.manifests() {
			if slices.Contains(known, id) {
				continue
			}
			var m catalog.Manifest
			if err := json.Unmarshal([]byte(w.must(leader, "show", string(id), "--format", "json").stdout), &m); err != nil {
				return err
			}
			if m.Source == "base-backup" && m.Role == "replica" && m.Member != leader.Name {
				return nil
			}
			known = append(known, id)
			w.Logf("%s is of %s by %s", id, m.Member, m.Source)
		}
		return errNotYet
	})
}
