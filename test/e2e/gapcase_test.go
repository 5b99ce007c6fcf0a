package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// means are the three that keep the archive whole through a failover: the standbys'
// slots, the fillers, and Patroni's pre_promote hook.
type means struct{ slot, filler, hook bool }

var everything = means{true, true, true}

func (m means) String() string {
	var on []string
	for _, one := range []struct {
		name string
		on   bool
	}{{"slot", m.slot}, {"filler", m.filler}, {"hook", m.hook}} {
		if one.on {
			on = append(on, one.name)
		}
	}
	if len(on) == 0 {
		return "nothing"
	}
	return strings.Join(on, "+")
}

// gapCase is one failover with a backlog.
type gapCase struct {
	means
	phase  string // what the outage has done to the members before the leader dies
	outage string // how the store does not answer
	back   string // when it answers again
}

// The phases.
const (
	short = "short" // no standby had a restartpoint
	long  = "long"  // more than three restartpoints on each standby
	anew  = "anew"  // long, and the next leader was made anew in the middle of it
	deaf  = "deaf"  // short, and no daemon outlives the leader
	torn  = "torn"  // anew, the other standby received no more from then on, and the next leader's daemon dies with the leader
)

// The outages: its port is closed, it is silent, it is overloaded.
const (
	closed = "closed"
	silent = "silent"
	full   = "503"
)

// The moments at which the store answers again.
const (
	beforeKill      = "before the kill"
	beforePromotion = "before the promotion"
	atPromotion     = "after the promotion"
	later           = "20 s after the promotion"
)

func (c gapCase) String() string {
	return fmt.Sprintf("%s on, %s outage (%s), back %s", c.means, c.phase, c.outage, c.back)
}

// failedOver is what a failover with a backlog has left behind.
type failedOver struct {
	*daemons
	gapCase
	journal     string
	stop        func() // the load
	backup      catalog.Manifest
	before, mid mark         // at either end of the backlog
	upTo        postgres.LSN // where timeline 1 was written at last, as far as is known
	fork        postgres.LSN // where timeline 2 left it
	tail        postgres.LSN // where timeline 2 has been closed
	backlog     []string     // what the archive lacked when the leader died
	lost        []string     // what it lacks in the end
	about       int          // on how many members that lies about
	acked       int          // how many files were acknowledged
	dead, next  *lab.Member
	other       *lab.Member // a standby that is not to be promoted
	receiver    int         // its WAL receiver, stopped, in a torn outage
}

// failover runs the scenario up to the moment when the store is back.
func failover(w *world, c gapCase) *failedOver {
	w.Helper()
	f := &failedOver{daemons: w.daemons(0), gapCase: c, journal: w.TempDir()}
	leader := w.cluster.Leader()
	for _, m := range w.cluster.Replicas() {
		f.keeps(m)
	}
	f.stop = w.work(f.journal)
	f.backup = w.backup(leader)
	m := w.marker()
	f.before = m.mark("before")
	m.archived()

	f.down()
	for range 2 {
		m.switches(3)
		f.restartpoint()
		f.restartpoint()
	}
	f.mid = m.mark("mid")
	f.halfway()
	for range 2 {
		m.switches(3)
		f.restartpoint()
	}
	f.recycled()
	m.mark("late")
	f.streamed(leader)
	f.kill(leader)
	return f
}

// gapWorld is a cluster with some of the means, whose standbys keep as little WAL by
// themselves as Patroni allows.
func gapWorld(t *testing.T, m means) *world {
	t.Helper()
	archive := []string{"push_timeout: 5s", "keep_on_standby: 0", "fill_after: 0s"}
	if m.slot {
		archive[1] = "keep_on_standby: 16GiB"
	}
	if m.filler {
		archive[2] = "fill_after: 2s"
	}
	return newWorld(t, worldOptions{proxied: true, hooked: true, prePromote: m.hook, parameters: map[string]string{"wal_keep_size": "16MB"},
		extra: "archive: {" + strings.Join(archive, ", ") + "}\ndaemon: {listen: \"{host}:8018\", socket: {home}/state/socket}\n"})
}

// switches closes n segments, each with something of the load in it.
func (m *marker) switches(n int) {
	m.Helper()
	for range n {
		m.exec("select pg_switch_wal()")
		m.exec("select pg_logical_emit_message(false, 'gap', 'next')")
	}
}

