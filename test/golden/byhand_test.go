package golden_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestByHand runs the commands of docs/FORMAT.md as they stand there: this program has no part in it.
func TestByHand(t *testing.T) {
	doc, err := os.ReadFile("../../docs/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n## By hand\n")
	_, section, fenced := strings.Cut(section, "\n```sh\n")
	script, _, closed := strings.Cut(section, "\n```\n")
	if !found || !fenced || !closed {
		t.Fatal("docs/FORMAT.md has no commands under \"By hand\"")
	}
	formats(t, func(t *testing.T, dir string, e expectations) {
		run := lab.RunOf(t)
		if err := os.CopyFS(run.Path("repository"), os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		run.Must("root", "chown", "-R", lab.User1+":", run.Path("repository"))
		r := catalog.New(file.New(dir), catalog.Location{Scope: scope, System: e.System}, catalog.Options{})
		m, err := r.Manifest(t.Context(), e.Backup)
		if err != nil {
			t.Fatal(err)
		}
		pgdata := run.Mkdir(lab.User1, 0o700, "pgdata")
		run.Must(lab.User1, "/usr/bin/env", "PATH="+lab.BinDir(t, e.Major)+":/usr/bin:/bin", "REPO="+run.Path("repository", r.Root()),
			"ID="+string(m.ID), "RUN="+string(m.Run), "PGDATA="+pgdata, fmt.Sprintf("OID=%d", m.Tablespaces[0].OID),
			"TBS="+run.Mkdir(lab.User1, 0o700, "tablespace"), "sh", "-euc", script)

		to := e.Targets[len(e.Targets)-1]
		target := fmt.Sprintf("recovery_target_name = '%s'\nrecovery_target_timeline = %d\nrecovery_target_action = promote\n", to.Flags[1], to.Timeline)
		conf, err := os.OpenFile(filepath.Join(pgdata, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = conf.WriteString(target)
			_ = conf.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		pg := lab.StartPostgres(t, lab.PGOptions{Major: e.Major, DataDir: pgdata})
		lab.Poll(t, time.Minute, "the end of recovery", func() error {
			var recovering bool
			if pg.QueryRow("select pg_is_in_recovery()", &recovering); recovering {
				return fmt.Errorf("in recovery")
			}
			return nil
		})
		if got := marks(t, pg.SocketDSN()); got != to.Marks {
			t.Errorf("the copy made by hand holds %q, want %q", got, to.Marks)
		}
		var rows int
		pg.QueryRow("select count(*) from elsewhere", &rows)
		if rows != 1000 {
			t.Errorf("the tablespace has %d rows, want 1000", rows)
		}
		pg.Judge()
	})
}
