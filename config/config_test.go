package config

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// broken pairs every shipped *.bad.yaml with its exact error, without the file name
// that begins each line.
var broken = map[string][]string{
	"bad-scope": {`1: cluster.scope: scope "a/b": want letters, digits, '_', '-' and '.', at most 128`,
		`1: cluster.member: "../x" cannot be part of a path`},
	"bare-s3":    {` repositories[0].s3.endpoint: not given; for example https://s3.example.com`, ` repositories[0].s3.bucket: not given`},
	"both-kinds": {` repositories[0].file: given for a repository of type s3`},
	"citus":      {` patroni.config: the cluster is run with Citus, which pgha-backup does not back up as a whole; nothing was done`},
	"drop-without-state": {` cluster.scope: not given, and no patroni.config to take it from`,
		`2: archive.on_full: drop-and-record needs cluster.state_dir: what is given up is recorded there`},
	"empty":              {` cluster.scope: not given, and no patroni.config to take it from`, ` repositories: no repository is configured`},
	"endpoint-with-path": {`2: repositories[0].s3.endpoint: want https://host[:port]`},
	"etcd-endpoint": {` patroni.etcd.endpoints[0]: want http://host:2379 or https://host:2379`,
		` patroni.etcd: cert_file and key_file go together`},
	"half-a-key":         {` repositories[0].s3: access_key and secret_key go together`},
	"in-pgdata":          {`2: repositories[0].file.path: /srv/pg/backup lies inside the data directory /srv/pg: a repository there is lost with it`},
	"later":              {`6: encryption: not supported by this version yet; remove it`},
	"list-as-map":        {`2: repositories: want a list`},
	"map-as-text":        {`1: cluster: want keys and values`},
	"no-patroni-file":    {` patroni.config: stat /nonexistent/patroni.yml: no such file or directory`},
	"no-repository":      {` repositories: no repository is configured`},
	"no-scope":           {` cluster.scope: not given, and no patroni.config to take it from`},
	"not-yaml":           {`1: did not find expected ',' or '}'`},
	"nothing-said":       {` repositories[0].name: not given; any word, for example main`, ` repositories[0].type: not given; s3, or file for a directory`},
	"plain-http":         {`2: repositories[0].s3.endpoint: http sends everything unencrypted; use https, or say tls: off`},
	"relative-path":      {`2: repositories[0].file.path: "backup" is not an absolute path`, `3: archive.spool: "spool" is not an absolute path`},
	"twice":              {`6: log.level: given twice`},
	"two-repositories":   {` repositories: 2 repositories are given; this version uses one`},
	"unknown-key":        {`7: archive.pushtimeout: unknown key; known here are fill_after, full_below, get_batch, get_recovery_timeout, get_rewind_timeout, get_standby_timeout, keep_on_standby, lost_after, on_full, push_ahead, push_timeout, spool`},
	"unknown-nested-key": {`7: repositories[0].s3.bukket: unknown key; known here are access_key, bucket, ca_file, credentials_file, endpoint, kms_key_id, path_style, prefix, profile, region, secret_key, server_side_encryption, session_token, tls`},
	"unknown-top-key":    {`1: clusters: unknown key; known here are archive, backup, cluster, daemon, log, patroni, repositories, retention, schedules`},
	"unknown-type":       {`2: repositories[0].type: "ftp" is not one of s3, file`},
	"values": {`2: repositories[0].codec: codec "lz4": want zstd, s2 or none`,
		`2: repositories[0].conditional_writes: "maybe" is not one of required, emulate`,
		`2: repositories[0].s3.tls: "maybe" is not one of on, off`,
		`2: repositories[0].s3.path_style: "odd" is not one of auto, path, virtual`,
		`2: repositories[0].s3.prefix: invalid object key "a//b": part ""`,
		`3: archive.get_batch: 0 is not from 1 to 64`, `3: archive.push_timeout: want more than 0s`,
		`4: backup.workers: 100 is not from 1 to 64`, `4: backup.rate_limit: 1000 a second is less than 1MiB`,
		`4: backup.pack_size: 1MiB is not from 16MiB to 64GiB`, `4: backup.part_size: 1MiB is not from 5MiB to 1GiB`,
		`5: log.level: "loud" is not one of debug, info, warn, error`, `5: log.format: "xml" is not one of text, json`},
	"schedules": {`4: schedules[0].max_lag: size "lots": want a number of bytes, or one with a unit as in 256MiB`,
		`4: schedules[0].when: unknown key; known here are attempts, cron, latest_start, max_lag, name, replica_wait, retry_delay, source, tag, timeout, timezone, type`,
		`4: schedules[0].timeout: want a duration such as 60s, 15m or 14d`, `4: schedules[0].attempts: want a whole number`,
		`5: schedules[1]: want keys and values`,
		`6: retention.full: unknown key; known here are daily, garbage, grace, keep, minimum, monthly, schedule, wal_full, weekly, window, yearly`,
		`6: retention.window: want a duration such as 60s, 15m or 14d`,
		`7: daemon.watchdog: unknown key; known here are cert_file, key_file, listen, socket`},
	"timetables": {`6: schedules[2].latest_start: want 0 or more`, `6: schedules[2].retry_delay: want more than 0s`, `6: schedules[2].timeout: want more than 0s`,
		` schedules[0].name: not given; for example nightly`, ` schedules[0].cron: not given; for example "0 2 * * *" or "@every 6h"`,
		`5: schedules[1].name: schedule "manual-1": ` + wantName,
		`5: schedules[1].timezone: "Europe/Atlantis" is not a time zone; want a name such as Europe/Berlin, or UTC`,
		`5: schedules[1].cron: schedule "0 2 * *": ` + wantCron + `: expected exactly 5 fields, found 4: [0 2 * *]`,
		`5: schedules[1].type: "incremental" is not one of full`, `5: schedules[1].source: "any" is not one of leader, prefer-replica, replica`,
		`5: schedules[1].attempts: 0 is not from 1 to 100`,
		`6: schedules[2].name: schedule "first": ` + wantName,
		`6: schedules[2].timezone: "Local" is not a time zone; want a name such as Europe/Berlin, or UTC`,
		`6: schedules[2].cron: schedule "@every 90ms": want @every with whole seconds, minutes or hours, as in @every 6h`,
		`7: schedules[3].cron: schedule "0 0 30 2 *": there is no such day`,
		`8: schedules[4].name: "nightly" is the name of schedules[3] too`,
		`8: schedules[4].cron: schedule "TZ=UTC 0 2 * * *": ` + wantCron + `; the time zone has its own key`,
		`9: schedules[5].name: schedule "Night_ly": ` + wantName,
		`9: schedules[5].cron: schedule "60 2 * * *": ` + wantCron + `: end of range (60) above maximum (59): 60`},
	"retention": {`3: retention.window: want 0 or more`, `3: retention.grace: want more than 0s`, `3: retention.daily: -1 is not from 0 to 100000`,
		`3: retention.weekly: 100001 is not from 0 to 100000`, `3: retention.minimum: 0 is not from 1 to 100000`,
		`3: retention.garbage: 30m0s is not more than backup.wal_timeout, 1h0m0s: a backup that waits for its WAL would be taken for garbage`,
		`3: retention.schedule: schedule "hourly": ` + wantCron + `: expected exactly 5 fields, found 1: [hourly]`},
	"keeps-nothing": {` retention: keeps nothing but the minimum; give keep, window, or some of daily, weekly, monthly and yearly`},
	"daemon": {`3: daemon.listen: "8018": want host:port, for example 127.0.0.1:8018`, `3: daemon.cert_file: "server.pem" is not an absolute path`,
		` daemon: cert_file and key_file go together`},
	"named-port": {`3: daemon.listen: "127.0.0.1:http": want host:port, for example 127.0.0.1:8018`},
	"wrong-types": {`6: archive.get_batch: want a whole number`, `6: archive.push_timeout: want a duration such as 60s, 15m or 14d`,
		`7: backup.pack_size: size "huge": want a number of bytes, or one with a unit as in 256MiB`, `7: backup.workers: want a whole number`},
}

