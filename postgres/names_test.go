package postgres

import "testing"

func TestParseRelationFile(t *testing.T) {
	for path, want := range map[string]RelationFile{
		"global/1262":           {Relation: Relation{Number: 1262}},
		"global/1262_fsm":       {Relation: Relation{Number: 1262}, Fork: ForkFSM},
		"base/5/16384":          {Relation: Relation{Database: 5, Number: 16384}},
		"base/5/16384.1":        {Relation: Relation{Database: 5, Number: 16384}, Segment: 1},
		"base/5/16384_vm.12":    {Relation: Relation{Database: 5, Number: 16384}, Fork: ForkVM, Segment: 12},
		"base/5/16384_init":     {Relation: Relation{Database: 5, Number: 16384}, Fork: ForkInit},
		"base/5/t3_16384":       {Relation: Relation{Database: 5, Number: 16384}, Temp: true},
		"base/5/t0_16384_fsm.2": {Relation: Relation{Database: 5, Number: 16384}, Fork: ForkFSM, Segment: 2, Temp: true},
		"pg_tblspc/16397/PG_15_202209061/5/4294967295": {Relation: Relation{Tablespace: 16397, Database: 5, Number: 4294967295}},
	} {
		if got, ok := ParseRelationFile(path); !ok || got != want {
			t.Errorf("%s: %+v %v, want %+v", path, got, ok, want)
		}
	}
	for _, path := range []string{"", "1262", "global/pg_control", "base/5/PG_VERSION", "base/5/16384.0", "base/5/16384.01",
		"base/5/16384_main", "base/5/016384", "base/5/4294967296", "base/x/1", "base/5/1/2", "base/5/t3", "base/5/t_1", "base/5/tx_1",
		"pg_tblspc/1/x/5/1", "pg_tblspc/1/PG_15_1/5", "base/5/1_", "base/5/1.", "base/5/0", "base/5/16384_fsm_vm", "base/5/1.2_fsm", "other/5/1"} {
		if got, ok := ParseRelationFile(path); ok {
			t.Errorf("%s: accepted as %+v", path, got)
		}
	}
	if got := (RelationFile{Segment: 3}).FirstBlock(131072); got != 393216 {
		t.Error(got)
	}
}

func TestExcludedFromBackup(t *testing.T) {
	for _, path := range []string{"postmaster.pid", "postmaster.opts", "backup_label", "backup_label.old", "tablespace_map", "backup_manifest",
		"recovery.signal", "standby.signal", "postgresql.auto.conf.tmp", "current_logfiles.tmp", "pg_stat_tmp/x", "pg_replslot/s/state",
		"pg_dynshmem/1", "pg_notify/0000", "pg_serial/x", "pg_snapshots/x", "pg_subtrans/0000", "pg_wal/000000010000000000000001",
		"pg_wal/archive_status/000000010000000000000001.done", "pg_wal/summaries/x.summary", "global/pg_internal.init",
		"base/5/pg_internal.init.123", "base/pgsql_tmp", "base/pgsql_tmp/pgsql_tmp1.0", "pg_tblspc/1/PG_15_2/pgsql_tmp/x", "base/5/t3_16384",
		"base/5/t3_16384_vm", ".DS_Store", "base/.DS_Store"} {
		if !ExcludedFromBackup(path) {
			t.Errorf("%s is kept", path)
		}
	}
	for _, path := range []string{"PG_VERSION", "postgresql.conf", "postgresql.conf.backup", "pg_hba.conf.backup", "postgresql.auto.conf",
		"current_logfiles", "global/pg_control", "base/5/16384", "base/5/16384_init", "pg_wal", "pg_wal/archive_status", "pg_wal/summaries",
		"pg_stat_tmp", "pg_replslot", "pg_subtrans", "pg_xact/0000", "pg_stat/pgstat.stat", "log/postgresql.log", "patroni.dynamic.json",
		"sub/backup_label", "base/5/t3_note", "pg_logical/mappings/x", "pg_walx/1"} {
		if ExcludedFromBackup(path) {
			t.Errorf("%s is left out", path)
		}
	}
}

func FuzzRelationFile(f *testing.F) {
	f.Add("base/5/t3_16384_fsm.1")
	f.Add("pg_tblspc/1/PG_15_2/5/1")
	f.Fuzz(func(t *testing.T, path string) {
		if r, ok := ParseRelationFile(path); ok && r.Number == 0 {
			t.Errorf("%q: %+v", path, r)
		}
		ExcludedFromBackup(path)
	})
}
