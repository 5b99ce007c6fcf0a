package lab_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

func TestPostgres(t *testing.T) {
	pg := lab.StartPostgres(t, lab.PGOptions{Conf: map[string]string{"work_mem": "5MB"}, WALSegSizeMB: 1})
	pg.Exec("create table t as select 1 as a; insert into t values (2)")
	var mem, checksums, segment string
	pg.QueryRow("select current_setting('work_mem'), current_setting('data_checksums'), current_setting('wal_segment_size')", &mem, &checksums, &segment)
	if mem != "5MB" || checksums != "on" || segment != "1MB" {
		t.Errorf("settings are %s, %s, %s", mem, checksums, segment)
	}
	pg.Kill9()
	if pg.Process().Running() {
		t.Error("the postmaster outlived kill -9")
	}
	pg.Start()
	pg.Restart()
	if got := pg.Psql("-c", "select sum(a) from t"); got != "3" {
		t.Errorf("sum is %q", got)
	}
	lab.Exec(t, pg.DSN(), "select 1")
	pg.Judge()
	info, err := os.Stat(pg.DataDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v %v", info.Mode(), err)
	}
}

func TestS3(t *testing.T) {
	for _, tls := range []bool{false, true} {
		s := lab.StartS3(t, lab.S3Options{TLS: tls})
		s.Stop()
		if err := s.MakeBucket("none"); err == nil {
			t.Error("a stopped server made a bucket")
		}
		s.Start()
		if err := s.MakeBucket("other"); err != nil {
			t.Error(err)
		}
		if err := s.Process().Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
		if n := len(s.Keys()); n != 0 {
			t.Errorf("%d keys in a new bucket", n)
		}
	}
}

// TestDeath is the child of TestGuardian: it starts a server and dies without a word.
func TestDeath(t *testing.T) {
	if os.Getenv("PGHA_LAB_DIE") == "" {
		return
	}
	lab.StartPostgres(t, lab.PGOptions{})
	fmt.Println("run:", lab.RunOf(t).Dir)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func TestGuardian(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeath$")
	cmd.Env = append(os.Environ(), "PGHA_LAB_DIE=1")
	out, err := cmd.CombinedOutput()
	_, dir, ok := strings.Cut(string(out), "run: ")
	if err == nil || !ok {
		t.Fatalf("the child should have died in mid run: %v\n%s", err, out)
	}
	dir = strings.TrimSpace(dir)
	lab.Poll(t, 20*time.Second, "the guardian to sweep a dead harness's run", func() error {
		if left := lab.Touching(dir); len(left) > 0 {
			return fmt.Errorf("processes %v", left)
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s is still there", dir)
		}
		return nil
	})
}

// blame is a T that takes a failure for an answer.
type blame struct {
	*testing.T
	said string
}

func (b *blame) Fatalf(format string, args ...any) {
	b.said = fmt.Sprintf(format, args...)
	panic(b)
}

func TestJudgeIsAbleToCondemn(t *testing.T) {
	b := &blame{T: t}
	pg := lab.StartPostgres(b, lab.PGOptions{})
	pg.Exec("create table t (a int primary key); insert into t select generate_series(1, 1000)")
	copied := filepath.Join(filepath.Dir(pg.DataDir), "copy")
	lab.RunOf(b).Must(pg.User, pg.Bin("pg_basebackup"), "-D", copied, "-h", pg.SocketDir, "-U", "postgres", "--checkpoint=fast")
	lab.JudgeFiles(b, 15, pg.User, copied)
	var path string
	pg.QueryRow("select pg_relation_filepath('t')", &path)
	pg.Stop("fast")
	for dir, judge := range map[string]func(){copied: func() { lab.JudgeFiles(b, 15, pg.User, copied) }, pg.DataDir: pg.Judge} {
		name := filepath.Join(dir, path)
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		page[8000] ^= 1
		if err := os.WriteFile(name, page, 0o600); err != nil {
			t.Fatal(err)
		}
		if dir == pg.DataDir {
			pg.Start()
		}
		func() {
			defer func() { _ = recover() }()
			judge()
		}()
		if b.said == "" {
			t.Errorf("a flipped bit in %s was not found", name)
		}
		t.Logf("found: %.200s", b.said)
		b.said = ""
	}
}
