package torture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/restore"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// restores are the situations of restore: into nothing, over the half of a killed one, and over a stopped cluster.
func (w *world) restores() (all []*scenario) {
	w.Helper()
	pgdata, space := w.at("restored"), w.at("space")
	args := []string{"restore", "--pgdata", pgdata, "--tablespace-mapping", w.run.Path("space") + "=" + space}
	clear := func() {
		w.must(removeAll(pgdata))
		w.must(removeAll(space))
	}
	// A stopped cluster of ours.
	w.put("base", "repo", "empty", "state")
	clear()
	if code, output := w.call("work", w.arena, args...); code != 0 {
		w.Fatalf("restore exits %d: %s", code, output)
	}
	w.must(Put(pgdata, w.at("ready/restored")))
	w.must(Put(space, w.at("ready/space")))
	if faults := w.starts(pgdata); len(faults) > 0 {
		w.Fatal(faults)
	}
	w.must(Put(pgdata, w.at("ready/old")))
	w.must(Put(space, w.at("ready/old-space")))
	old, err := Snapshot(pgdata)
	w.must(err)
	oldSpace, err := Snapshot(space)
	w.must(err)
	// The half of one.
	clear()
	o, err := Trace(w.helper, w.command(context.Background(), "work", w.arena, args...), Point{How: Before, N: 1,
		Match: func(c Call) bool { return strings.HasSuffix(c.Path, "/postgresql.conf") }}, time.Minute)
	if err != nil || !o.Dead() {
		w.Fatalf("%s %v\n%s", o, err, o.Output)
	}
	w.must(Put(pgdata, w.at("ready/half")))
	w.must(Put(space, w.at("ready/half-space")))

	for _, c := range []struct {
		name, old string
		flags     []string
	}{
		{"fresh", "", nil},
		{"half", "half", nil},
		{"force", "old", []string{"--force", "--yes"}},
	} {
		s := &scenario{
			name: "restore/" + c.name, config: "work", args: append(slices.Clone(args), c.flags...), trouble: []int{1, 4, 8, 9}, // 4: nothing was changed
			prepare: func() {
				w.put("base", "repo", "empty", "state")
				clear()
				if c.old != "" {
					w.put(c.old, "restored", c.old+"-space", "space")
				}
			},
			again:   []int{4}, // killed when all was done: whole judges it
			roots:   map[string]string{"repository": w.at("repo"), "pgdata": pgdata, "space": space},
			durable: []string{pgdata, space},
			sweep: func() { // any write into the repository
				w.call("work", w.arena, "hold", w.backups[0], "--name", "later", "--reason", "writes")
			},
		}
		s.after = func(o Outcome) (faults []string) {
			if !Startable(pgdata) {
				if _, err := os.Stat(pgdata); err == nil && w.servable(pgdata) {
					faults = append(faults, "a server starts on a restore that did not end")
				}
				return append(faults, before(o.Calls, pgdata)...)
			}
			now, err := Snapshot(pgdata)
			w.must(err)
			nowSpace, err := Snapshot(space)
			w.must(err)
			if c.old == "old" && len(old.Lost(now)) == 0 && len(oldSpace.Lost(nowSpace)) == 0 {
				return nil // nothing has been given up yet
			}
			return append(w.verified(pgdata), before(o.Calls, pgdata)...)
		}
		n := 0
		s.whole = func(o Outcome) (faults []string) {
			if _, err := os.Stat(filepath.Join(pgdata, restore.MarkerFile)); err == nil {
				faults = append(faults, "the marker is left")
			}
			faults = append(append(faults, w.verified(pgdata)...), before(o.Calls, pgdata)...)
			if n++; n%16 == 1 && len(faults) == 0 {
				faults = w.starts(pgdata)
			}
			return faults
		}
		all = append(all, s)
	}
	return all
}

// before tells what of a copy was not safe when it got its pg_control (R25).
func before(calls []Call, pgdata string) (faults []string) {
	control := pgdata + "/global/pg_control"
	i := slices.IndexFunc(calls, func(c Call) bool { return c.To == control && c.Err == "" })
	if i < 0 {
		return nil
	}
	for _, f := range Undurable(calls[:i], pgdata) {
		if !strings.Contains(f, "the name of "+control) { // the unfinished pg_control itself
			faults = append(faults, "when pg_control came, "+f)
		}
	}
	return faults
}

// verified is PostgreSQL's own judgement on a copy.
func (w *world) verified(pgdata string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := w.run.Command(ctx, lab.User1, nil, w.pg.Bin("pg_verifybackup"), "-n", "-e", "-i", restore.MarkerFile, pgdata).CombinedOutput()
	if err != nil {
		return []string{fmt.Sprintf("pg_verifybackup: %v: %s", err, out)}
	}
	return nil
}

// servable tells whether a server starts in a directory, as whoever finds it would start it.
func (w *world) servable(pgdata string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return w.run.Command(ctx, lab.User1, nil, w.pg.Bin("postgres"), "--single", "-D", pgdata, "-c", "archive_mode=off", "postgres").Run() == nil
}

// starts recovers a copy to its end, and asks it for what was there when its backup was taken.
func (w *world) starts(pgdata string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := func(argv ...string) (string, error) {
		out, err := w.run.Command(ctx, lab.User1, nil, argv...).CombinedOutput()
		return string(out), err
	}
	socket := w.mkdirAt(w.run.Path("socket"))
	out, err := run(w.pg.Bin("pg_ctl"), "-D", pgdata, "-w", "-t", "50", "-l", filepath.Join(pgdata, "torture.log"),
		"-o", "-c listen_addresses= -c unix_socket_directories="+socket, "start")
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(pgdata, "torture.log"))
		return []string{fmt.Sprintf("a verified copy does not start: %v: %s%s", err, out, log)}
	}
	out, err = run(w.pg.Bin("psql"), "-X", "-A", "-t", "-h", socket, "-U", "postgres", "-c", "select (select count(*) > 1000 from t), (select sum(n) from a)", "postgres")
	if _, failed := run(w.pg.Bin("pg_ctl"), "-D", pgdata, "-w", "-m", "fast", "stop"); failed != nil {
		return []string{"a copy does not stop: " + failed.Error()}
	}
	if want := "t|12502500\n"; err != nil || out != want {
		return []string{fmt.Sprintf("a copy holds %q, %v; want %q", out, err, want)}
	}
	return nil
}
