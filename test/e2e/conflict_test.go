package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestDaemonEndsConflict: the leader meets contents of others under the names of its next
// two segments, one of a server that is no member and one of its replica. Its daemon
// ends the one conflict by itself, and the other only when the replica has left.
func TestDaemonEndsConflict(t *testing.T) {
	w := newWorld(t, worldOptions{members: 2, etcd: 1, extra: "daemon: {listen: \"{host}:8018\"}\n"})
	leader, replica := w.cluster.Leader(), w.cluster.Replicas()[0]
	leader.Exec("CREATE TABLE conflict_marks(id int); SELECT pg_switch_wal()")
	var system, current string
	leader.QueryRow("SELECT system_identifier::text, pg_walfile_name(pg_current_wal_lsn()) FROM pg_control_system()", &system, &current)
	lab.Poll(t, time.Minute, "the repository", func() error { return w.stored("repository.json") })
	first, err := postgres.ParseWALFile(current)
	if err != nil {
		t.Fatal(err)
	}
	second := first
	second.Segment = first.Segment.Next(postgres.DefaultSegmentSize)
	id, err := postgres.ParseSystemIdentifier(system)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := s3.New(s3.Options{Endpoint: w.s3.Endpoint, Bucket: w.s3.Bucket, Region: w.s3.Region, Style: s3.Path, AccessKey: w.s3.AccessKey, SecretKey: w.s3.SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	for file, author := range map[postgres.WALFile]string{first: "gone", second: replica.Name} {
		_, err := catalog.New(bucket, catalog.Location{Scope: "lab", System: id}, catalog.Options{Author: author}).
			PutWAL(t.Context(), file, bytes.Repeat([]byte(author), 1000), &postgres.SegmentFacts{Walked: true, ValidEnd: 1000})
		if err != nil {
			t.Fatal(err)
		}
	}
	d := w.daemons(0)
	for i := range 2 {
		leader.Exec(fmt.Sprintf("INSERT INTO conflict_marks VALUES (%d); SELECT pg_switch_wal()", i))
	}
	archives := func(file postgres.WALFile, limit time.Duration) {
		t.Helper()
		lab.Poll(t, limit, "the leader's archiver behind "+file.String(), func() error {
			leader.Exec("SELECT pg_reload_conf()") // a waiting archiver tries again
			var last string
			leader.QueryRow("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver", &last)
			if last < file.String() || !strings.HasPrefix(last, "0") {
				return fmt.Errorf("it has archived %s", last)
			}
			return nil
		})
	}
	archives(first, 2*time.Minute)
	s := d.until(leader, 90*time.Second, "the daemon to tell of the other conflict", func(s daemon.Status) bool {
		return strings.Contains(strings.Join(s.Problems, "\n"), "conflict: two contents of "+second.String())
	})
	if all := strings.Join(s.Problems, "\n"); strings.Contains(all, "two contents of "+first.String()) {
		t.Errorf("the first is ended, and yet: %s", all)
	}
	if r := w.do(leader, "wal", "conflicts", "list"); r.code != 10 || strings.Count(r.stdout, "UNDECIDED") != 2 || strings.Count(r.stdout, "counts") != 1 {
		t.Errorf("list: %s", r)
	}
	said := func(event string, file postgres.WALFile) bool {
		log, err := os.ReadFile(d.running[leader.Name].Log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(log), "event="+event+" file="+file.String())
	}
	if !said("conflict.found", first) || !said("conflict.resolved", first) || !said("conflict.found", second) || said("conflict.resolved", second) {
		t.Error("the events are others")
	}
	replica.Stop()
	archives(second, 4*time.Minute)
	lab.Poll(t, time.Minute, "nothing undecided", func() error {
		if r := w.do(leader, "wal", "conflicts", "list"); r.code != 0 || !said("conflict.resolved", second) {
			return errors.New(r.String())
		}
		return nil
	})
}
