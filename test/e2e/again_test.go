package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestRestoredCopyLivesOn restores a cluster with a tablespace beside the living
// one. The copy cannot write into the archive that it came from until it is
// released; then it adds a timeline, and a second restore reaches both.
func TestRestoredCopyLivesOn(t *testing.T) {
	w := newWorld(t, worldOptions{members: 1, etcd: 1})
	journal := t.TempDir()
	leader := w.cluster.Leader()
	run := lab.RunOf(t)
	space := run.Mkdir(leader.User, 0o700, "space")
	m := w.marker()
	m.exec("create tablespace elsewhere location '" + space + "'")
	m.exec("create table far (n int) tablespace elsewhere")
	m.exec("insert into far select generate_series(1, 10000)")
	stop := w.work(journal)
	manifest := w.backup(leader)
	if len(manifest.Tablespaces) != 1 || manifest.Tablespaces[0].Path != space {
		t.Fatalf("tablespaces in the manifest: %+v", manifest.Tablespaces)
	}
	stop()
	m.mark("original")
	m.archived()

	// Without a mapping the copy would share the living cluster's tablespace.
	w.refused(leader, 4, []string{"--archive-mode", "preserve"}, space, "--tablespace-mapping")
	before := files(t, space)
	first := w.restoreAndStart(leader, "--archive-mode", "preserve", "--tablespace-mapping", space+"="+filepath.Join(leader.Home, "space-1"))
	if got := first.marks(); got != "original" {
		t.Fatalf("the copy holds %q", got)
	}
	first.exec("insert into marks (name) values ('copy')")
	first.exec("drop table far")
	first.exec("select pg_switch_wal()")
	lab.Poll(t, time.Minute, "the copy's archiver to be refused", func() error {
		var failed int
		first.query("select failed_count from pg_stat_archiver", &failed)
		if failed == 0 {
			return errNotYet
		}
		return nil
	})
	for key := range w.s3.Keys() {
		if strings.Contains(key, "/00000002") {
			t.Fatalf("the copy wrote %s into the archive that it came from", key)
		}
	}
	if now := files(t, space); now != before {
		t.Fatalf("the living cluster's tablespace held %s and now holds %s", before, now)
	}

	// Released, it archives, on a timeline of its own.
	if err := os.Remove(filepath.Join(first.dir, catalog.OriginFile)); err != nil {
		t.Fatal(err)
	}
	first.exec("select pg_switch_wal()")
	lab.Poll(t, 2*time.Minute, "the copy's history in the store", func() error { return w.stored("00000002.history") })
	var last string
	first.query("select pg_walfile_name(pg_current_wal_lsn() - 1)", &last)
	first.exec("select pg_switch_wal()")
	lab.Poll(t, 2*time.Minute, "segment "+last+" of the copy in the store", func() error { return w.stored(last) })
	m.mark("original-goes-on")
	m.archived()

	mapping := func(n int) string { return fmt.Sprintf("%s=%s/space-%d", space, leader.Home, n) }
	second := w.restoreAndStart(leader, "--tablespace-mapping", mapping(2))
	if got := second.marks(); got != "original copy" {
		t.Errorf("the newest timeline holds %q", got)
	}
	second.judge(journal, w.commits(1))
	third := w.restoreAndStart(leader, "--target-timeline", "1", "--tablespace-mapping", mapping(3))
	if got := third.marks(); got != "original original-goes-on" {
		t.Errorf("the first timeline holds %q", got)
	}
	var rows int
	third.query("select count(*) from far", &rows)
	if rows != 10000 {
		t.Errorf("the tablespace's table holds %d rows", rows)
	}
	third.judge(journal, w.commits(1))
	first.stop()
}

// files lists the files below a directory with their sizes.
func files(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			list = append(list, fmt.Sprintf("%s:%d", strings.TrimPrefix(path, dir), info.Size()))
		}
		return err
	})
	if err != nil || len(list) == 0 {
		t.Fatalf("files below %s: %v, %v", dir, list, err)
	}
	return strings.Join(list, " ")
}
