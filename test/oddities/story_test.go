package oddities_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// figures are what a story took.
type figures struct {
	Backup  float64 `json:"backup_seconds"`
	Restore float64 `json:"restore_seconds"`
	Bytes   int64   `json:"bytes"`
	Stored  int64   `json:"stored"`
	Files   int     `json:"files"`
}

// story takes a server into the store by both ways and brings it back: what came over
// the network beside it, what was copied in its own place.
// The judges look at each copy, too.
func (w *world) story(judges ...func(*lab.Postgres)) (f figures) {
	w.Helper()
	spaces := w.furnish()
	stop := w.work()
	seen := w.sights()
	temporary, end := w.temporary()
	seen = append(seen, temporary)
	w.pg.Exec("checkpoint") // an unlogged table lies in shared buffers until then
	w.see(w.pg.DataDir, seen, false)
	w.refusals()
	streamed := w.backup("--method", "base-backup")
	var copied catalog.Manifest
	began := time.Now()
	if w.strays {
		copied, seen = w.vanishing(seen)
	} else {
		copied = w.backup()
	}
	f.Backup = time.Since(began).Seconds()
	f.Bytes, f.Stored, f.Files = copied.Bytes, copied.Stored, copied.Files
	end()
	w.pg.QueryRow("select clock_timestamp()", &w.moment)
	stop()
	w.archived()
	w.must(nil, w.plan()...) // reads WAL
	w.must(nil, "verify", "--level", "hashes")
	for _, m := range []catalog.Manifest{streamed, copied} {
		if len(m.Tablespaces) != len(spaces) || m.Settings.GroupAccess != w.group || m.Damaged() {
			w.Errorf("manifest of %s: %d tablespaces, want %d; group access %v; damage %v", m.Source, len(m.Tablespaces), len(spaces), m.Settings.GroupAccess, m.Damage)
		}
	}

	beside := filepath.Join(w.run.Mkdir(lab.User1, 0o700, "copies"), "ma \"base\"", "base", "копия 'x'")
	args := []string{"restore", "--backup", string(streamed.ID), "--pgdata", beside}
	for i, s := range spaces {
		args = append(args, "--tablespace-mapping", strings.ReplaceAll(s.dir, "=", `\=`)+"="+w.run.Path("copies", fmt.Sprintf("a=b \n%d", i)))
	}
	w.must(nil, args...)
	// What had no place in a stream came later, or was refused by the server.
	w.looks(beside, seen[:len(seen)-w.later])
	p := w.serve(beside)
	w.whole(p, spaces, judges)
	p.Stop("fast")
	w.shell(`rm -rf -- "$1"/*`, w.run.Path("copies"))

	w.pg.Stop("fast")
	began = time.Now()
	w.must(nil, "restore", "--backup", string(copied.ID), "--pgdata", w.pg.DataDir, "--force", "--yes")
	f.Restore = time.Since(began).Seconds()
	for i, s := range seen { // what lies beside the WAL, where pg_wal leads, is not the cluster's
		seen[i].left = s.left && (w.wal == "" || !strings.HasPrefix(s.path, "pg_wal/"))
	}
	w.looks(w.pg.DataDir, seen)
	if got, _ := os.Readlink(filepath.Join(w.pg.DataDir, "pg_wal")); got != w.wal {
		w.Errorf("pg_wal leads to %q, before to %q", got, w.wal)
	}
	w.pg.Start()
	w.whole(w.pg, spaces, judges)
	return f
}

// plan asks how a moment after the backups can be reached.
func (w *world) plan() []string {
	return []string{"restore", "--plan", "--target-time", w.moment.UTC().Format(time.RFC3339Nano)}
}

// looks judges a copy that was not started yet.
func (w *world) looks(pgdata string, seen []sight) {
	w.Helper()
	w.see(pgdata, seen, true)
	w.modes(pgdata)
	lab.JudgeFiles(w, w.pg.Major, lab.User1, pgdata)
	for _, s := range seen { // pg_checksums knows no strays
		if s.stray && !s.left {
			w.shell(`rm -r -- "$1"`, filepath.Join(pgdata, s.path))
		}
	}
}

