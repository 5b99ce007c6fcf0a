package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

// act is what happens to the data.
type act struct {
	journals string
	work     *ledger.Workload
	seed     uint64
	before   time.Time // just before the disaster, by the server's clock
	entries  int64     // rows then
	restored string    // the new data directory
	daemons  []*lab.Process
}

// configuration is what a member's pgha-backup needs to know: Patroni's own file says the rest.
const configuration = `patroni:
  config: %s
cluster:
  state_dir: %s/state
repositories:
  - name: main
    type: s3
    s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}
schedules:
  - {name: often, cron: "@every 30s", source: prefer-replica, replica_wait: 5s, retry_delay: 1s}
retention: {keep: 7, schedule: "@every 1h"}
daemon: {listen: "%s:8018"}
log: {level: warn}
`

// prepare brings the cluster up, archiving through pgha-backup when the product is in the story.
func (s *story) prepare(product bool) {
	s.chapter("A cluster: three etcd, three Patroni with PostgreSQL, HAProxy, and an S3 store")
	s.run = lab.RunOf(s)
	s.store = lab.StartS3(s, lab.S3Options{})
	o := lab.ClusterOptions{HAProxy: true}
	if product {
		program := s.run.Build("pgha-backup")
		// Every member runs the same command line, and all live on one host.
		s.program = s.run.WriteFile(lab.User1, 0o755, "#!/bin/sh\nexec "+program+` --config "$HOME/pgha-backup.yaml" "$@"`+"\n", "pgha-backup")
		o.ArchiveCommand = s.program + " archive-push %p"
		o.RestoreCommand = s.program + " archive-get %f %p"
		o.Prepare = func(m *lab.Member) {
			text := fmt.Sprintf(configuration, m.ConfigFile, m.Home, s.store.Endpoint, s.store.Bucket, s.store.Region, s.store.AccessKey, s.store.SecretKey, m.Host)
			s.run.WriteFile(m.User, 0o600, text, filepath.Base(m.Home), "pgha-backup.yaml")
			s.run.Mkdir(m.User, 0o700, filepath.Base(m.Home), "state")
		}
	}
	begun := time.Now()
	s.cluster = lab.StartCluster(s, o)
	leader := s.cluster.Leader()
	for _, m := range s.cluster.Members {
		role := "replica"
		if m == leader {
			role = "leader"
		}
		s.say("%s  %-7s  %s:%d", m.Name, role, m.Host, m.Port)
	}
	s.say("all healthy after %s; the store is at %s", s.since(begun), s.store.Endpoint)
	if product {
		s.say("archive_command is 'pgha-backup archive-push %%p', restore_command 'pgha-backup archive-get %%f %%p'")
	}
}

// work lets clients move money through HAProxy.
func (s *story) work(product bool) {
	s.chapter("Work: four clients move money between accounts, through HAProxy, and keep a journal of every answer")
	var err error
	s.journals, err = os.MkdirTemp(s.run.Dir, "journals-")
	s.must(err)
	s.seed = rand.Uint64()
	s.act.work, err = ledger.Start(context.Background(), s.cluster.PrimaryDSN(), ledger.Options{Dir: s.journals, Seed: s.seed, Pause: 2 * time.Millisecond})
	s.must(err)
	s.acked(500)
	if !product {
		stats, err := s.act.work.Stop()
		s.must(err)
		s.say("%d transactions acknowledged in %s (seed %d)", stats.Acked, stats.Elapsed.Round(time.Millisecond), s.seed)
		return
	}
	s.archive()
	objects, bytes := s.stored("/wal/")
	s.say("%d transactions so far (seed %d); WAL in the store: %d objects, %s", s.act.work.Acked(), s.seed, objects, size(bytes))
	s.on(s.cluster.Leader()).must("pgha-backup", "check")
}

func (s *story) acked(n int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.must(s.act.work.WaitAcked(ctx, n))
}

// archive switches WAL and waits until the segment is in the store.
func (s *story) archive() (segment string, took time.Duration) {
	lab.QueryRow(s, s.cluster.PrimaryDSN(), "select pg_walfile_name(pg_switch_wal())", &segment)
	begun := time.Now()
	lab.Poll(s, time.Minute, segment+" in the archive", func() error {
		if objects, _ := s.stored("/" + segment); objects == 0 {
			return fmt.Errorf("it is not there yet")
		}
		return nil
	})
	return segment, time.Since(begun)
}

// backup takes a full backup of the leader under load.
func (s *story) backup() {
	s.chapter("A full backup, while the clients work")
	s.say("On a replica it only says, by etcd's word, where to run it:")
	s.on(s.cluster.Replicas()[0]).ends(4, "pgha-backup", "backup")
	s.say("On the leader:")
	before := s.act.work.Acked()
	s.on(s.cluster.Leader()).must("pgha-backup", "backup")
	objects, bytes := s.stored("/backup/")
	s.say("In the store: %d objects, %s. The clients did %d transactions meanwhile.", objects, size(bytes), s.act.work.Acked()-before)
	s.acked(500)
}

