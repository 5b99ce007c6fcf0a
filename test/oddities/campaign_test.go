//go:build campaign

package oddities_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

var (
	only    = flag.String("only", "", "cases to play, separated by commas; all of them")
	results = flag.String("results", "", "file that the outcomes are appended to, and whose cases are not played again; .cache/oddities.jsonl")
)

// outcome is one line of the results.
type outcome struct {
	Case    string  `json:"case"`
	At      string  `json:"at"`
	Seconds float64 `json:"seconds"`
	figures
	Peaks  map[string]int `json:"peak_rss_mib,omitempty"`
	Passed bool           `json:"passed"`
}

// vastness is an oddity too large for every day.
type vastness struct {
	name string
	shape
	prepare func(*world, *outcome)
	judge   func(*world, *lab.Postgres)
}

var vastnesses = []vastness{
	{name: "everything-16", shape: everything(16)},
	{name: "everything-17", shape: everything(17)},
	{name: "everything-18", shape: everything(18)},
	{name: "bare-18", shape: bare(18)},
	{name: "segments-64", shape: bare(15), prepare: noise},
	{name: "segments-1024", shape: shape{major: 15, segmentMB: 1024, daemon: true, conf: map[string]string{"min_wal_size": "2GB", "max_wal_size": "4GB"}}, prepare: noise},
	{name: "relation", shape: shape{major: 15, conf: map[string]string{"max_wal_size": "4GB"}}, prepare: oneLarge, judge: oneLargeIsThere},
	{name: "relations", shape: shape{major: 17, conf: map[string]string{"max_wal_size": "4GB"}}, prepare: manyRelations, judge: manyRelationsAreThere},
	{name: "databases", shape: shape{major: 15, vast: true, conf: map[string]string{"max_wal_size": "4GB"}}, prepare: manyDatabases, judge: manyDatabasesAreThere},
}

// TestCampaignOddities is TestOddities with what is large, and on every version.
func TestCampaignOddities(t *testing.T) {
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	if *results == "" {
		*results = filepath.Join(root, ".cache", "oddities.jsonl")
	}
	done := map[string]bool{}
	if content, err := os.ReadFile(*results); err == nil {
		for line := range strings.Lines(string(content)) {
			var o outcome
			if json.Unmarshal([]byte(line), &o) == nil && o.Passed {
				done[o.Case] = true
			}
		}
	}
	for _, v := range vastnesses {
		if done[v.name] || *only != "" && !slices.Contains(strings.Split(*only, ","), v.name) {
			continue
		}
		t.Run(v.name, func(t *testing.T) { v.play(t) })
	}
}

