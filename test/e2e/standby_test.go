package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/backup"
	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestStandby copies standbys: of an idle leader, under load with pages from the
// future (R15), across a failover that the standby follows, and one that is
// promoted under our hands.
func TestStandby(t *testing.T) {
	w := newWorld(t, worldOptions{etcd: 1})
	leader, replicas := w.cluster.Leader(), w.cluster.Replicas()
	one, two := replicas[0], replicas[1]
	w.refusals(leader, one)

	// An idle leader, whose segment nobody would end for five minutes.
	idle := w.backupOf(one, "replica")
	if idle.Role != "replica" || idle.Reason != "a replica, asked for by hand" || idle.Member != one.Name || idle.StopLSN <= idle.StartLSN {
		t.Errorf("the idle cluster's backup: %+v", idle)
	}
	w.restoreAndStart(one, "--target-immediate").stop()

	// The leader's host, which has no files of a replica, has one streamed.
	streamed := w.backupOf(leader, "replica", "--method", "base-backup")
	if streamed.Role != "replica" || streamed.Source != "base-backup" || streamed.Member == leader.Name || !strings.HasPrefix(streamed.Reason, "a replica") {
		t.Errorf("the streamed backup: %+v", streamed)
	}

	journal := t.TempDir()
	stop := w.work(journal)
	stop() // WAL from the backup's start to the first reading of pg_control must not mend what is copied later
	m := w.marker()
	var early, written postgres.LSN
	future := w.copyWhile(one, func() {
		early = w.control(one.DataDir).MinRecovery
		stop = w.work(journal)
		w.turnOver(m)
		written = w.flushed(m, one)
	})
	if future.Timeline != 1 || future.StopTLI != 1 || future.StopLSN < written || future.StartLSN > early {
		t.Errorf("the backup goes from %s on %d to %s on %d; before the copy pg_control said %s, then all was written up to %s",
			future.StartLSN, future.Timeline, future.StopLSN, future.StopTLI, early, written)
	}
	stop()
	w.judgeImmediate(one, future, early, journal, 1)

	// The leader hands over to another standby: the copied one follows, with the copy.
	followed := w.copyWhile(two, func() {
		stop = w.work(journal)
		streamed = w.takeWhile(two, true, func() {
			w.cluster.Switchover(one)
			m = w.marker()
			w.turnOver(m)
			written = w.flushed(m, two)
		})
	})
	stop()
	for _, b := range []catalog.Manifest{followed, streamed} {
		if b.Timeline != 1 || b.StopTLI != 2 || b.StopLSN < written {
			t.Errorf("the %s goes from %s on %d to %s on %d, all was written up to %s", b.Source, b.StartLSN, b.Timeline, b.StopLSN, b.StopTLI, written)
		}
		w.judgeImmediate(one, b, b.StartLSN, journal, 1, 2)
	}

	w.promoted(two, func() { w.cluster.Switchover(two) })
	if last := w.backupOf(leader, "prefer-replica"); last.Role != "replica" || len(w.listed(leader)) != 6 {
		t.Errorf("the next backup is of a %s, and listed are %v", last.Role, w.listed(leader))
	}
	w.must(leader, "verify", "--level", "full")
}

