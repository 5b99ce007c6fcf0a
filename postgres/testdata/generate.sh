#!/bin/bash
# Makes pg<major>.tar.gz: what a real server of that version writes, beside what
# its own tools say about it. Usage, as an unprivileged user:
#
#   generate.sh BINDIR OUTPUT.tar.gz [TOOLS]
#
# Where BINDIR lacks a client program, the one in TOOLS (of a newer version) is
# taken; where it lacks pg_waldump, which reads no other version's WAL, the server
# itself says what its WAL holds (pg_walinspect, which shares pg_waldump's code).
#
# The tests compare our parsers with the tools' words, so a new server version
# needs no change here: run it, commit the archive.
# mktemp makes paths without blanks.
# shellcheck disable=SC2086,SC2046,SC2010,SC2013,SC2034,SC2231
set -euo pipefail
bin=$1 out=$2
export PATH=$bin:${3:-$bin}:$PATH LC_ALL=C TZ=UTC PGTZ=UTC PGDATABASE=postgres PGUSER=postgres
work=$(mktemp -d) keep=$work/keep
trap 'pg_ctl -D $work/a -m immediate stop >/dev/null 2>&1 || true; pg_ctl -D $work/b -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
mkdir -p $keep $work/ts "$work/two
lines\\"
export PGHOST=$work

initdb -D $work/a -k --wal-segsize=1 -U postgres -A trust >/dev/null
cat >>$work/a/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '$work'
full_page_writes = off
autovacuum = off
max_connections = 23
max_worker_processes = 7
max_wal_senders = 5
max_prepared_transactions = 6
max_locks_per_transaction = 77
track_commit_timestamp = on
wal_log_hints = on
wal_keep_size = 256MB
CONF
pg_ctl -D $work/a -l $work/log -w start >/dev/null
sql() { psql -X -q -At -v ON_ERROR_STOP=1 "$@"; }

# waldump END NAME... writes what the kept segments of those names hold, up to
# END, a position of the server that is running.
waldump() {
  local end=$1 start
  shift
  if [ -x "$bin/pg_waldump" ]; then pg_waldump -p $keep "$@" 2>/dev/null || true; return; fi
  start=$(printf '%X/%X' $((16#${1:8:8})) $((16#${1:16:8} << 20)))
  # A server writes times as 10:20:30.4+00, pg_waldump as 10:20:30.400000 UTC.
  sql <<SQL | sed -E ':a; s/(:[0-9]{2}\.[0-9]{1,5})\+00/\10+00/; ta; s/(:[0-9]{2}\.[0-9]{6})\+00/\1 UTC/g'
select format('rmgr: %-11s len (rec/tot): %6s/%6s, tx: %10s, lsn: %s, prev %s, desc: %s %s', resource_manager,
  record_length - fpi_length, record_length, xid, start_lsn, prev_lsn, record_type, description)
from pg_get_wal_records_info('$start', '$end') order by start_lsn
SQL
}
[ -x "$bin/pg_waldump" ] || sql -c 'create extension pg_walinspect'
sql -c 'select pg_switch_wal()' >/dev/null
first=$(sql -c 'select pg_walfile_name(pg_current_wal_lsn())')
sql <<SQL >/dev/null
create table t (id int primary key, v text);
insert into t select g, md5(g::text) from generate_series(1, 200) g;
begin; insert into t values (1001, 'gone'); rollback;
begin; insert into t values (1002, 'two'); savepoint a; insert into t values (1003, 'sub'); release a; commit;
begin; insert into t values (1004, 'p'); prepare transaction 'yes'; commit prepared 'yes';
begin; insert into t values (1005, 'p'); create table dropped (i int); prepare transaction 'no'; rollback prepared 'no';
begin; create table d2 (i int); prepare transaction 'ddl'; commit prepared 'ddl';
drop table d2;
create tablespace ts location '$work/ts';
create tablespace odd location E'$work/two\nlines\\\\';
create table in_ts (i int) tablespace ts;
checkpoint;
select pg_create_restore_point('before');
select pg_logical_emit_message(false, 'cross', repeat('pages', 20000));
select pg_logical_emit_message(false, 'cross', repeat('segment', 400000));
insert into t values (2001, 'after the long one');
select pg_create_restore_point('fork here');
SQL
pg_basebackup -D $work/c -X fetch -c fast -l 'a label' --manifest-checksums=crc32c --format=tar
tar -xf $work/c/base.tar -O backup_label >$keep/backup_label
tar -xf $work/c/base.tar -O tablespace_map >$keep/tablespace_map
cp $work/c/backup_manifest $keep/
sql -c "insert into t values (2002, 'x')"
sql -c "select pg_create_restore_point('the end')" >/dev/null
last=$(sql -c "select pg_walfile_name(pg_current_wal_insert_lsn())")
sql -c "insert into t values (2003, 'only on the first timeline')"
sql -c 'select pg_switch_wal()' >/dev/null
end=$(sql -c 'select pg_current_wal_insert_lsn()')
sql -c "insert into t values (3001, 'next')"
page() { # file of a relation, with a few pages
  sql -c 'checkpoint'; cp $work/a/$(sql -c "select pg_relation_filepath('$1')") $keep/$1.relation
}
page pg_class
for f in $(ls $work/a/pg_wal | grep -E '^[0-9A-F]{24}$' | sort); do
  [[ $f < $first || $f > $last ]] || cp $work/a/pg_wal/$f $keep/
done
waldump $end $first $last >$keep/waldump.1
pg_ctl -D $work/a -m fast stop >/dev/null
cp $work/a/global/pg_control $keep/; pg_controldata $work/a >$keep/pg_controldata

# A second timeline: recover the backup to a named point, write, switch.
mkdir -m 700 $work/b
tar -xf $work/c/base.tar -C $work/b; rm -f $work/b/tablespace_map
for o in $(awk '/^[0-9]+ /{print $1}' $keep/tablespace_map); do mkdir -p $work/b/ts-$o; tar -xf $work/c/$o.tar -C $work/b/ts-$o; ln -s $work/b/ts-$o $work/b/pg_tblspc/$o; done
cat >>$work/b/postgresql.conf <<CONF
restore_command = 'cp $work/a/pg_wal/%f %p'
recovery_target_name = 'the end'
recovery_target_action = promote
CONF
touch $work/b/recovery.signal
pg_ctl -D $work/b -l $work/log.b -w start >/dev/null || { cat $work/log.b; exit 1; }
for i in $(seq 100); do [ "$(sql -c 'select pg_is_in_recovery()')" = f ] && break; sleep 0.1; done
sql -c "insert into t values (4001, 'second timeline')"
sql -c 'select pg_switch_wal()' >/dev/null
sql -c "insert into t values (4002, 'more')"
for f in $(ls $work/b/pg_wal | grep -E '^00000002' | sort | head -3); do cp $work/b/pg_wal/$f $keep/; done
waldump $(sql -c 'select pg_current_wal_insert_lsn()') $(ls $keep | grep -E '^00000002.{16}$') >$keep/waldump.2
pg_ctl -D $work/b -m fast stop >/dev/null
cp $work/b/global/pg_control $keep/pg_control.2; pg_controldata $work/b >$keep/pg_controldata.2
for f in $keep/waldump.*; do cut -c1-400 $f >$f.cut; mv $f.cut $f; done # messages are dumped in full
ls -l $keep >&2
tar -C $keep -c --owner=0 --group=0 --sort=name . | gzip -9n >$out
