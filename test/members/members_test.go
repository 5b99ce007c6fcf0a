package members

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

// TestMembers tells one story, because clusters are slow to start: a fresh cluster is
// set up, its members are made from the repository, before and after a failover, and
// so is another cluster.
func TestMembers(t *testing.T) {
	w := newWorld(t)
	w.cluster = w.start(lab.ClusterOptions{Etcd: 1, HAProxy: true, Parameters: map[string]string{"archive_mode": "off", "log_replication_commands": "on"}})
	leader := w.cluster.Leader()
	w.setUp(leader)

	// Without a backup Patroni goes on with its next method.
	n := w.cluster.Replicas()[0]
	from := w.rebuilt(n)
	w.madeBy(n, from, "basebackup")
	if logged(n, from, "the repository holds no backup") != 1 || logged(n, from, "exited with code=4") != 1 {
		t.Errorf("%s does not say why", n.Name)
	}

	journal := t.TempDir()
	work, err := ledger.Start(t.Context(), w.cluster.PrimaryDSN(), ledger.Options{Dir: journal, Pause: 5 * time.Millisecond, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	leader.Exec("create table filler as select g, repeat(md5(g::text), 20) from generate_series(1, 60000) g")
	leader.Exec("create table marks (name text)")
	w.must(leader, nil, "backup")
	w.must(leader, nil, "check")

	w.fromTheRepository(leader, n)
	w.afterFailover()

	leader = w.cluster.Leader()
	leader.Exec("insert into marks values ('before')")
	var at time.Time
	leader.QueryRow("select clock_timestamp()", &at)
	leader.Exec("insert into marks values ('after')")
	if _, err := work.Stop(); err != nil {
		t.Fatal(err)
	}
	w.must(leader, nil, "check") // and archives all of that
	target := at.UTC().Format("2006-01-02T15:04:05.000000Z")
	w.newCluster(leader, target, journal)
	w.killedBootstrap(leader, target)
}

// setUp tells a fresh cluster what it must know, and proves the way on every member.
func (w *world) setUp(leader *lab.Member) {
	w.Helper()
	var s struct {
		Changed []string `json:"changed"`
		Pending []string `json:"pending_restart"`
	}
	const unhooked = "warning  pre_promote: "
	if _, stdout, said := w.do(leader, "check"); !strings.Contains(stdout, unhooked) {
		w.Errorf("no %q before setup: %s", unhooked, said)
	}
	w.must(leader, &s, "patroni", "setup", "--apply", "--program", w.program)
	if !slices.Contains(s.Changed, "postgresql.parameters.archive_mode") || strings.Join(s.Pending, " ") != "n1 n2 n3" {
		w.Errorf("setup of a fresh cluster: %+v", s)
	}
	for _, m := range append(w.cluster.Replicas(), leader) {
		lab.Poll(w, time.Minute, "a restart of "+m.Name, func() error { return m.Post("restart", `{"restart_pending": true}`) })
	}
	w.cluster.WaitHealthy(time.Minute)
	s.Changed, s.Pending = nil, nil
	w.must(leader, &s, "patroni", "setup", "--apply", "--program", w.program)
	if len(s.Changed)+len(s.Pending) > 0 {
		w.Errorf("the second setup: %+v", s)
	}
	for _, m := range append([]*lab.Member{leader}, w.cluster.Replicas()...) {
		_, stdout, said := w.do(m, "check")
		if strings.Contains(stdout, unhooked) {
			w.Errorf("%q after setup: %s", unhooked, said)
		}
		for _, line := range []string{"ok       way into the archive: ", "ok       restore_command: "} {
			if !strings.Contains(stdout, line) && !(m == leader && strings.Contains(line, "restore_command")) {
				w.Errorf("no %q on %s: %s", line, m.Name, said)
			}
		}
	}
}

// fromTheRepository makes a member; the leader sends it WAL of the last moments only.
func (w *world) fromTheRepository(leader, n *lab.Member) {
	w.Helper()
	base := length(leader)
	from := w.rebuilt(n)
	w.madeBy(n, from, "pgha_backup")
	if logged(leader, base, "BASE_BACKUP") != 0 {
		w.Errorf("the leader was copied from")
	}
	var size, sent int64
	leader.QueryRow("select sum(pg_database_size(oid))::bigint from pg_database", &size)
	n.QueryRow("select (latest_end_lsn - receive_start_lsn)::bigint from pg_stat_wal_receiver", &sent)
	w.Logf("the leader sent %d KiB to a member of %d KiB", sent>>10, size>>10)
	if sent > 16<<20 || size < 48<<20 {
		w.Errorf("the leader sent %d of %d bytes", sent, size)
	}
}

// afterFailover makes a member in the first moment of a new timeline, by whatever
// method can, and one when the archive has caught up, without parameters.
func (w *world) afterFailover() {
	w.Helper()
	w.method(`{"no_params": true}`, "7MB")
	_, leader := w.cluster.Failover()
	n := w.cluster.Replicas()[0]
	from := w.reinitialized(n)
	w.Logf("right after the failover: %d from the repository, %d from the leader", logged(n, from, "created using pgha_backup"), logged(n, from, "created using basebackup"))
	w.must(leader, nil, "check") // ends the segment with the fork and waits for it in the archive
	w.madeBy(n, w.reinitialized(n), "pgha_backup")
	w.method(`{"no_params": null, "keep_data": true, "no_leader": true, "foo": "some value"}`, "8MB")
	from = w.reinitialized(n)
	w.madeBy(n, from, "pgha_backup")
	if logged(n, from, "Leaving data directory uncleaned") != 1 || logged(n, from, "ground=replaced") != 1 {
		b, _ := os.ReadFile(n.Log)
		w.Errorf("%s did not replace the data directory that Patroni kept:\n%s", n.Name, b[from:])
	}
}

// source writes the configuration of the cluster to clone.
func (w *world) source(user string) string {
	return w.run.WriteFile(user, 0o600, w.config("cluster: {scope: lab}\n"), "source.yaml")
}

// newCluster makes one from the first one's repository: exactly up to the target, and
// from then on apart from it.
func (w *world) newCluster(leader *lab.Member, target, journal string) (*lab.Member, ledger.Report) {
	w.Helper()
	before := w.stored("lab")
	clone := w.start(lab.ClusterOptions{Scope: "clone", Members: 1, Etcd: 1, Namespace: "/elsewhere/",
		ArchiveCommand: w.program + " archive-push %p", RestoreCommand: w.program + " archive-get %f %p",
		Extra: map[string]any{"bootstrap": map[string]any{"method": "pgha_backup", "pgha_backup": map[string]any{
			"command": w.program + " patroni bootstrap --from-config " + w.source(lab.User1) + " --target-time " + target}}}})
	m := clone.Members[0]
	conn := w.connect(m.DSN())
	var marks string
	if err := conn.QueryRow(w.Context(), "select string_agg(name, ' ') from marks").Scan(&marks); err != nil || marks != "before" {
		w.Errorf("the new cluster holds %q: %v", marks, err)
	}
	records, err := ledger.ReadJournal(journal)
	if err != nil {
		w.Fatal(err)
	}
	lineage, err := ledger.ServerLineage(w.Context(), conn)
	if err != nil {
		w.Fatal(err)
	}
	cut := ledger.Cut{Lineage: lineage}
	var timelines []postgres.TimelineID
	for _, s := range lineage[:len(lineage)-1] {
		timelines = append(timelines, s.Timeline)
	}
	if cut.Commits, err = ledger.Archived(w.Context(), m.BinDir, filepath.Join(w.s3.Dir, w.s3.Bucket, "lab"), timelines...); err != nil {
		w.Fatal(err)
	}
	report, err := ledger.Verify(w.Context(), conn, records, cut)
	if err != nil {
		w.Errorf("the ledger of the new cluster: %v", err)
	}
	w.Logf("ledger of the new cluster: %+v", report)

	// Its own timeline reaches its own archive, beginning with the fork.
	var segment, timeline, first string
	m.QueryRow("select pg_walfile_name(pg_switch_wal())", &segment)
	m.QueryRow("select lpad(timeline_id::text, 8, '0') from pg_control_checkpoint()", &timeline)
	m.QueryRow("select min(name) from pg_ls_waldir() where length(name) = 24 and name like '"+timeline+"%'", &first)
	lab.Poll(w, 30*time.Second, "the new cluster's archive", func() error {
		has := w.stored("clone")
		if !has[segment] || !has[first] || !has[timeline+".history"] {
			return errNotYet
		}
		return nil
	})
	if got := w.stored("lab"); !maps.Equal(got, before) {
		w.Errorf("the archive of the source has changed: %d objects, %d before", len(got), len(before))
	}
	for _, name := range []string{"recovery.signal", "standby.signal", "patroni.dynamic.json.bak", ".pgha-bootstrap"} {
		if _, err := os.Lstat(filepath.Join(m.DataDir, name)); err == nil {
			w.Errorf("%s of the new cluster", name)
		}
	}
	cmd := w.run.Command(w.Context(), m.User, nil, w.run.Build("pgha-backup"), "--config", w.source(m.User), "archive-push", filepath.Join(m.DataDir, "pg_wal", timeline+".history"))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "may not write into the archive it came from") {
		w.Errorf("the new cluster wrote into its source's archive: %v %s", err, out)
	}
	w.firstBackup(m)
	return m, report
}

// firstBackup is taken by the daemon of a new cluster without being asked.
func (w *world) firstBackup(m *lab.Member) {
	w.Helper()
	config := w.run.WriteFile(m.User, 0o600, w.config("patroni: {config: "+m.ConfigFile+"}\ncluster: {state_dir: "+m.Home+"/state}\n"+
		"daemon: {listen: '', socket: "+m.Home+"/daemon.sock}\nschedules: [{name: yearly, cron: '@yearly', replica_wait: 0s}]\n"), filepath.Base(m.Home), "daemon.yaml")
	daemon := w.run.Start(m.User, "daemon-"+filepath.Base(m.Home), nil, w.run.Build("pgha-backup"), "--config", config, "daemon")
	lab.Poll(w, time.Minute, "the first backup of the new cluster", func() error {
		for key := range w.s3.Keys() {
			if strings.HasPrefix(key, "clone/") && strings.HasSuffix(key, "-first/manifest.json") {
				return nil
			}
		}
		return errNotYet
	})
	if err := daemon.Stop(syscall.SIGTERM, 25*time.Second); err != nil {
		w.Error(err)
	}
	w.must(m, nil, "verify", "--level", "full")
}

// killedBootstrap kills one while its private server runs: there is nothing that
// Patroni would start, and the next one ends that server and gets there.
func (w *world) killedBootstrap(m *lab.Member, target string) {
	w.Helper()
	home := w.run.Mkdir(m.User, 0o700, "third")
	w.run.WriteFile(m.User, 0o600, w.config("cluster: {scope: third, state_dir: "+home+"/state, bin_dir: "+m.BinDir+"}\n"), "third", "pgha.yaml")
	third := *m
	third.Home, third.DataDir = home, filepath.Join(home, "data")
	args := []string{"patroni", "bootstrap", "--from-scope", "lab", "--target-time", target, "--scope=third", "--datadir=" + third.DataDir, "--my_key=True"}
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	cmd := w.command(ctx, &third, args...)
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	pidFile := filepath.Join(third.DataDir, ".pgha-bootstrap", "postmaster.pid")
	for {
		if _, err := os.Stat(pidFile); err == nil {
			break
		}
		if ctx.Err() != nil {
			w.Fatal("the private server did not start")
		}
		time.Sleep(time.Millisecond)
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	err := cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.Success() {
		w.Fatalf("bootstrap was over before it could be killed: %v", err)
	}
	entries, err := os.ReadDir(third.DataDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != ".pgha-bootstrap" {
		w.Fatalf("a killed bootstrap leaves %v, %v", entries, err)
	}
	text, _ := os.ReadFile(pidFile)
	first, _, _ := strings.Cut(string(text), "\n")
	server, err := strconv.Atoi(first)
	if err != nil || syscall.Kill(server, 0) != nil {
		w.Fatalf("the private server is not there: %q %v", first, err)
	}
	w.must(&third, nil, args...)
	if exe, err := os.Readlink("/proc/" + first + "/exe"); err == nil && strings.HasSuffix(exe, "/postgres") {
		w.Errorf("the server of the killed bootstrap still runs")
	}
	entries, err = os.ReadDir(third.DataDir)
	if err != nil {
		w.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for name, want := range map[string]bool{"global": true, "pgha.origin.json": true, "recovery.signal": false, "standby.signal": false, ".pgha-bootstrap": false, "pgha.restore.log": false} {
		if slices.Contains(names, name) != want {
			w.Errorf("%s: %v, want %v; there are %v", name, !want, want, names)
		}
	}
}