// down stops the store for everybody.
func (f *failedOver) down() {
	f.Helper()
	switch f.outage {
	case closed:
		f.s3.Stop()
		f.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{Drop: true}})
	case silent:
		f.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{BlackHole: true}})
	default:
		f.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{Status: http.StatusServiceUnavailable, Code: "SlowDown"}})
	}
}

func (f *failedOver) up() {
	f.Helper()
	if f.outage == closed {
		f.s3.Start()
	}
	f.proxy.Set()
}

// restartpoint has every standby make one, as its control file proves, if it is of the phase.
func (f *failedOver) restartpoint() {
	f.Helper()
	if f.phase == short || f.phase == deaf {
		return
	}
	leader := f.cluster.Leader()
	leader.Exec("checkpoint")
	var want string
	leader.QueryRow("select redo_lsn::text from pg_control_checkpoint()", &want)
	for _, m := range f.receiving() {
		lab.Poll(f, 30*time.Second, "a restartpoint of "+m.Name, func() error {
			m.Exec("checkpoint")
			var done bool
			if m.QueryRow("select redo_lsn >= '"+want+"' from pg_control_checkpoint()", &done); !done {
				return errNotYet
			}
			return nil
		})
	}
}

// receiving are the standbys that WAL still comes to.
func (f *failedOver) receiving() []*lab.Member {
	f.Helper()
	return slices.DeleteFunc(f.cluster.Replicas(), func(m *lab.Member) bool { return f.receiver != 0 && m == f.other })
}

// recycled looks at what more than three restartpoints did to the first segment of the
// backlog: a standby that was there all the time has it if and only if it keeps it.
func (f *failedOver) recycled() {
	f.Helper()
	f.upTo = position(f, f.cluster.Leader())
	lacks := f.lacks()
	if len(lacks) < 8 {
		f.Fatalf("the archive lacks %v only: that is no backlog", lacks)
	}
	if f.phase == short || f.phase == deaf {
		return
	}
	for _, m := range f.cluster.Replicas() {
		if there := exists(m, lacks[0]); m != f.next && there != f.slot {
			f.Errorf("%s has %s: %t; slots: %t", m.Name, lacks[0], there, f.slot)
		}
	}
}

func exists(m *lab.Member, segment string) bool {
	_, err := os.Stat(filepath.Join(m.DataDir, "pg_wal", segment))
	return err == nil
}

// halfway has one standby made anew, which has none of the older WAL then, and sees to
// it that the other one cannot be promoted, or does not even receive any more.
func (f *failedOver) halfway() {
	f.Helper()
	if f.phase != anew && f.phase != torn {
		return
	}
	replicas := f.cluster.Replicas()
	f.next, f.other = replicas[0], replicas[1]
	f.notForPromotion(f.other)
	f.makeAnew(f.next)
	if f.phase == torn {
		f.streamed(f.cluster.Leader())
		f.other.QueryRow("select pid from pg_stat_wal_receiver", &f.receiver)
		f.signal(syscall.SIGSTOP)
	}
}

// signal stops the WAL receiver of the other standby, or lets it go on.
func (f *failedOver) signal(sig syscall.Signal) {
	f.Helper()
	if f.receiver == 0 {
		return
	}
	if err := syscall.Kill(f.receiver, sig); err != nil {
		f.Fatalf("the WAL receiver of %s: %v", f.other.Name, err)
	}
}

func (f *failedOver) notForPromotion(m *lab.Member) {
	f.Helper()
	text, err := os.ReadFile(m.ConfigFile)
	if err != nil {
		f.Fatal(err)
	}
	changed := strings.Replace(string(text), "nofailover: false", "nofailover: true", 1)
	if err := os.WriteFile(m.ConfigFile, []byte(changed), 0o600); err != nil {
		f.Fatal(err)
	}
	if err := m.Post("reload", "{}"); err != nil {
		f.Fatal(err)
	}
	lab.Poll(f, 30*time.Second, m.Name+" not to be for promotion", func() error {
		text, _, err := f.cluster.Etcd.Get(f.cluster.Key("members/" + m.Name))
		var member struct{ Tags struct{ Nofailover bool } }
		if err == nil {
			err = json.Unmarshal([]byte(text), &member)
		}
		if err == nil && !member.Tags.Nofailover {
			err = errNotYet
		}
		return err
	})
}

