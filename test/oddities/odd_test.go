package oddities_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// space is a tablespace, and where it lies.
type space struct{ name, dir string }

// oddSpaces are named as PostgreSQL lets them be; a place may not have a single quote.
func (w *world) oddSpaces() (all []space) {
	root := w.run.Mkdir(lab.User1, 0o700, "table spaces")
	for _, s := range []space{
		{"with blank and \"quote\"", "with  blank and \"quote\" "},
		{`back\slash's`, `back\slash`},
		{"база=%p%f", "база/таблица"},
		{"base", "base"},
		{"two\nlines", "two\nlines"},
		{strings.Repeat("л", 31), "a=b/" + strings.Repeat("long", 60) + "/PG_15_202209061"},
		{"-rf $HOME `id`", "-rf $HOME `id`;#"},
	} {
		s.dir = filepath.Join(root, s.dir)
		w.shell(`mkdir -p -- "$1"`, s.dir)
		all = append(all, s)
	}
	return all
}

var oddDatabases = []string{`Données "x"`, "база=данных", "a 'b' \\c\nd", strings.Repeat("x", 63)}

// sql runs statements in a database of any name.
func (w *world) sql(p *lab.Postgres, database string, do func(context.Context, *pgx.Conn) error) {
	w.Helper()
	config, err := pgx.ParseConfig(p.SocketDSN())
	if err != nil {
		w.Fatal(err)
	}
	config.Database = database
	conn, err := pgx.ConnectConfig(w.Context(), config)
	if err == nil {
		err = do(w.Context(), conn)
		_ = conn.Close(context.Background())
	}
	if err != nil {
		w.Fatalf("in database %q: %v", database, err)
	}
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

// rows is what every odd table holds.
const rows = 1000

// oddTable is in every database and, by its number, in every tablespace.
const oddTable = `"sché ma"."Tabelle ""mit"" 'allem' \ und Ω `

// furnish makes tablespaces and databases with something in them.
func (w *world) furnish() (spaces []space) {
	w.Helper()
	if w.spaces {
		spaces = w.oddSpaces()
	}
	databases := []string{"postgres"}
	for i, s := range spaces {
		w.pg.Exec(fmt.Sprintf("create tablespace %s location '%s'", quoted(s.name), s.dir))
		if i == 0 {
			w.pg.Exec("create database spaced tablespace " + quoted(s.name))
			databases = append(databases, "spaced")
		}
	}
	if w.names {
		for _, name := range oddDatabases {
			w.pg.Exec("create database " + quoted(name))
			databases = append(databases, name)
		}
	}
	for _, name := range databases {
		w.sql(w.pg, name, func(ctx context.Context, c *pgx.Conn) error {
			_, err := c.Exec(ctx, `create schema "sché ma"; create unlogged table un as select generate_series(1, 500) g; create table empty (n int);`+
				`create table `+oddTable+`-1" as select g "naïve "" col" from generate_series(1, 1000) g;`+
				`create index "ïndex ''" on `+oddTable+`-1" ("naïve "" col")`)
			return err
		})
	}
	for i, s := range spaces[:max(0, len(spaces)-1)] { // one stays empty
		w.pg.Exec(fmt.Sprintf(`create table %s%d" tablespace %s as select g from generate_series(1, %d) g`, oddTable, i, quoted(s.name), rows))
	}
	w.databases = databases
	return spaces
}

// furnished insists that a server has all that furnish made.
func (w *world) furnished(p *lab.Postgres, spaces []space) {
	w.Helper()
	count := func(ctx context.Context, c *pgx.Conn, table string, want int) error {
		var n int
		if err := c.QueryRow(ctx, "select count(*) from "+table).Scan(&n); err != nil || n != want {
			return fmt.Errorf("%s has %d rows, want %d: %v", table, n, want, err)
		}
		return nil
	}
	for _, name := range w.databases {
		w.sql(p, name, func(ctx context.Context, c *pgx.Conn) error {
			for table, want := range map[string]int{oddTable + `-1"`: rows, "un": 0, "empty": 0} {
				if err := count(ctx, c, table, want); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.sql(p, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		for i, s := range spaces[:max(0, len(spaces)-1)] {
			if err := count(ctx, c, fmt.Sprintf(`%s%d"`, oddTable, i), rows); err != nil {
				return fmt.Errorf("tablespace %q: %w", s.name, err)
			}
		}
		var n int
		err := c.QueryRow(ctx, "select count(*) from pg_tablespace").Scan(&n)
		if err == nil && n != len(spaces)+2 {
			err = fmt.Errorf("%d tablespaces, want %d", n, len(spaces)+2)
		}
		return err
	})
}

// sight is something to be seen in the source, and, unless it is left out, in the copy.
type sight struct {
	path string // relative to PGDATA
	size int64  // of a file; -1: any
	dir  bool
	left bool // out of a copy

	stray bool // nothing of the server's
}

// sights are the odd files of the server's own.
func (w *world) sights() (all []sight) {
	w.Helper()
	path := func(relation string) (path string) {
		w.pg.QueryRow("select pg_relation_filepath('"+relation+"')", &path)
		return path
	}
	all = append(all, sight{path: path("empty"), size: 0}, sight{path: path("un") + "_init", size: 0}, sight{path: path("un"), size: -1, left: true})
	if w.strays {
		all = append(all, w.stray()...)
	}
	return all
}

// stray puts things into PGDATA that nobody would expect there.
func (w *world) stray() (all []sight) {
	w.Helper()
	for _, name := range []string{"stray \xff\xfe\xe9 file", "base/notes \"q\"\nof two lines", "global/ünï"} {
		w.shell(`printf stray >"$1"`, filepath.Join(w.pg.DataDir, name))
		all = append(all, sight{path: name, size: 5, stray: true})
	}
	w.shell(`cd "$1" && : >"0 bytes" && mkdir -p "empty dir/and another" base/pgsql_tmp && printf x >base/pgsql_tmp/pgsql_tmp1.0 &&
		mkfifo base/fifo && ln -s /etc/passwd "link to elsewhere" && ln -s / "link to root" && printf x >pg_wal/stray`, w.pg.DataDir)
	if err := syscall.Mknod(filepath.Join(w.pg.DataDir, "a socket"), syscall.S_IFSOCK|0o700, 0); err != nil {
		w.Fatal(err)
	}
	return append(all, sight{path: "0 bytes"}, sight{path: "empty dir/and another", dir: true}, sight{path: "base/pgsql_tmp/pgsql_tmp1.0", size: 1, left: true},
		sight{path: "base/fifo", size: -1, left: true}, sight{path: "a socket", size: -1, left: true}, sight{path: "link to elsewhere", size: -1, left: true},
		sight{path: "link to root", size: -1, left: true}, sight{path: "pg_wal/stray", size: 1, left: true})
}

// temporary is a table that lives while a session does.
func (w *world) temporary() (seen sight, end func()) {
	w.Helper()
	conn, err := w.pg.Connect(w.Context())
	if err == nil {
		_, err = conn.Exec(w.Context(), "create temp table passing as select generate_series(1, 1000)")
	}
	if err == nil {
		seen = sight{size: -1, left: true}
		err = conn.QueryRow(w.Context(), "select pg_relation_filepath('passing')").Scan(&seen.path)
	}
	if err == nil {
		_, err = conn.Exec(w.Context(), "checkpoint")
	}
	if err != nil {
		w.Fatal(err)
	}
	return seen, func() { _ = conn.Close(context.Background()) }
}

// see insists on what is to be seen below a data directory.
func (w *world) see(pgdata string, all []sight, copied bool) {
	w.Helper()
	for _, s := range all {
		info, err := os.Lstat(filepath.Join(pgdata, s.path))
		switch {
		case copied && s.left:
			if err == nil {
				w.Errorf("%q is in the copy", s.path)
			}
		case err != nil:
			w.Error(err)
		case s.dir != info.IsDir() || !s.dir && s.size >= 0 && info.Size() != s.size:
			w.Errorf("%q: %v of %d bytes, want %+v", s.path, info.Mode(), info.Size(), s)
		}
	}
}

// modes insists on the modes of everything in a data directory.
func (w *world) modes(pgdata string) {
	w.Helper()
	dirs, files := fs.FileMode(0o700), fs.FileMode(0o600)
	if w.group {
		dirs, files = 0o750, 0o640
	}
	seen := 0
	err := filepath.WalkDir(pgdata, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && info.Mode().Perm() != dirs:
			return fmt.Errorf("%s has mode %v, want %v", path, info.Mode(), dirs)
		case d.IsDir():
		case strings.HasPrefix(path, filepath.Join(pgdata, "base", "1")) && info.Mode().Perm() != files:
			return fmt.Errorf("%s has mode %v, want %v", path, info.Mode(), files)
		case info.Mode().Perm()&^files != 0:
			return fmt.Errorf("%s has mode %v, more than %v", path, info.Mode(), files)
		default:
			seen++
		}
		return nil
	})
	if err != nil || seen < 500 {
		w.Errorf("%s: %d files looked at: %v", pgdata, seen, err)
	}
}