// whole judges a copy that runs.
func (w *world) whole(p *lab.Postgres, spaces []space, judges []func(*lab.Postgres)) {
	w.Helper()
	lab.Poll(w, time.Minute, "the end of recovery", func() error {
		var recovering bool
		if p.QueryRow("select pg_is_in_recovery()", &recovering); recovering {
			return fmt.Errorf("in recovery")
		}
		return nil
	})
	w.complete(p.SocketDir)
	w.furnished(p, spaces)
	for _, judge := range judges {
		judge(p)
	}
	if !w.vast {
		p.Judge()
	}
}

// serve starts a copy beside its origin.
func (w *world) serve(pgdata string) *lab.Postgres {
	w.Helper()
	if w.outside { // what was written in its place lets only users of this host in, by their own names
		w.shell(`printf "local all all trust\nlocal replication all trust\n" >"$1/pg_hba.conf"`, pgdata)
	}
	return lab.StartPostgres(w, lab.PGOptions{Major: w.pg.Major, DataDir: pgdata})
}

func (w *world) backup(args ...string) (m catalog.Manifest) {
	w.Helper()
	said := w.must(&m, append([]string{"backup"}, args...)...)
	if w.strays && m.Source == "file-copy" {
		for _, name := range []string{"base/fifo is a special file", "a socket is a special file", "link to elsewhere is a symbolic link", "link to root is a symbolic link"} {
			if !strings.Contains(said.stderr, name) {
				w.Errorf("no warning says that %s", name)
			}
		}
	}
	return m
}

// refusals: what cannot be copied is named, and not passed over.
func (w *world) refusals() {
	w.Helper()
	if !w.strays {
		return
	}
	link, foreign := filepath.Join(w.pg.DataDir, "base/led astray"), filepath.Join(w.pg.DataDir, "base/of root")
	for _, c := range []struct {
		path string
		make func() error
	}{
		{link, func() error { return os.Symlink("/etc", link) }},
		{foreign, func() error { return os.WriteFile(foreign, []byte("secret"), 0o600) }},
	} {
		if err := c.make(); err != nil {
			w.Fatal(err)
		}
		if r := w.ours("backup"); r.code == 0 || !strings.Contains(r.stderr, c.path) {
			w.Errorf("with %s the backup exits %d: %s", c.path, r.code, r.stderr)
		}
		if err := os.Remove(c.path); err != nil {
			w.Fatal(err)
		}
	}
}

// vanishing takes a backup by file copy in which a file goes between its listing and its reading. Names that
// no server sends over the network are there, too: it has no room for a long one, and takes what follows a dot for a segment's number.
func (w *world) vanishing(seen []sight) (catalog.Manifest, []sight) {
	w.Helper()
	long := strings.Repeat("ß", 127)
	gone := filepath.Join(w.pg.DataDir, "base/about to go")
	w.shell(`printf long >"$1" && printf dot >"$2" && : >"$3"`, filepath.Join(w.pg.DataDir, "base", long), filepath.Join(w.pg.DataDir, "base/notes.txt"), gone)
	w.later = 2
	slow := w.config + " slowly"
	w.shell(`sed "s/rate_limit: 0/rate_limit: 24MiB/" "$1" >"$2"`, w.config, slow)
	fast := w.config
	w.config = slow
	defer func() { w.config = fast }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for w.Context().Err() == nil && !w.reading() {
			time.Sleep(time.Millisecond)
		}
		if err := os.Remove(gone); err != nil { // the smallest are read last
			w.Error(err)
		}
	}()
	m := w.backup()
	<-done
	if m.Vanished != 1 {
		w.Errorf("%d files vanished, want 1", m.Vanished)
	}
	return m, append(seen, sight{path: "base/" + long, size: 4, stray: true}, sight{path: "base/notes.txt", size: 3, stray: true})
}

// reading tells whether our program has a relation's file open.
func (w *world) reading() bool {
	programs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range programs {
		if to, _ := os.Readlink(exe); to != w.binary {
			continue
		}
		open, _ := filepath.Glob(filepath.Join(filepath.Dir(exe), "fd/*"))
		for _, l := range open {
			if to, _ := os.Readlink(l); strings.HasPrefix(to, filepath.Join(w.pg.DataDir, "base")+"/") {
				return true
			}
		}
	}
	return false
}
