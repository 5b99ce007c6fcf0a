package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/ledger"
)

// restored is a copy that our program restored and started.
type restored struct {
	*world
	member *lab.Member
	dir    string
	said   result
}

// tryRestore runs restore into a directory of its own beside the member's.
func (w *world) tryRestore(m *lab.Member, args ...string) (string, result) {
	w.Helper()
	w.restore++
	dir := filepath.Join(m.Home, fmt.Sprintf("restored-%d", w.restore))
	return dir, w.do(m, append([]string{"restore", "--pgdata", dir}, args...)...)
}

// restoreAndStart insists that restore --start succeeds, which proves on its own
// account where recovery stopped.
func (w *world) restoreAndStart(m *lab.Member, args ...string) *restored {
	w.Helper()
	dir, r := w.tryRestore(m, append(args, "--start")...)
	if r.code != 0 {
		log, _ := os.ReadFile(filepath.Join(dir, "pgha.restore.log"))
		w.Fatalf("restore %s: %s\nserver log: %s", strings.Join(args, " "), r, log)
	}
	return &restored{world: w, member: m, dir: dir, said: r}
}

// connect opens a session on the copy's private socket.
func (r *restored) connect() *pgx.Conn {
	r.Helper()
	conn, err := pgx.Connect(r.Context(), fmt.Sprintf("host=%s port=5432 user=postgres dbname=postgres", r.dir))
	if err != nil {
		r.Fatalf("connect to the copy in %s: %v", r.dir, err)
	}
	return conn
}

// marks reads the table that the tests write their own moments into.
func (r *restored) marks() string {
	r.Helper()
	conn := r.connect()
	defer conn.Close(context.Background())
	rows, err := conn.Query(r.Context(), "select name from marks order by id")
	if err != nil {
		r.Fatalf("read marks: %v", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.Fatalf("read marks: %v", err)
	}
	return strings.Join(names, " ")
}

func (r *restored) exec(sql string) {
	r.Helper()
	conn := r.connect()
	defer conn.Close(context.Background())
	if _, err := conn.Exec(r.Context(), sql); err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
}

func (r *restored) query(sql string, dest ...any) {
	r.Helper()
	conn := r.connect()
	defer conn.Close(context.Background())
	if err := conn.QueryRow(r.Context(), sql).Scan(dest...); err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
}

// judge holds the copy against the ledger's journal, exactly, then stops it and
// lets PostgreSQL's own tools look at it.
func (r *restored) judge(journal string, commits map[ledger.CommitKey]ledger.Commit) ledger.Report {
	r.Helper()
	conn := r.connect()
	defer conn.Close(context.Background())
	lineage, err := ledger.ServerLineage(r.Context(), conn)
	if err != nil {
		r.Fatal(err)
	}
	records, err := ledger.ReadJournal(journal)
	if err != nil {
		r.Fatal(err)
	}
	report, err := ledger.Verify(r.Context(), conn, records, ledger.Cut{Lineage: lineage, Commits: commits})
	if err != nil {
		r.Fatalf("the ledger of %s: %v", r.dir, err)
	}
	if _, err := conn.Exec(r.Context(), "create extension if not exists amcheck"); err != nil {
		r.Fatal(err)
	}
	_ = conn.Close(context.Background())
	r.tool("pg_amcheck", "--heapallindexed", "--host", r.dir, "--username", "postgres", "--all")
	r.stop()
	r.tool("pg_checksums", "--check", "--pgdata", r.dir)
	return report
}

func (r *restored) tool(name string, args ...string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Minute)
	defer cancel()
	cmd := r.member.Run().Command(ctx, r.member.User, nil, append([]string{filepath.Join(r.member.BinDir, name)}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// stop ends the copy's server, wherever it was.
func (r *restored) stop() {
	r.Helper()
	pidfile := filepath.Join(r.dir, "postmaster.pid")
	content, err := os.ReadFile(pidfile)
	if err != nil {
		r.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		r.Fatalf("%s: %v", pidfile, err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		r.Fatalf("stop the copy: %v", err)
	}
	lab.Poll(r, time.Minute, "the copy to stop", func() error {
		if _, err := os.Stat(pidfile); err == nil {
			return fmt.Errorf("%s is still there", pidfile)
		}
		return nil
	})
}

// commits reads every commit of some timelines out of the store.
func (w *world) commits(timelines ...postgres.TimelineID) map[ledger.CommitKey]ledger.Commit {
	w.Helper()
	all, err := ledger.Archived(w.Context(), w.cluster.Members[0].BinDir, filepath.Join(w.s3.Dir, w.s3.Bucket), timelines...)
	if err != nil {
		w.Fatal(err)
	}
	return all
}