// refusals are all before anything was changed, and said to the letter.
func (w *world) refusals(leader, replica *lab.Member) {
	w.Helper()
	refused := func(m *lab.Member, source, want string) {
		w.Helper()
		r := w.do(m, "backup", "--source", source)
		if _, said, _ := strings.Cut("\n"+r.stderr, "\nerror: "); r.code != 4 || said != want {
			w.Errorf("--source %s on %s: %s\nwant %s", source, m.Name, r, want)
		}
		if w.stored("started") == nil {
			w.Errorf("--source %s on %s: refused, and a run was started", source, m.Name)
		}
	}
	set := func(m *lab.Member, setting, value string) {
		w.Helper()
		m.Exec("alter system set " + setting + " = " + value)
		m.Exec("select pg_reload_conf()")
		lab.Poll(w, 10*time.Second, "reload", func() error {
			var same bool
			if m.QueryRow(fmt.Sprintf("select setting = '%s' from pg_settings where name = '%s'", value, setting), &same); !same {
				return errNotYet
			}
			return nil
		})
	}
	refused(leader, "replica", fmt.Sprintf("member %s leads lab: --source replica wants one that does not\nhint: run it on another member\n", leader.Name))
	r := w.do(leader, "backup", "--source", "prefer-replica")
	named := false // any replica: they are equal but for what Patroni last saw of their lag
	for _, m := range w.cluster.Replicas() {
		named = named || strings.HasSuffix(r.stderr, fmt.Sprintf("error: member %s leads lab, and replica %s can serve\nhint: run it on %s\n", leader.Name, m.Name, m.Name))
	}
	if r.code != 4 || !named {
		w.Errorf("--source prefer-replica on %s: %s", leader.Name, r)
	}
	refused(replica, "leader", fmt.Sprintf("member %s is not the leader of lab: %s is\nhint: run it on %s\n", replica.Name, leader.Name, leader.Name))
	replica.Exec("select pg_wal_replay_pause()")
	refused(replica, "replica", "replay is paused on the standby\nhint: resume it with SELECT pg_wal_replay_resume(), or choose another member\n")
	replica.Exec("select pg_wal_replay_resume()")
	set(replica, "recovery_min_apply_delay", "3600000")
	refused(replica, "prefer-replica", "the standby replays 1h0m0s late: recovery_min_apply_delay is set\nhint: choose another member\n")
	set(replica, "recovery_min_apply_delay", "0")
	set(leader, "full_page_writes", "off")
	refused(replica, "replica", "full_page_writes is off on the leader\nhint: turn it on: pages that the standby writes while they are copied are made whole by full page images alone\n")
	set(leader, "full_page_writes", "on")

	// A reader on the standby holds up replay, which shows when it has to go on.
	leader.Exec("create table held ()")
	reader, err := pgx.Connect(w.Context(), replica.DSN())
	if err != nil {
		w.Fatal(err)
	}
	defer reader.Close(context.Background())
	lab.Poll(w, 10*time.Second, "the table on the standby", func() error {
		_, err := reader.Exec(w.Context(), "begin; select * from held")
		if err != nil {
			_, _ = reader.Exec(w.Context(), "rollback")
		}
		return err
	})
	leader.Exec("begin; lock held in access exclusive mode; commit")
	_, err = w.copyOf(replica, backup.Options{ArchiveStall: 2 * time.Second})
	if _, ok := errors.AsType[*backup.PreflightError](err); !ok || !strings.Contains(err.Error(), " and nothing more for 2s, the leader's checkpoint ends at ") {
		w.Errorf("replay that stands still: %v", err)
	}
	if w.stored("started") == nil {
		w.Error("replay that stands still: a run was started")
	}
}

func (w *world) backupOf(m *lab.Member, source string, more ...string) catalog.Manifest {
	w.Helper()
	r := w.must(m, append([]string{"backup", "--source", source, "--format", "json"}, more...)...)
	var manifest catalog.Manifest
	if err := json.Unmarshal([]byte(r.stdout), &manifest); err != nil {
		w.Fatalf("backup: %v: %s", err, r)
	}
	return manifest
}

// copyOf copies the member in this process.
func (w *world) copyOf(m *lab.Member, o backup.Options) (catalog.Manifest, error) {
	w.Helper()
	return w.takeOf(m, false, o)
}

func (w *world) takeOf(m *lab.Member, streamed bool, o backup.Options) (catalog.Manifest, error) {
	w.Helper()
	bucket, err := s3.New(s3.Options{Endpoint: w.s3.Endpoint, Bucket: w.s3.Bucket, Region: w.s3.Region, Style: s3.Path,
		AccessKey: w.s3.AccessKey, SecretKey: w.s3.SecretKey})
	if err != nil {
		w.Fatal(err)
	}
	o.ID = catalog.ManualID(time.Now())
	member := backup.Member{Name: m.Name, DSN: m.DSN(), PGDATA: m.DataDir, Streamed: streamed,
		Topology: func(context.Context) (cluster.Topology, error) {
			leader := w.cluster.Leader()
			return cluster.Topology{Scope: "lab", Leader: leader.Name, Members: []cluster.Member{
				{Name: leader.Name, ConnURL: fmt.Sprintf("postgres://%s:%d/postgres", leader.Host, leader.Port)}}}, nil
		},
		Repository: func(system postgres.SystemIdentifier) (*catalog.Repository, error) {
			return catalog.New(bucket, catalog.Location{Scope: "lab", System: system}, catalog.Options{}), nil
		}}
	return member.Backup(w.Context(), "a test wants it", o)
}

// copyWhile takes a backup in which something happens after the start, before the
// first file is read.
func (w *world) copyWhile(m *lab.Member, happens func()) catalog.Manifest {
	w.Helper()
	return w.takeWhile(m, false, happens)
}

// takeWhile is copyWhile, or streamed: then the server has sent what a socket holds
// when it happens.
func (w *world) takeWhile(m *lab.Member, streamed bool, happens func()) catalog.Manifest {
	w.Helper()
	manifest, err := w.takeOf(m, streamed, backup.Options{Events: backup.Events{
		Phase: func(p backup.Phase) {
			if p == backup.PhaseCopy {
				happens()
			}
		},
		Warning: func(text string) { w.Log("warning: ", text) },
	}})
	if err != nil {
		w.Fatal(err)
	}
	if manifest.Role != "replica" || manifest.Reason != "a test wants it" || manifest.Damaged() {
		w.Errorf("the manifest says role %s, reason %q, damage %v", manifest.Role, manifest.Reason, manifest.Damage)
	}
	return manifest
}