// What the errors of a name and of a time say is wanted.
const (
	wantName = `want lower-case letters, digits and single '-', at most 64, neither "first" nor "gap" nor beginning with "manual"`
	wantCron = `want five fields (minute, hour, day of month, month, day of week), @daily or @every 6h`
)

func TestBrokenFiles(t *testing.T) {
	t.Chdir("../configs/testdata")
	files, err := filepath.Glob("*.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".bad.yaml")
	}
	if known := slices.Sorted(maps.Keys(broken)); !slices.Equal(files, known) {
		t.Fatalf("files %v, errors known of %v", files, known)
	}
	for name, want := range broken {
		t.Run(name, func(t *testing.T) {
			file := name + ".bad.yaml"
			_, err := load(file, nil)
			if _, ok := err.(*Error); !ok {
				t.Fatalf("error %v is not an *Error", err)
			}
			lines := strings.Split(err.Error(), "\n")
			for i := range lines {
				lines[i] = strings.TrimPrefix(lines[i], file+":")
			}
			if !slices.Equal(lines, want) {
				t.Errorf("\n got %q\nwant %q", lines, want)
			}
		})
	}
}

func TestHints(t *testing.T) {
	t.Chdir("../configs/testdata")
	for file, want := range map[string]string{
		"absent.yaml": adviceFile, "empty.bad.yaml": adviceFile, "no-repository.bad.yaml": adviceRepository, "twice.bad.yaml": "",
		"no-patroni-file.bad.yaml": advicePatroni, "citus.bad.yaml": "",
	} {
		_, err := load(file, nil)
		if e, ok := err.(*Error); !ok || e.Hint() != want {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, advice := range []string{adviceFile, adviceRepository} {
		_, text, _ := strings.Cut(advice, "\n")
		var out map[string]any
		if err := yaml.Unmarshal([]byte(text), &out); err != nil || out["repositories"] == nil {
			t.Errorf("the advised lines are no configuration: %v", err)
		}
	}
}

// shipped loads an example as if Patroni's file were where the example says.
func shipped(t *testing.T, name string, environ ...string) Config {
	t.Helper()
	sample, err := filepath.Abs("../configs/testdata/patroni.yml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := load("../configs/"+name, append(environ, "PGHA_BACKUP_PATRONI_CONFIG="+sample))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestShippedExamples(t *testing.T) {
	files, err := filepath.Glob("../configs/*.yaml")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		shipped(t, filepath.Base(file))
	}
	if n := len(usefulLines(t, "../configs/config.yaml")); n > 12 {
		t.Errorf("the short example has %d useful lines", n)
	}
}

func usefulLines(t *testing.T, file string) (lines []string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

// The full example names every key there is, or it is not full.
func TestFullExampleIsFull(t *testing.T) {
	data, err := os.ReadFile("../configs/config-full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		switch {
		case ty.Kind() == reflect.Slice:
			walk(ty.Elem())
		case ty.Kind() == reflect.Struct:
			for i := range ty.NumField() {
				name := ty.Field(i).Tag.Get("yaml")
				if name == "-" || name == "" {
					continue
				}
				if !strings.Contains(text, " "+name+":") && !strings.Contains(text, "\n"+name+":") && name != "file" && name != "path" {
					t.Errorf("%s is not in the full example", name)
				}
				walk(ty.Field(i).Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func TestShortExampleIsComplete(t *testing.T) {
	c := shipped(t, "config.yaml", "PATRONI_NAME=pg_node9")
	want := Cluster{Scope: "pg_cluster", Member: "pg_node9", DataDir: "/var/lib/postgresql/16/main",
		StateDir: "/var/lib/pgha-backup/pg_cluster/pg_node9", DSN: c.Cluster.DSN}
	if c.Cluster != want {
		t.Errorf("%+v", c.Cluster)
	}
	if got := c.Cluster.DSN.Reveal(); got != `host='192.168.1.21' port='5432' dbname='postgres' user='postgres' password='it\'s secret'` {
		t.Error(got)
	}
	if want := []string{"http://192.168.1.11:2379", "http://192.168.1.12:2379", "http://192.168.1.13:2379"}; !slices.Equal(c.Patroni.Etcd.Endpoints, want) {
		t.Error(c.Patroni.Etcd.Endpoints)
	}
	if c.Patroni.API.URL != "http://192.168.1.21:8008" || c.Archive.Spool != c.Cluster.StateDir+"/spool" || c.Patroni.Namespace != "/service/" {
		t.Errorf("%+v %+v", c.Patroni, c.Archive)
	}
	r := c.Repository()
	if r.Codec != "zstd" || r.ConditionalWrites != Required || r.S3.SecretKey.Reveal() != "not-a-real-key" {
		t.Errorf("%+v", r)
	}
	if !strings.HasSuffix(c.Origins["cluster.scope"], "patroni.yml") || c.Origins["patroni.config"] != "environment" ||
		c.Origins["repositories[0].s3.bucket"] != "../configs/config.yaml:13" {
		t.Error(c.Origins)
	}
}
