package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// service starts a daemon on every node, waits for a backup that nobody asked for, and has a
// member made from the repository.
func (s *story) service() {
	s.chapter("The service: a daemon on every node, and a new member from the store")
	for _, m := range s.cluster.Members {
		s.on(m).show("pgha-backup daemon &")
		s.daemons = append(s.daemons, s.run.Start(m.User, "daemon-"+m.Name, nil, filepath.Join(s.run.Path("bin"), "pgha-backup"), "--config", m.Home+"/pgha-backup.yaml", "daemon"))
	}
	s.say("Their configuration has one schedule: every half minute, from a replica if one can serve. Now nobody types anything.")
	begun := time.Now()
	lab.Poll(s, time.Minute, "a scheduled backup", func() error {
		if objects, _ := s.stored("-often/manifest.json"); objects == 0 {
			return errors.New("nobody has taken it yet")
		}
		return nil
	})
	s.say("After %s there is a backup; the daemon of the member that was chosen took it:", s.since(begun))
	leader := s.cluster.Leader()
	sh := s.on(leader)
	sh.must("pgha-backup", "schedule", "--last", "3")
	s.say("Patroni is told to make members from the repository, and then one is thrown away:")
	sh.must("pgha-backup", "patroni", "setup", "--apply", "--program", s.program)
	s.anew(s.cluster.Replicas()[0])
}

// anew has Patroni make a member again, and insists on where it comes from.
func (s *story) anew(m *lab.Member) {
	before, err := os.ReadFile(m.Log)
	s.must(err)
	begun := time.Now()
	s.on(m).must("patronictl", "-c", m.ConfigFile, "reinit", s.cluster.Scope, m.Name, "--force")
	const made = "replica has been created using "
	var method string
	lab.Poll(s, time.Minute, "a new "+m.Name, func() error {
		log, err := os.ReadFile(m.Log)
		if err != nil {
			return err
		}
		_, after, found := strings.Cut(string(log[len(before):]), made)
		if !found {
			return errors.New("not made yet")
		}
		method, _, _ = strings.Cut(after, "\n")
		return nil
	})
	if method != "pgha_backup" {
		s.Fatalf("%s was made by %s, it had to come from the repository", m.Name, method)
	}
	s.cluster.WaitHealthy(time.Minute)
	s.say("%s%s, says Patroni, and it streams again after %s:", made, method, s.since(begun))
	s.on(m).must("psql", "-h", m.Host, "-c", "select status, received_tli as timeline, (select count(*) from ledger.entries) as rows from pg_stat_wal_receiver")
}
