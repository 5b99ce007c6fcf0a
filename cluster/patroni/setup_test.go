package patroni

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func parsed(t *testing.T, text string) (o object) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestSetupWanted(t *testing.T) {
	const program = "'/opt/pg ha/pgha-backup' --config /etc/pgha.yaml "
	s := Setup{"pgha-backup", program + `archive-push "%p"`, program + `archive-get "%f" "%p"`, program + "patroni create-replica", "/bin/sh -c pgha-backup"}
	const commands = `"archive_command": "'/opt/pg ha/pgha-backup' --config /etc/pgha.yaml archive-push \"%p\""`
	for name, c := range map[string]struct {
		now, parameters, methods, changed, foreign string
	}{
		"nothing": {`{}`, commands + `, "archive_mode": "on", "archive_timeout": "60s"`, `["pgha_backup", "basebackup"]`,
			"postgresql.create_replica_methods postgresql.parameters.archive_command postgresql.parameters.archive_mode postgresql.parameters.archive_timeout " +
				"postgresql.pgha_backup.command postgresql.pre_promote postgresql.recovery_conf.restore_command", ""},
		"another tool": {`{"postgresql": {"parameters": {"archive_mode": "on", "archive_timeout": 300, "archive_command": "pgbackrest archive-push %p --x"},
			"create_replica_methods": ["pgbackrest", "basebackup"], "recovery_conf": {"restore_command": "pgbackrest archive-get %f %p"}}}`,
			commands + `, "archive_mode": "on"`, `["pgha_backup", "pgbackrest", "basebackup"]`,
			"postgresql.create_replica_methods postgresql.parameters.archive_command postgresql.pgha_backup.command postgresql.pre_promote postgresql.recovery_conf.restore_command",
			"archive_command is another's: pgbackrest archive-push %p --x"},
		"cp": {`{"postgresql": {"parameters": {"archive_mode": "always", "archive_timeout": 0, "archive_command": "cp %p /archive/%f"}}}`,
			commands + `, "archive_mode": "always", "archive_timeout": "60s"`, `["pgha_backup", "basebackup"]`,
			"postgresql.create_replica_methods postgresql.parameters.archive_command postgresql.parameters.archive_timeout " +
				"postgresql.pgha_backup.command postgresql.pre_promote postgresql.recovery_conf.restore_command", "archive_command is another's: cp %p /archive/%f"},
		"a library archives": {`{"postgresql": {"parameters": {"archive_mode": "on", "archive_timeout": 60, "archive_library": "basic_archive"}, "create_replica_methods": ["basebackup"]}}`,
			commands + `, "archive_mode": "on", "archive_library": ""`, `["pgha_backup", "basebackup"]`,
			"postgresql.create_replica_methods postgresql.parameters.archive_command postgresql.parameters.archive_library " +
				"postgresql.pgha_backup.command postgresql.pre_promote postgresql.recovery_conf.restore_command", "archive_library is another's: basic_archive"},
		"recovery settings among the parameters": {`{"postgresql": {"parameters": {` + commands + `, "archive_mode": "on", "archive_timeout": "60s",
			"recovery_min_apply_delay": "1h", "restore_command": "cp /archive/%f %p"}}}`,
			commands + `, "archive_mode": "on", "restore_command": "'/opt/pg ha/pgha-backup' --config /etc/pgha.yaml archive-get \"%f\" \"%p\""`, `["pgha_backup", "basebackup"]`,
			"postgresql.create_replica_methods postgresql.parameters.restore_command postgresql.pgha_backup.command postgresql.pre_promote postgresql.recovery_conf.restore_command",
			"restore_command is another's: cp /archive/%f %p"},
		"another's fence": {`{"postgresql": {"pre_promote": "/usr/bin/fence", "parameters": {"archive_mode": "on", "archive_timeout": 60}, "create_replica_methods": ["pgha_backup", "basebackup"]}}`,
			commands + `, "archive_mode": "on"`, `["pgha_backup", "basebackup"]`,
			"postgresql.parameters.archive_command postgresql.pgha_backup.command postgresql.pre_promote postgresql.recovery_conf.restore_command",
			"pre_promote is another's: /usr/bin/fence"},
		"all of it": {`{"postgresql": {"parameters": {` + commands + `, "archive_mode": "on", "archive_timeout": "60s", "work_mem": "8MB"}, "create_replica_methods": ["pgha_backup", "basebackup"],
			"pgha_backup": {"command": "'/opt/pg ha/pgha-backup' --config /etc/pgha.yaml patroni create-replica", "no_leader": true}, "pre_promote": "/bin/sh -c pgha-backup",
			"recovery_conf": {"restore_command": "'/opt/pg ha/pgha-backup' --config /etc/pgha.yaml archive-get \"%f\" \"%p\""}}}`,
			commands + `, "archive_mode": "on"`, `["pgha_backup", "basebackup"]`, "", ""},
	} {
		now := parsed(t, c.now)
		got := s.Over(now)
		section := got["postgresql"].(object)
		if want := parsed(t, "{"+c.parameters+"}"); !reflect.DeepEqual(section["parameters"], want) {
			t.Errorf("%s: parameters %v, want %v", name, section["parameters"], want)
		}
		if want := parsed(t, `{"m": `+c.methods+`}`)["m"]; !reflect.DeepEqual(section["create_replica_methods"], want) {
			t.Errorf("%s: methods %v, want %v", name, section["create_replica_methods"], want)
		}
		if section["pre_promote"] != s.Promote {
			t.Errorf("%s: pre_promote %v", name, section["pre_promote"])
		}
		if changed := strings.Join(Differences(got, now), " "); changed != c.changed {
			t.Errorf("%s: changed %s\nwant %s", name, changed, c.changed)
		}
		if foreign := s.Foreign(now); foreign != c.foreign {
			t.Errorf("%s: foreign %q, want %q", name, foreign, c.foreign)
		}
	}
}
