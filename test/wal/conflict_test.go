package wal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// One name, two contents, a hundred pushes at the same moment: one content is stored,
// the other one kept whole, and nobody is told that his is stored when it is not.
func TestOneNameTwoContents(t *testing.T) {
	server := lab.StartS3(t, lab.S3Options{})
	bucket, err := s3.New(s3.Options{Endpoint: server.Endpoint, Bucket: server.Bucket, Region: server.Region, Style: s3.Path, AccessKey: server.AccessKey, SecretKey: server.SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]storage.Bucket{"s3": retry.New(bucket, retry.Options{}), "directory": file.New(t.TempDir())} {
		t.Run(name, func(t *testing.T) { hundredPushes(t, b) })
	}
}

func hundredPushes(t *testing.T, bucket storage.Bucket) {
	name, err := postgres.ParseWALFile("000000010000000000000005")
	if err != nil {
		t.Fatal(err)
	}
	of := func(member string) *catalog.Repository {
		return catalog.New(bucket, catalog.Location{Scope: scope, System: 42}, catalog.Options{Author: member})
	}
	bodies, end := [2][]byte{}, []uint32{70_000, 90_000}
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte('a' + i)}, 1<<20)
	}
	outcomes, errs := make([]catalog.PutOutcome, 100), make([]error, 100)
	begin := make(chan struct{})
	var wait sync.WaitGroup
	for i := range errs {
		wait.Go(func() {
			<-begin
			outcomes[i], errs[i] = of(fmt.Sprint("n", i%2)).PutWAL(t.Context(), name, bodies[i%2], &postgres.SegmentFacts{Walked: true, ValidEnd: end[i%2]})
		})
	}
	close(begin)
	wait.Wait()

	found, err := of("").Conflicting(t.Context(), "")
	if err != nil || len(found) != 1 || len(found[0].Contents) != 2 || found[0].Resolution != nil {
		t.Fatalf("%+v, %v", found, err)
	}
	stored, kept := found[0].Contents[0], found[0].Contents[1]
	winner := strings.TrimPrefix(stored.Author, "n")
	if !stored.Stored || kept.Stored || stored.Author == kept.Author {
		t.Errorf("%+v", found)
	}
	first := 0
	for i, err := range errs {
		_, refused := errors.AsType[*catalog.ConflictError](err)
		if wins := fmt.Sprint(i%2) == winner; wins && err != nil || !wins && !refused {
			t.Errorf("push %d, stored is that of n%s: %s, %v", i, winner, outcomes[i], err)
		}
		if outcomes[i] == catalog.Stored {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d pushes were the first", first)
	}
	get := func() []byte {
		t.Helper()
		var b bytes.Buffer
		if _, err := of("").GetWAL(t.Context(), name, &b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	i := int(winner[0] - '0')
	if !bytes.Equal(get(), bodies[i]) {
		t.Error("the stored content is not the one of its author")
	}
	if _, err := of("").Resolve(t.Context(), found[0], catalog.Resolution{SHA256: kept.SHA256, By: "test", Reason: "it is the other one's turn", At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(), bodies[1-i]) {
		t.Error("the kept content is not the one of its author")
	}
}

// side is one of two primaries of one timeline.
type side struct {
	*world
	*lab.Postgres
	config string
}

// archived waits until the server's archiver has gone past a file, or has failed on one.
func (s *side) archiver(want string) {
	s.t.Helper()
	lab.Poll(s.t, 90*time.Second, "the archiver: "+want, func() error {
		var last, failed string
		s.QueryRow("SELECT coalesce(last_archived_wal, '') || ' ' || coalesce(last_failed_wal, ''), '' FROM pg_stat_archiver", &last, &failed)
		if !strings.Contains(last, want) {
			return fmt.Errorf("archived and failed: %s", last)
		}
		return nil
	})
}

// write commits rows of this side, a segment each, and returns the last one's name.
func (s *side) write(from, n int) (last string) {
	s.t.Helper()
	for i := range n {
		s.Exec(fmt.Sprintf("INSERT INTO ledger SELECT %d, repeat(md5(random()::text), 10)", from+i))
		s.QueryRow("SELECT pg_walfile_name(pg_switch_wal())", &last)
	}
	return last
}

func (s *side) refusals() string {
	b, err := os.ReadFile(s.Log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// disputed is a conflict as the commands show it.
type disputed struct {
	File     string
	Contents []catalog.Content
}

func (s *side) conflicts() (code int, found []disputed) {
	s.t.Helper()
	code, out := s.call("/", "--config", s.config, "--format", "json", "wal", "conflicts", "list")
	var d struct{ Conflicts []disputed }
	if end := strings.LastIndex(out, "}"); end < 0 || json.Unmarshal([]byte(out[:end+1]), &d) != nil {
		s.t.Fatalf("%d: %s", code, out)
	}
	return code, d.Conflicts
}

// A server and a copy of its files, both primary on one timeline and both archiving
// under one name: nothing is lost, somebody is told, and once a person has said which
// one is rightful, that one goes on and the way to a restore is its own.
func TestTwoPrimaries(t *testing.T) {
	w := newWorld(t)
	a, b := &side{world: w}, &side{world: w}
	for member, s := range map[string]*side{"n1": a, "n2": b} {
		path, state := w.config()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s.config = w.run.WriteFile(lab.User1, 0o600, strings.Replace(string(text), "state_dir: "+state, "member: "+member+", state_dir: "+state, 1), filepath.Base(filepath.Dir(path)), "member.yaml")
	}
	a.Postgres = lab.StartPostgres(t, lab.PGOptions{WALSegSizeMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": w.archiveCommand(a.config), "wal_level": "replica", "fsync": "off",
		"max_wal_size": "64MB", "wal_keep_size": "64MB", "shared_buffers": "16MB", "max_connections": "20"}})
	home := filepath.Dir(a.DataDir)
	a.Exec("CREATE TABLE ledger(id int PRIMARY KEY, what text)")
	base := filepath.Join(home, "base")
	w.run.Must(lab.User1, "install", "-d", "-m", "700", base)
	w.run.Must(lab.User1, a.Bin("pg_basebackup"), "-h", a.SocketDir, "-p", fmt.Sprint(a.Port), "-U", "postgres", "-D", base, "-X", "none", "-c", "fast", "--no-sync")
	common := a.write(0, 2)
	a.archiver(common)
	a.Stop("fast") // what it archives at its end is common too
	w.run.Must(lab.User1, "cp", "-a", a.DataDir, filepath.Join(home, "twin"))
	b.Postgres = lab.StartPostgres(t, lab.PGOptions{DataDir: filepath.Join(home, "twin"), NoStart: true})
	b.Configure(map[string]string{"archive_command": w.archiveCommand(b.config)})

	// The wrong one is first, and gets ahead.
	a.Start()
	wrong := a.write(1000, 3)
	a.archiver(wrong)
	b.Start()
	right := b.write(2000, 5)
	lab.Poll(t, 60*time.Second, "a refusal of the second server", func() error {
		if !strings.Contains(b.refusals(), "with other content") {
			return errors.New("not yet")
		}
		return nil
	})
	code, found := b.conflicts()
	if code != 10 || len(found) == 0 {
		t.Fatalf("exit %d, %+v", code, found)
	}
	if k := found[0].Contents; len(k) != 2 || !k[0].Stored || k[0].Author != "n1" || k[1].Author != "n2" || !k[0].Facts.Walked || !k[1].Facts.Walked {
		t.Errorf("%+v", k)
	}
	file := found[0].File
	if code, out := w.call("/", "--config", b.config, "status"); code != 10 || !strings.Contains(out, "conflict: two contents of "+file) {
		t.Errorf("status exits %d: %s", code, out)
	}
	if code, out := w.call("/", "--config", b.config, "wal", "conflicts", "show", file); code != 0 || !strings.Contains(out, "UNDECIDED") {
		t.Errorf("show exits %d: %s", code, out)
	}

	// A person decides, file by file, as the rightful server meets them.
	decided := map[string]bool{}
	lab.Poll(t, 2*time.Minute, "the rightful archiver at "+right, func() error {
		_, found := b.conflicts()
		for _, c := range found {
			if decided[c.File] {
				continue
			}
			code, out := w.call("/", "--config", b.config, "wal", "conflicts", "resolve", c.File, "--keep", c.Contents[1].SHA256[:16], "--reason", "n2 has the users", "--yes")
			if code != 0 {
				t.Fatalf("resolve exits %d: %s", code, out)
			}
			decided[c.File] = true
		}
		var last string
		b.QueryRow("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver", &last)
		if last != right {
			b.Exec("CHECKPOINT") // and a look at what is ready
			return fmt.Errorf("it has archived %s, decided are %d", last, len(decided))
		}
		return nil
	})
	if code, found := b.conflicts(); code != 0 || len(found) != len(decided) || len(decided) < 3 {
		t.Errorf("exit %d, %d conflicts, %d decided", code, len(found), len(decided))
	}
	// The other one's WAL of the disputed names is refused from now on.
	for name := range decided {
		path := filepath.Join(a.DataDir, "pg_wal", name)
		if code, out := w.call("/", "--config", a.config, "archive-push", path); code != 1 || !strings.Contains(out, "it is decided") {
			t.Errorf("a push of the other one: exit %d\n%s", code, out)
		}
		if code, out := w.call("/", "--config", b.config, "archive-push", filepath.Join(b.DataDir, "pg_wal", name)); code != 0 {
			t.Errorf("a push of the rightful one: exit %d\n%s", code, out)
		}
	}
	a.write(1100, 4) // past the rightful one's end would be a name of its own: it stops before
	b.Stop("fast")
	a.Stop("immediate")

	// Who restores gets the rightful rows and no other.
	l := &ledger{world: w, primary: a.Postgres, base: base}
	p := l.copy("recovery.signal", w.restoreCommand(b.config), map[string]string{"recovery_target_action": "promote"})
	if err := p.TryStart(60 * time.Second); err != nil {
		t.Fatal(err)
	}
	lab.Poll(t, 60*time.Second, "the end of recovery", func() error {
		if _, recovering, err := state(p); err != nil || recovering {
			return fmt.Errorf("in recovery: %v", err)
		}
		return nil
	})
	var rows string
	p.QueryRow("SELECT string_agg(id::text, ' ' ORDER BY id) FROM ledger", &rows)
	if rows != "0 1 2000 2001 2002 2003 2004" {
		t.Errorf("restored are %s", rows)
	}
}
