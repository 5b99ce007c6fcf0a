package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// mark is one transaction of the test's own, known to the microsecond.
type mark struct {
	name string
	xid  uint32
	at   time.Time    // its commit record's time
	lsn  postgres.LSN // the server's insert position right after the commit
}

// marker writes marks through one connection to the primary.
type marker struct {
	*world
	conn *pgx.Conn
}

func (w *world) marker() *marker {
	w.Helper()
	conn, err := pgx.Connect(w.Context(), w.cluster.PrimaryDSN())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close(context.Background()) })
	m := &marker{w, conn}
	m.exec("create table if not exists marks (id int generated always as identity, name text)")
	return m
}

func (m *marker) exec(sql string, args ...any) {
	m.Helper()
	if _, err := m.conn.Exec(m.Context(), sql, args...); err != nil {
		m.Fatalf("%s: %v", sql, err)
	}
}

func (m *marker) query(sql string, dest ...any) {
	m.Helper()
	if err := m.conn.QueryRow(m.Context(), sql).Scan(dest...); err != nil {
		m.Fatalf("%s: %v", sql, err)
	}
}

// mark commits one row.
func (m *marker) mark(name string) mark {
	m.Helper()
	return m.describe(name, m.insert(name))
}

func (m *marker) insert(name string) uint32 {
	m.Helper()
	var xid uint32
	m.query("insert into marks (name) values ('"+name+"') returning pg_current_xact_id()::text::bigint", &xid)
	return xid
}

// twice commits two rows in one round trip, as close together as the server can.
func (m *marker) twice(one, two string) (first, second uint32) {
	m.Helper()
	insert := func(name string) string {
		return "begin; insert into marks (name) values ('" + name + "') returning pg_current_xact_id()::text; commit; "
	}
	results, err := m.conn.PgConn().Exec(m.Context(), insert(one)+insert(two)).ReadAll()
	if err != nil {
		m.Fatal(err)
	}
	var xids []uint32
	for _, r := range results {
		for _, row := range r.Rows {
			xid, err := strconv.ParseUint(string(row[0]), 10, 32)
			if err != nil {
				m.Fatal(err)
			}
			xids = append(xids, uint32(xid))
		}
	}
	if len(xids) != 2 {
		m.Fatalf("two rows gave transactions %v", xids)
	}
	return xids[0], xids[1]
}

func (m *marker) describe(name string, xid uint32) mark {
	m.Helper()
	k := mark{name: name, xid: xid}
	var lsn string
	m.query("select pg_current_wal_insert_lsn()::text", &lsn)
	m.query(fmt.Sprintf("select pg_xact_commit_timestamp('%d')", xid), &k.at)
	var err error
	if k.lsn, err = postgres.ParseLSN(lsn); err != nil {
		m.Fatal(err)
	}
	k.at = k.at.UTC()
	return k
}

// archived switches WAL and waits until everything up to now is in the archive.
func (m *marker) archived() {
	m.Helper()
	var segment string
	m.query("select pg_walfile_name(pg_switch_wal())", &segment)
	lab.Poll(m, 30*time.Second, "segment "+segment+" in the store", func() error {
		return m.stored(segment)
	})
}

var errNotYet = errors.New("not yet")

// stamp is a time as a user gives it.
func stamp(t time.Time) string { return t.Format("2006-01-02T15:04:05.000000Z07:00") }