func (f *failedOver) makeAnew(m *lab.Member) {
	f.Helper()
	before := started(m)
	lab.Poll(f, 30*time.Second, "reinitialize", func() error { return m.Post("reinitialize", "{}") })
	lab.Poll(f, time.Minute, m.Name+" to be made anew", func() error {
		if now := started(m); now == "" || now == before {
			return errNotYet
		}
		return nil
	})
	f.cluster.WaitHealthy(time.Minute)
	f.keeps(m)
}

// keeps waits until a standby keeps WAL: until then what it has may be recycled.
func (f *failedOver) keeps(m *lab.Member) {
	f.Helper()
	if !f.slot {
		return
	}
	lab.Poll(f, 30*time.Second, m.Name+" to keep WAL", func() error {
		var n int
		if m.QueryRow("select count(*) from pg_replication_slots where temporary and active and restart_lsn is not null", &n); n == 0 {
			return errNotYet
		}
		return nil
	})
}

// started is the first lines of a server's postmaster.pid: its process and its start.
func started(m *lab.Member) string {
	b, _ := os.ReadFile(filepath.Join(m.DataDir, "postmaster.pid"))
	lines := strings.SplitN(string(b), "\n", 4)
	if len(lines) < 4 {
		return ""
	}
	return lines[0] + " " + lines[2]
}

// streamed waits until every standby has flushed what is committed now.
func (f *failedOver) streamed(leader *lab.Member) {
	f.Helper()
	f.upTo = position(f, leader)
	for _, m := range f.receiving() {
		lab.Poll(f, 30*time.Second, fmt.Sprintf("%s to have received %s", m.Name, f.upTo), func() error {
			var has bool
			if m.QueryRow("select pg_last_wal_receive_lsn() >= '"+f.upTo.String()+"'", &has); !has {
				return errNotYet
			}
			return nil
		})
	}
}

// position is how far a primary has flushed its WAL.
func position(t lab.T, m *lab.Member) postgres.LSN {
	t.Helper()
	var text string
	m.QueryRow("select pg_current_wal_flush_lsn()::text", &text)
	lsn, err := postgres.ParseLSN(text)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return lsn
}

// kill ends the leader's host for good, has another member promoted, and lets the
// store answer at its moment.
func (f *failedOver) kill(leader *lab.Member) {
	f.Helper()
	f.dead = leader
	if f.back == beforeKill {
		f.up()
	}
	f.running[leader.Name].Kill9()
	leader.Kill9()
	switch f.phase {
	case deaf:
		for _, p := range f.running {
			p.Kill9()
		}
	case torn:
		f.running[f.next.Name].Kill9()
	}
	// Nothing of it may ever come back. What it had acknowledged is in a file beside its home.
	if err := os.Rename(leader.DataDir, leader.DataDir+".lost"); err != nil {
		f.Fatal(err)
	}
	if f.backlog = f.lacks(); len(f.backlog) == 0 {
		f.Fatal("the backlog was drained before the leader died: this proves nothing")
	}
	if f.back == beforePromotion {
		f.up()
	}
	// How long the leader key lives is Patroni's ttl, and nothing to wait for here.
	if err := f.cluster.Etcd.DeletePrefix(f.cluster.Key("leader")); err != nil {
		f.Fatal(err)
	}
	next := f.cluster.Leader()
	if f.next != nil && f.next != next {
		f.Fatalf("%s was promoted, not %s", next.Name, f.next.Name)
	}
	f.next = next
	lab.Poll(f, 30*time.Second, next.Name+" to be promoted", func() error { // it has the lock before
		var recovering bool
		if next.QueryRow("select pg_is_in_recovery()", &recovering); recovering {
			return errNotYet
		}
		return nil
	})
	// The checkpointer wins the race against everybody who would still copy from pg_wal.
	next.Exec("checkpoint")
	if f.back == atPromotion {
		f.up()
	}
	f.signal(syscall.SIGCONT)
	if f.phase != torn { // there the other standby needs the archive first
		f.cluster.WaitHealthy(time.Minute)
	}
	if f.back == later {
		time.Sleep(20 * time.Second)
		if f.phase != torn {
			f.restartpoint()
		}
		f.up()
	}
}