// disaster drops a table and lets the WAL that holds the drop reach the store.
func (s *story) disaster() {
	s.chapter("A disaster: somebody drops the table")
	leader := s.cluster.Leader()
	s.moment()
	s.say("At %s the table has %d rows, and then", stamp(s.before), s.entries)
	s.on(leader).must("psql", "-h", s.proxy(), "-p", "5000", "-c", "drop table ledger.entries")
	stats, err := s.act.work.Stop()
	s.must(err)
	s.say("%d transactions had been acknowledged to the clients.", stats.Acked)
	segment, took := s.archive()
	s.say("The WAL of it, %s, was in the store %s after it was complete.", segment, took.Round(time.Millisecond))
}

// moment notes the time and the number of rows while nobody can write.
func (s *story) moment() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.cluster.PrimaryDSN())
	s.must(err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "begin; lock table ledger.entries in exclusive mode")
	s.must(err)
	s.must(conn.QueryRow(ctx, "select count(*) from ledger.entries").Scan(&s.entries))
	s.must(conn.QueryRow(ctx, "select clock_timestamp()").Scan(&s.before))
	_, err = conn.Exec(ctx, "commit")
	s.must(err)
}

// proxy is HAProxy's address.
func (s *story) proxy() string {
	u, err := url.Parse(s.cluster.PrimaryDSN())
	s.must(err)
	host, _, err := net.SplitHostPort(u.Host)
	s.must(err)
	return host
}

// restore comes back to just before, in a new directory.
func (s *story) restore() {
	s.chapter("The way back: to just before, in a new directory beside the living cluster")
	leader := s.cluster.Leader()
	s.restored = filepath.Join(s.run.Mkdir(leader.User, 0o700, "restored"), "data")
	sh, args := s.on(leader), []string{"pgha-backup", "restore", "--target-time", stamp(s.before), "--pgdata", s.restored}
	sh.must(append(args, "--plan")...)
	if _, err := os.Stat(s.restored); err == nil {
		s.Fatalf("--plan has made %s", s.restored)
	}
	s.say("That was the plan. Now do it, start the copy on a private socket, and prove where recovery stopped:")
	sh.must(append(args, "--start")...)
}

// proof holds the copy against the clients' journals, and takes the table home.
func (s *story) proof() {
	s.chapter("The proof: count, and ask every client's journal")
	leader := s.cluster.Leader()
	sh := s.on(leader)
	sh.must("psql", "-h", s.restored, "-c", "select count(*), sum(amount) from ledger.entries")
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, "host="+s.restored+" port=5432 user=postgres dbname=postgres")
	s.must(err)
	defer func() { _ = conn.Close(ctx) }()
	var rows int64
	s.must(conn.QueryRow(ctx, "select count(*) from ledger.entries").Scan(&rows))
	if rows != s.entries {
		s.Fatalf("the copy has %d rows, it must have %d", rows, s.entries)
	}
	s.say("All %d rows are back, not one more and not one less.", rows)
	journal, err := ledger.ReadJournal(s.journals)
	s.must(err)
	report, err := ledger.Verify(ctx, conn, journal, s.cut(ctx, conn))
	s.must(err)
	s.say("Journals: %d acknowledged transactions had to be there and are, %d later ones are not, the balances add up.", report.Expected, report.Excluded)
	s.must(conn.Close(ctx))
	sh.quiet(fmt.Sprintf("pg_dump -h %s -t ledger.entries | psql -q -h %s -p 5000", s.restored, s.proxy()))
	lab.QueryRow(s, s.cluster.PrimaryDSN(), "select count(*) from ledger.entries", &rows)
	if rows != s.entries {
		s.Fatalf("the cluster has %d rows, it must have %d", rows, s.entries)
	}
	s.say("And the living cluster, which never stopped, has its table again: %d rows.", rows)
	sh.must("pg_ctl", "stop", "-D", s.restored)
}

// close looks at the whole once more, and ends the daemons.
func (s *story) close() {
	s.chapter("How things stand")
	sh := s.on(s.cluster.Leader())
	sh.must("pgha-backup", "list")
	sh.must("pgha-backup", "status")
	for _, d := range s.daemons {
		s.must(d.Stop(syscall.SIGTERM, 30*time.Second))
	}
	s.say("SIGTERM, and all three daemons have ended; archiving needs none of them.")
}

// cut is where recovery really stopped: the fork of the restored server's new timeline.
func (s *story) cut(ctx context.Context, conn *pgx.Conn) ledger.Cut {
	spans, err := ledger.ServerLineage(ctx, conn)
	s.must(err)
	fork := spans[len(spans)-2]
	commits, err := ledger.Waldump(ctx, s.cluster.Leader().BinDir, s.cluster.Leader().DataDir+"/pg_wal", fork.Timeline, segmentOf(fork.End), 0)
	s.must(err)
	stop, ok := ledger.StopAtTime(commits, s.before, true)
	if !ok || stop < fork.End {
		s.Fatalf("recovery ran to %s, past %s where the first commit after the target begins", fork.End, stop)
	}
	for _, c := range commits {
		if c.Start >= fork.End && c.Start < stop {
			s.Fatalf("recovery ended at %s, short of the commit of %d at %s", fork.End, c.XID, c.Start)
		}
	}
	return ledger.Cut{Lineage: spans, Commits: ledger.Index(commits)}
}

// segmentOf is the start of the segment that holds the stop: only commits near it need their exact place.
func segmentOf(stop postgres.LSN) postgres.LSN { return stop &^ (16<<20 - 1) }

// stamp is a time as a person gives it to restore.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
