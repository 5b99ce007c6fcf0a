package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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
	before   time.Time // just before the disaster, by the server's clock
	entries  int64     // rows then
	restored string    // the new data directory
}

// configuration is what a member's pgha-backup needs to know.
const configuration = `cluster: lab
patroni:
  config: %s
repositories:
  - name: main
    s3:
      endpoint: %s
      region: %s
      bucket: %s
      access_key: %s
      secret_key: %s
      path_style: true
`

// prepare brings the cluster up, archiving through pgha-backup when the product is in the story.
func (s *story) prepare(product bool) {
	s.chapter("A cluster: three etcd, three Patroni with PostgreSQL, HAProxy, and an S3 store")
	s.run = lab.RunOf(s)
	s.store = lab.StartS3(s, lab.S3Options{})
	o := lab.ClusterOptions{HAProxy: true, Parameters: map[string]string{"archive_timeout": "10s"}}
	if product {
		s.program = s.run.Build("pgha-backup")
		o.ArchiveCommand = s.program + " --config {home}/pgha-backup.yaml archive-push %p"
		o.RestoreCommand = s.program + " --config {home}/pgha-backup.yaml archive-get %f %p"
		o.Prepare = func(m *lab.Member) {
			text := fmt.Sprintf(configuration, m.ConfigFile, s.store.Endpoint, s.store.Region, s.store.Bucket, s.store.AccessKey, s.store.SecretKey)
			s.run.WriteFile(m.User, 0o600, text, filepath.Base(m.Home), "pgha-backup.yaml")
		}
	}
	begun := time.Now()
	s.cluster = lab.StartCluster(s, o)
	s.say("up and healthy after %s, store at %s", s.since(begun), s.store.Endpoint)
	leader := s.cluster.Leader()
	for _, m := range s.cluster.Members {
		role := "replica"
		if m == leader {
			role = "leader"
		}
		s.say("%s  %-7s  %s:%d  as user %s", m.Name, role, m.Host, m.Port, m.User)
	}
	if product {
		s.pgha(leader, "check")
	}
}

// pgha runs the product on a member, as its user, and quotes what it prints.
func (s *story) pgha(m *lab.Member, args ...string) string {
	argv := append([]string{s.program, "--config", m.Home + "/pgha-backup.yaml"}, args...)
	begun := time.Now()
	output := s.run.Must(m.User, argv...)
	s.quote("pgha-backup "+strings.Join(args, " "), output)
	s.say("(%s)", s.since(begun))
	return output
}

// work lets clients move money through HAProxy.
func (s *story) work() {
	s.chapter("Work: clients move money between accounts through HAProxy, and journal every answer")
	seed := rand.Uint64()
	var err error
	s.journals, err = os.MkdirTemp(s.run.Dir, "journals-")
	s.must(err)
	s.startWork(seed)
	s.acked(500)
	if s.program == "" {
		stats, err := s.act.work.Stop()
		s.must(err)
		s.say("%d transactions acknowledged in %s (seed %d)", stats.Acked, stats.Elapsed.Round(time.Millisecond), seed)
		return
	}
	s.say("%d transactions acknowledged so far (seed %d)", s.act.work.Acked(), seed)
	objects, bytes := s.stored("/wal/")
	s.say("WAL in the store: %d objects, %s", objects, size(bytes))
}

func (s *story) startWork(seed uint64) {
	var err error
	s.act.work, err = ledger.Start(context.Background(), s.cluster.PrimaryDSN(), ledger.Options{Dir: s.journals, Seed: seed})
	s.must(err)
}

func (s *story) acked(n int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.must(s.act.work.WaitAcked(ctx, n))
}

// backup takes a full backup of the leader under load.
func (s *story) backup() {
	s.chapter("A full backup of the leader, found through etcd, while the clients work")
	leader := s.cluster.Leader()
	s.pgha(leader, "backup")
	s.pgha(leader, "list")
	objects, bytes := s.stored("/backup/")
	s.say("backup in the store: %d objects, %s", objects, size(bytes))
	s.acked(500)
}

// disaster drops a table and lets the WAL that holds the drop reach the store.
func (s *story) disaster() {
	s.chapter("A disaster: somebody drops the table")
	dsn := s.cluster.PrimaryDSN()
	lab.QueryRow(s, dsn, "select count(*), clock_timestamp() from ledger.entries", &s.entries, &s.before)
	lab.Exec(s, dsn, "drop table ledger.entries")
	stats, err := s.act.work.Stop()
	s.must(err)
	s.say("drop table ledger.entries: at least %d rows are gone; %d transactions had been acknowledged", s.entries, stats.Acked)
	var segment string
	lab.QueryRow(s, dsn, "select pg_walfile_name(pg_switch_wal())", &segment)
	begun := time.Now()
	lab.Poll(s, time.Minute, segment+" in the archive", func() error {
		if objects, _ := s.stored(segment); objects == 0 {
			return fmt.Errorf("it is not there yet")
		}
		return nil
	})
	s.say("the WAL of it, %s, was in the store %s later", segment, s.since(begun))
}

// restore comes back to just before, in a new directory.
func (s *story) restore() {
	s.chapter("The way back: a restore to " + s.before.UTC().Format(time.RFC3339Nano) + ", into a new directory")
	leader := s.cluster.Leader()
	s.restored = filepath.Join(s.run.Mkdir(leader.User, 0o700, "restored"), "data")
	args := []string{"restore", "--pgdata", s.restored, "--target-time", s.before.UTC().Format(time.RFC3339Nano)}
	s.pgha(leader, append(args, "--plan")...)
	s.pgha(leader, append(args, "--yes")...)
}

// proof starts what came back and holds it against the clients' journals.
func (s *story) proof() {
	s.chapter("The proof: start it, count, and ask every client's journal")
	leader := s.cluster.Leader()
	lab.JudgeFiles(s, s.cluster.Major, leader.User, s.restored)
	begun := time.Now()
	pg := lab.StartPostgres(s, lab.PGOptions{DataDir: s.restored, User: leader.User})
	lab.Poll(s, time.Minute, "the end of recovery", func() error {
		var recovering bool
		pg.QueryRow("select pg_is_in_recovery()", &recovering)
		if recovering {
			return fmt.Errorf("still recovering")
		}
		return nil
	})
	var rows int64
	pg.QueryRow("select count(*) from ledger.entries", &rows)
	s.say("started after %s; %d rows are back", s.since(begun), rows)

	ctx := context.Background()
	conn, err := pg.Connect(ctx)
	s.must(err)
	defer func() { _ = conn.Close(ctx) }()
	journal, err := ledger.ReadJournal(s.journals)
	s.must(err)
	report, err := ledger.Verify(ctx, conn, journal, s.cut(ctx, conn))
	s.must(err)
	s.say("%d transactions acknowledged before the stop are all there, %d later ones are not, the balances add up", report.Expected, report.Excluded)
	pg.Judge()
	s.say("pg_verifybackup, pg_amcheck and pg_checksums agree")
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