// turnOver waits until every account has been rewritten often: what pages held
// before is pruned away, and no longer there for who comes from an earlier time.
func (w *world) turnOver(m *marker) {
	w.Helper()
	var before, now int64
	m.query("select count(*) from ledger.entries", &before)
	lab.Poll(w, time.Minute, "the ledger to go on", func() error {
		if m.query("select count(*) from ledger.entries", &now); now < before+500 {
			return errNotYet
		}
		return nil
	})
}

// flushed has the standby write every page that it has in memory, and returns a
// position that its pg_control cannot be behind any more.
func (w *world) flushed(m *marker, standby *lab.Member) postgres.LSN {
	w.Helper()
	m.exec("checkpoint")
	var redo string
	m.query("select redo_lsn::text from pg_control_checkpoint()", &redo)
	lsn, err := postgres.ParseLSN(redo)
	if err != nil {
		w.Fatal(err)
	}
	lab.Poll(w, time.Minute, "the standby to make a restartpoint", func() error {
		standby.Exec("checkpoint")
		var done bool
		if standby.QueryRow("select redo_lsn >= '"+redo+"' from pg_control_checkpoint()", &done); !done {
			return errNotYet
		}
		return nil
	})
	return lsn
}

func (w *world) control(pgdata string) postgres.ControlData {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(pgdata, "global", "pg_control"))
	if err != nil {
		w.Fatal(err)
	}
	control, err := postgres.ParseControlData(text)
	if err != nil {
		w.Fatal(err)
	}
	return control
}

// judgeImmediate restores a backup to its own end and nothing more: the ledger is
// exact there, and no page is from behind it, though some are from behind early.
func (w *world) judgeImmediate(m *lab.Member, b catalog.Manifest, early postgres.LSN, journal string, timelines ...postgres.TimelineID) {
	w.Helper()
	args := []string{"--target-immediate", "--backup", string(b.ID)}
	dir, r := w.tryRestore(m, args...)
	if r.code != 0 {
		w.Fatalf("restore: %s", r)
	}
	lab.JudgeFiles(w.T, 15, m.User, dir)
	if control := w.control(dir); control.State != postgres.StateInArchiveRecovery || control.MinRecovery != b.StopLSN || control.MinRecoveryTimeline != b.StopTLI {
		w.Errorf("pg_control of the copy is %s and goes to %s on %d, the manifest says %s on %d", control.State, control.MinRecovery, control.MinRecoveryTimeline, b.StopLSN, b.StopTLI)
	}
	var newest postgres.LSN
	err := filepath.WalkDir(filepath.Join(dir, "base"), func(path string, e fs.DirEntry, err error) error {
		relative, _ := filepath.Rel(dir, path)
		if _, ok := postgres.ParseRelationFile(relative); !ok || err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		for at := 0; at+postgres.PageSize <= len(data); at += postgres.PageSize {
			newest = max(newest, postgres.PageLSN(data[at:at+postgres.PageSize]))
		}
		return err
	})
	if err != nil || newest <= early || newest > b.StopLSN {
		w.Errorf("the newest page is of %s: want one behind %s and none behind the backup's end, %s (%v)", newest, early, b.StopLSN, err)
	}
	w.Logf("ledger: %+v", w.restoreAndStart(m, args...).judge(journal, w.commits(timelines...)))
}

// promoted copies a standby, slowly, by the command, and promotes it meanwhile.
func (w *world) promoted(m *lab.Member, promote func()) {
	w.Helper()
	before := len(w.listed(m))
	m.Run().WriteFile(m.User, 0o600, w.config(m, w.s3.Endpoint)+"backup: {rate_limit: 1MiB}\n", "pgha-slow.yaml")
	runs := func() (n int) {
		for key := range w.s3.Keys() {
			if strings.HasSuffix(key, "/started") {
				n++
			}
		}
		return n
	}
	known := runs()
	ended := make(chan result, 1)
	go func() {
		ended <- w.do(m, "backup", "--source", "replica", "--config", m.Run().Path("pgha-slow.yaml"))
	}()
	lab.Poll(w, time.Minute, "the run to start", func() error {
		if runs() == known {
			return errNotYet
		}
		return nil
	})
	promote()
	r := <-ended
	if r.code != 1 || !strings.HasSuffix(r.stderr, "\nerror: the standby was promoted during the backup: nothing was committed\nhint: look at patronictl list and take another backup\n") {
		w.Errorf("a promotion in mid copy: %s", r)
	}
	if now := len(w.listed(m)); now != before {
		w.Errorf("there were %d backups, and are %d after one that failed", before, now)
	}
}

func (w *world) listed(m *lab.Member) []struct{ ID catalog.BackupID } {
	w.Helper()
	var list struct {
		Backups []struct{ ID catalog.BackupID }
	}
	if err := json.Unmarshal([]byte(w.must(m, "list", "--format", "json").stdout), &list); err != nil {
		w.Fatal(err)
	}
	return list.Backups
}