func (v vastness) play(t *testing.T) {
	began := time.Now()
	o := outcome{Case: v.name, At: began.UTC().Format(time.RFC3339), Peaks: map[string]int{}}
	t.Cleanup(func() {
		o.Passed, o.Seconds = !t.Failed(), time.Since(began).Seconds()
		line, err := json.Marshal(o)
		f, openErr := os.OpenFile(*results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err = errors.Join(err, openErr); err == nil {
			_, err = f.Write(append(line, '\n'))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Errorf("the results were not written: %v", err)
		}
		t.Logf("%s", line)
	})
	w := newWorld(t, v.shape)
	if v.prepare != nil {
		v.prepare(w, &o)
	}
	var judges []func(*lab.Postgres)
	if v.judge != nil {
		judges = append(judges, func(p *lab.Postgres) { v.judge(w, p) })
	}
	o.figures = w.story(judges...)
	if w.segmentMB > 16 {
		w.measure(&o, "plan", w.config, w.plan()...)
	}
	if w.service != nil {
		o.Peaks["daemon"] = w.peak(w.service.Pid())
	}
	for what, mib := range o.Peaks {
		if mib > 200 {
			t.Errorf("%s took %d MiB", what, mib)
		}
	}
}

// peak is what a process had in memory at the most, in MiB.
func (w *world) peak(pid int) (mib int) {
	w.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	if _, scanErr := fmt.Sscan(line, &mib); errors.Join(err, scanErr) != nil {
		w.Fatal(err, scanErr)
	}
	return mib >> 10
}

// noise fills a segment with what cannot be compressed, and measures one push and one
// get of it, by processes of their own in a repository of its own.
func noise(w *world, o *outcome) {
	w.Helper()
	var name string
	w.pg.Exec(fmt.Sprintf("alter system set wal_keep_size = '%dMB'", 3*w.segmentMB))
	w.pg.Exec("select pg_reload_conf(); select pg_switch_wal()")
	w.pg.QueryRow("select pg_walfile_name(pg_logical_emit_message(false, 'noise', 'the first record'))", &name)
	w.pg.Exec(fmt.Sprintf("select pg_logical_emit_message(false, 'noise', pg_read_binary_file('/dev/urandom', g, 1000000)) from generate_series(1, %d) g", w.segmentMB*21/20+2))
	segment := filepath.Join(w.pg.DataDir, "pg_wal", name)
	other := w.config + " elsewhere"
	w.shell(`sed "s/scope: lab/scope: other/" "$1" >"$2"`, w.config, other)
	to := filepath.Join(w.run.Path("state"), "back")
	for _, c := range [][]string{{"push", "archive-push", segment}, {"push again", "archive-push", segment}, {"get", "archive-get", name, to}} {
		w.measure(o, c[0], other, c[1:]...)
	}
	w.shell(`cmp "$1" "$2" && rm "$2"`, segment, to)
	var stored int64
	for key, size := range w.s3.Keys() {
		if strings.Contains(key, "other/") && strings.HasSuffix(key, name) {
			stored = size
		}
	}
	if stored < int64(w.segmentMB)<<20*9/10 {
		w.Errorf("%s is stored in %d bytes: it was no noise", name, stored)
	}
}

// measure runs our program and notes what it had in memory at the most.
func (w *world) measure(o *outcome, what, config string, args ...string) {
	w.Helper()
	began := time.Now()
	cmd := w.run.Command(w.Context(), lab.User1, nil, append([]string{w.binary, "--config", config}, args...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if cmd.Dir = w.pg.DataDir; what == "get" {
		cmd.Dir = "/" // nobody's data directory: as pg_rewind asks
	}
	if err := cmd.Run(); err != nil {
		w.Fatalf("%s: %v\n%s", what, err, said.String())
	}
	o.Peaks[what] = int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10)
	w.Logf("%s: %s, %s of processor, %d MiB", what, time.Since(began), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), o.Peaks[what])
}

// oneLarge makes a relation of three files.
func oneLarge(w *world, _ *outcome) {
	w.pg.Exec("create table large as select g, repeat(md5(g::text), 30) pad from generate_series(1, 2300000) g")
	w.pg.Exec("create index on large (g); create table known as select sum(hashtextextended(pad, g)) sum from large")
	oneLargeIsThere(w, w.pg)
}

func oneLargeIsThere(w *world, p *lab.Postgres) {
	var path string
	var same bool
	p.QueryRow("select pg_relation_filepath('large')", &path)
	w.see(p.DataDir, []sight{{path: path, size: 1 << 30}, {path: path + ".1", size: 1 << 30}, {path: path + ".2", size: -1}}, true)
	if p.QueryRow("select (select sum(hashtextextended(pad, g)) from large) = (select sum from known)", &same); !same {
		w.Error("it has other rows")
	}
}

const relations = 20_000

func manyRelations(w *world, _ *outcome) {
	for n := 0; n < relations; n += 500 {
		w.pg.Exec(fmt.Sprintf("do $$ begin for n in %d..%d loop execute format('create table many_%%s as select %%s n', n, n); end loop; end $$", n, n+499))
	}
	manyRelationsAreThere(w, w.pg)
}

func manyRelationsAreThere(w *world, p *lab.Postgres) {
	var tables, sum, path string
	p.QueryRow("select count(*)::text from pg_class where relname like 'many\\_%' and relkind = 'r'", &tables)
	p.QueryRow(`select sum((xpath('/row/n/text()', query_to_xml('select n from ' || relname, false, true, '')))[1]::text::int)::text
		from pg_class where relname like 'many\_%7' and relkind = 'r'`, &sum)
	p.QueryRow("select pg_relation_filepath('many_19999')", &path)
	w.see(p.DataDir, []sight{{path: path, size: 8192}}, true)
	if tables != fmt.Sprint(relations) || sum != fmt.Sprint((7+relations-3)*relations/20) {
		w.Errorf("%s relations, and a tenth of them sums up to %s", tables, sum)
	}
}

const databases = 500

func manyDatabases(w *world, _ *outcome) {
	w.pg.Exec("create database small")
	w.pg.Exec("update pg_database set datistemplate = true where datname = 'small'")
	for n := range databases {
		w.pg.Exec(fmt.Sprintf("create database many_%d template small strategy file_copy", n))
	}
	manyDatabasesAreThere(w, w.pg)
}

func manyDatabasesAreThere(w *world, p *lab.Postgres) {
	var n int
	p.QueryRow("select count(*) from pg_database where datname like 'many\\_%'", &n)
	dirs, err := os.ReadDir(filepath.Join(p.DataDir, "base"))
	if err != nil || n != databases || len(dirs) < databases+4 {
		w.Errorf("%d databases, %d directories, %v", n, len(dirs), err)
	}
	for _, n := range []int{0, 123, databases - 1} {
		w.run.Must(p.User, p.Bin("pg_amcheck"), "--install-missing", "--heapallindexed", "-h", p.SocketDir, "-p", "5432", "-U", "postgres", fmt.Sprintf("many_%d", n))
	}
	p.Stop("fast")
	w.run.Must(p.User, p.Bin("pg_checksums"), "--check", "-D", p.DataDir)
	p.Start()
}
