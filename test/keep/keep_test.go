package keep_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestKeep lets an archiver fail through many restartpoints (R13): a standby whose daemon
// keeps WAL has all of it, one whose daemon keeps none has recycled it.
func TestKeep(t *testing.T) {
	w := newWorld(t)
	primary := w.primary()
	keeps, control := primary.standby(), primary.standby()
	keeps.configure("keep_on_standby: 64MiB, fill_after: 0s")
	control.configure("keep_on_standby: 0, fill_after: 0s")
	keeps.start()
	control.start()
	keeps.until(20*time.Second, "a slot", func(s daemon.Status) bool { return s.Keep != nil && s.Keep.Slot != "" && s.Keep.Problem == "" })

	outage := func(restartpoints, segments int) (names []string) {
		t.Helper()
		for range restartpoints {
			names = append(names, primary.segments(segments)...)
			primary.Exec("checkpoint")
			for _, s := range []*node{keeps, control} {
				s.catches(primary)
				s.Exec("checkpoint")
			}
		}
		return names
	}
	names := outage(5, 3)
	if lost := without(names, keeps.holds(names)); len(lost) > 0 {
		t.Errorf("the standby with a slot has lost %v of %v", lost, names)
	}
	if lost := without(names, control.holds(names)); len(lost) < 3 {
		t.Errorf("the standby without one has lost only %v: the test shows nothing", lost)
	}
	if s, err := control.status(); err != nil || s.Keep == nil || s.Keep.Slot != "" || s.Keep.Problem != "" {
		t.Errorf("the control: %+v, %v", s.Keep, err)
	}

	// A store that is away moves nothing.
	before := keeps.until(5*time.Second, "the frontier", func(s daemon.Status) bool { return s.Keep.Frontier.Seg > 0 }).Keep
	w.s3.Stop()
	names = append(names, outage(2, 3)...)
	keeps.until(30*time.Second, "the backlog to be seen", func(s daemon.Status) bool { return s.Keep.Bytes >= int64(len(names)-1)<<20 })
	if now := keeps.until(time.Second, "it", func(daemon.Status) bool { return true }).Keep; now.Slot != before.Slot || now.Frontier != before.Frontier {
		t.Errorf("with the store away: %+v, before %+v", now, before)
	}
	if lost := without(names, keeps.holds(names)); len(lost) > 0 {
		t.Errorf("with the store away the standby with a slot has lost %v of %v", lost, names)
	}
	w.s3.Start()

	// What is archived is recycled.
	primary.archives(primary.archiveCommand())
	w.has(names...)
	last := names[len(names)-1]
	keeps.until(30*time.Second, "the frontier to advance", func(s daemon.Status) bool { return s.Keep.Frontier.Name() > last })
	lab.Poll(t, 30*time.Second, "recycled WAL", func() error {
		outage(1, 1)
		if held := keeps.holds(names[:len(names)-3]); len(held) > 0 {
			return errNotYet
		}
		return nil
	})

	// Beyond the cap PostgreSQL goes first, and that is said.
	primary.archives(refuse)
	names = outage(1, 80)
	keeps.says("keep.exceeded", 1)
	if s, err := keeps.status(); err != nil || s.Keep.Problem == "" || s.Keep.Slot == "" {
		t.Errorf("beyond the cap: %+v, %v", s.Keep, err)
	}
	lab.Poll(t, 30*time.Second, "freed WAL", func() error {
		primary.Exec("checkpoint") // without a new one of it a standby's does nothing
		keeps.catches(primary)
		keeps.Exec("checkpoint")
		if held := keeps.holds(names); len(held) > 66 {
			return errNotYet
		}
		return nil
	})
	if held := keeps.holds(names); len(held) < 60 {
		t.Errorf("beyond the cap %d of %d segments are kept", len(held), len(names))
	}
	primary.archives(primary.archiveCommand())
	w.has(names...)
	keeps.says("keep.whole", 1)

	// While the daemon is away nothing is kept, and what is gone then is said.
	keeps.until(30*time.Second, "the frontier to advance", func(s daemon.Status) bool { return s.Keep.Frontier.Name() > names[len(names)-1] })
	primary.archives(refuse)
	broken, whole := keeps.said("keep.broken"), keeps.said("keep.whole")
	keeps.stop()
	names = outage(2, 6)
	if held := keeps.holds(names); len(held) > 8 {
		t.Errorf("without a daemon %v are kept", held)
	}
	keeps.start()
	keeps.says("keep.broken", broken+1)
	if s, err := keeps.status(); err != nil || s.Keep.Problem == "" || s.Keep.Slot == "" {
		t.Errorf("after the loss: %+v, %v", s.Keep, err)
	}
	primary.archives(primary.archiveCommand())
	w.has(names...)
	keeps.says("keep.whole", whole+1)
}

// TestKeepGivesWay: neither a full pg_wal nor a server without a free slot is harmed, and
// a slot that the server gives up is made anew.
func TestKeepGivesWay(t *testing.T) {
	w := newWorld(t)
	primary := w.primary()
	standby := primary.standby()
	standby.Exec("alter system set max_replication_slots = 0")
	standby.Restart()
	standby.streams()
	standby.configure("keep_on_standby: 64MiB, fill_after: 1s")
	standby.start()
	standby.says("keep.refused", 1)
	standby.Exec("alter system set max_replication_slots = 10")
	standby.Exec("alter system set max_slot_wal_keep_size = '4MB'")
	standby.Restart()
	standby.streams()
	first := standby.until(time.Minute, "a slot", func(s daemon.Status) bool { return s.Keep != nil && s.Keep.Slot != "" }).Keep
	// The fill of the daemon would archive it.
	w.proxy.Set(blackHole)
	names := primary.segments(16)
	primary.Exec("checkpoint")
	standby.catches(primary)
	lab.Poll(t, 30*time.Second, "another slot", func() error {
		standby.Exec("checkpoint")
		s, err := standby.status()
		if err == nil && (s.Keep == nil || s.Keep.Slot == "" || s.Keep.Slot == first.Slot) {
			err = errNotYet
		}
		return err
	})
	if held := standby.holds(names); len(held) == len(names) {
		t.Error("max_slot_wal_keep_size was not obeyed: the test shows nothing")
	}
	w.proxy.Set()
	standby.says("keep.broken", 1)

	// The slot goes before the disk is full.
	standby.configure("keep_on_standby: 64MiB, fill_after: 1s, full_below: 1000TiB")
	standby.reload()
	standby.says("keep.released", 1)
	standby.until(10*time.Second, "no slot", func(s daemon.Status) bool { return s.Keep != nil && s.Keep.Slot == "" && s.Keep.Problem != "" })
	var slots int
	if standby.QueryRow("select count(*) from pg_replication_slots", &slots); slots != 0 {
		t.Errorf("%d slots are left", slots)
	}
	standby.configure("keep_on_standby: 64MiB, fill_after: 1s")
	standby.reload()
	standby.until(20*time.Second, "a slot again", func(s daemon.Status) bool { return s.Keep != nil && s.Keep.Slot != "" })
	if _, err := os.Stat(filepath.Join(standby.state, "frontier.json")); err != nil {
		t.Error(err)
	}
}
