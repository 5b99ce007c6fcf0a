package retention

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

const size = postgres.SegmentSize(1 << 20)

type tli = postgres.TimelineID

// world is a cluster with a life, under a bubble's clock, and the tests' own idea of
// its tree: nothing here asks the code that is judged.
type world struct {
	*testing.T
	store   *mem.Bucket
	parent  map[tli]tli
	fork    map[tli]uint64 // the segment, in its middle, where a timeline left its parent
	next    map[tli]uint64 // the segment that is written now
	now     tli
	newest  tli
	times   map[postgres.Segment]time.Time // when each was archived
	backups []catalog.Manifest
	serial  int
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, store: mem.New(), parent: map[tli]tli{}, fork: map[tli]uint64{}, next: map[tli]uint64{1: 1}, now: 1, newest: 1,
		times: map[postgres.Segment]time.Time{}}
	_, err := w.repo(w.store).Create(t.Context(), size, "required", time.Now())
	w.must(err)
	return w
}

func (w *world) repo(b storage.Bucket) *catalog.Repository {
	return catalog.New(b, catalog.Location{Scope: "main", System: 77}, catalog.Options{})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func lsn(n uint64) postgres.LSN { return postgres.LSN(n*uint64(size) + uint64(size)/2) }

func seg(t tli, n uint64) postgres.Segment { return postgres.SegmentAt(t, lsn(n), size) }

// put archives one file of the kind.
func (w *world) put(kind postgres.WALKind, s postgres.Segment) {
	w.Helper()
	f := postgres.WALFile{Kind: kind, Segment: s}
	var facts *postgres.SegmentFacts
	if kind == postgres.WALSegment || kind == postgres.WALPartial {
		facts = &postgres.SegmentFacts{}
	}
	_, err := w.repo(w.store).PutWAL(w.Context(), f, []byte(f.String()), facts)
	w.must(err)
}

// wal archives the next n segments.
func (w *world) wal(n int) {
	for range n {
		s := seg(w.now, w.next[w.now])
		w.put(postgres.WALSegment, s)
		w.times[s] = time.Now()
		w.next[w.now]++
		time.Sleep(time.Minute)
	}
}

// branch opens a timeline that leaves from at segment n.
func (w *world) branch(from tli, n uint64) {
	w.newest++
	tl := w.newest
	w.put(postgres.WALPartial, seg(w.now, w.next[w.now]))
	w.parent[tl], w.fork[tl], w.next[tl], w.now = from, n, n, tl
	var text string
	for t := tl; w.parent[t] != 0; t = w.parent[t] {
		text = fmt.Sprintf("%d\t%s\twhy\n", w.parent[t], lsn(w.fork[t])) + text
	}
	_, err := w.repo(w.store).PutWAL(w.Context(), postgres.HistoryFile(tl), []byte(text), nil)
	w.must(err)
}

func (w *world) id(kind string) catalog.BackupID {
	w.serial++
	return catalog.BackupID(fmt.Sprintf("%s-%s%d", time.Now().UTC().Format("20060102T150405Z"), kind, w.serial))
}

// start begins a run that may never end.
func (w *world) start(parent catalog.BackupID) (*catalog.Run, catalog.Started) {
	w.Helper()
	s := catalog.Started{ID: w.id("x"), Timeline: w.now, StartLSN: lsn(w.next[w.now]), Parent: parent, At: time.Now()}
	run, err := w.repo(w.store).StartRun(w.Context(), s)
	w.must(err)
	return run, s
}

// backup takes one over the next segments; a parent makes it an incremental.
func (w *world) backup(segments int, parent catalog.BackupID, damage ...catalog.Damage) catalog.Manifest {
	w.Helper()
	run, s := w.start(parent)
	began := time.Now()
	pack, err := run.NewPack(w.Context(), catalog.PackName(0, 1))
	w.must(err)
	w.must(pack.Directory(catalog.Entry{Path: "base", Mode: 0o700, Modified: began}))
	contents, info, err := pack.Close()
	w.must(err)
	stop := lsn(w.next[w.now]+uint64(segments)-1) + 100
	w.wal(segments)
	m := catalog.Manifest{Type: catalog.Full, Parent: parent, Member: "one", Version: 150018, SegmentSize: size, Timeline: s.Timeline,
		StartLSN: s.StartLSN, StopTLI: s.Timeline, StopLSN: stop, StartTime: began, StopTime: time.Now(), Packs: []catalog.PackInfo{info}, Damage: damage}
	if parent != "" {
		m.Type = catalog.Incremental
	}
	m, err = run.Commit(w.Context(), m, catalog.Index{Packs: []catalog.Pack{contents}}, []byte("{}"))
	w.must(err)
	w.backups = append(w.backups, m)
	return m
}

// lose removes a segment behind everybody's back.
func (w *world) lose(s postgres.Segment) {
	w.Helper()
	w.must(w.store.Delete(w.Context(), storage.Key(fmt.Sprintf("main/77/wal/%s/%08X/%s", s.Timeline, s.Log, s.Name()))))
}

// keys are the names of all that is stored.
func (w *world) keys() map[string]bool {
	w.Helper()
	found := map[string]bool{}
	for o, err := range w.store.List(w.Context(), "", "") {
		w.must(err)
		found[string(o.Key)] = true
	}
	return found
}

// --- the oracle -------------------------------------------------------------

// snapshot is what a reader could see at one moment.
type snapshot struct {
	w        *world
	segments map[string]bool
	visible  map[catalog.BackupID]bool // manifest, no tombstone
	present  map[catalog.BackupID]bool // manifest
}

func (w *world) look() snapshot {
	s := snapshot{w, map[string]bool{}, map[catalog.BackupID]bool{}, map[catalog.BackupID]bool{}}
	keys := w.keys()
	for key := range keys {
		parts := strings.Split(key, "/")
		last := parts[len(parts)-1]
		switch {
		case parts[2] == "wal" && len(last) == 24:
			s.segments[last] = true
		case parts[2] == "backup" && last == "manifest.json":
			id := catalog.BackupID(parts[3])
			s.present[id] = true
			s.visible[id] = !keys["main/77/backup/"+parts[3]+"/expired.json"]
		}
	}
	return s
}

// owner is the timeline whose file a server on t reads for segment n.
func (w *world) owner(t tli, n uint64) tli {
	for w.parent[t] != 0 && n < w.fork[t] {
		t = w.parent[t]
	}
	return t
}

// on tells whether the position in the middle of segment n, written by timeline of,
// lies on the way to t.
func (w *world) on(t, of tli, n uint64) bool {
	for t != of {
		if w.parent[t] == 0 || n >= w.fork[t] {
			return false
		}
		t = w.parent[t]
	}
	return true
}

func number(l postgres.LSN) uint64 { return uint64(l) / uint64(size) }

// replays tells whether a backup, on the way to t, can be replayed to the end of segment n.
func (s snapshot) replays(m catalog.Manifest, t tli, n uint64) bool {
	stop := number(m.StopLSN)
	if n < stop || !s.w.on(t, m.Timeline, stop) {
		return false
	}
	for i := number(m.StartLSN); i <= n; i++ {
		if !s.segments[seg(s.w.owner(t, i), i).Name()] {
			return false
		}
	}
	return true
}

// good: whole, undamaged, and so is all that it stands on.
func (s snapshot) good(m catalog.Manifest) bool {
	for {
		complete := false
		for t := tli(1); t <= s.w.newest; t++ {
			complete = complete || s.replays(m, t, number(m.StopLSN))
		}
		if !complete || m.Damaged() || !s.present[m.ID] {
			return false
		}
		if m.Parent == "" {
			return true
		}
		i := slices.IndexFunc(s.w.backups, func(b catalog.Manifest) bool { return b.ID == m.Parent })
		m = s.w.backups[i]
	}
}

// reachable tells whether some good backup that can be seen reaches the end of segment n of t.
func (s snapshot) reachable(t tli, n uint64) bool {
	return slices.ContainsFunc(s.w.backups, func(m catalog.Manifest) bool { return s.visible[m.ID] && s.good(m) && s.replays(m, t, n) })
}

// --- random lives -----------------------------------------------------------

// live lets some time of a cluster's life pass.
func (w *world) live(r *rand.Rand, steps int) {
	w.Helper()
	repo := w.repo(w.store)
	some := func() catalog.Manifest { return w.backups[r.IntN(len(w.backups))] }
	for range steps {
		switch r.IntN(14) {
		case 0, 1, 2:
			w.wal(1 + r.IntN(6))
		case 3, 4, 5:
			w.backup(1+r.IntN(3), "")
		case 6:
			w.backup(1, "", catalog.Damage{Path: "base/1/1", Blocks: []uint32{1}})
		case 7: // a failover
			w.branch(w.now, w.next[w.now])
			w.wal(r.IntN(3))
		case 8: // a recovery to the past, of any timeline
			from := tli(1 + r.IntN(int(w.newest)))
			if w.next[from] > 3 {
				w.branch(from, 2+uint64(r.IntN(int(w.next[from]-2))))
				w.wal(1 + r.IntN(3))
			}
		case 9:
			if len(w.backups) > 0 {
				err := repo.Hold(w.Context(), catalog.Hold{Backup: some().ID, Name: fmt.Sprint("h", r.IntN(3)), Reason: "why not", By: "me",
					At: time.Now(), Until: time.Now().Add(time.Duration(r.IntN(200)) * time.Hour)})
				if err != nil && !errors.Is(err, storage.ErrExist) && !errors.Is(err, catalog.ErrNoBackup) && !errors.Is(err, catalog.ErrExpired) {
					w.Fatal(err)
				}
			}
		case 10:
			if len(w.backups) > 0 {
				parent := some()
				visible := w.look()
				if visible.visible[parent.ID] && parent.Timeline == w.now {
					w.backup(1, parent.ID)
				}
			}
		case 11:
			w.start("")
			w.wal(r.IntN(3))
		case 12:
			if r.IntN(4) == 0 && w.next[w.now] > 4 {
				w.lose(seg(w.now, w.next[w.now]-1-uint64(r.IntN(3))))
			}
		}
		time.Sleep(time.Duration(r.IntN(40)) * time.Hour)
	}
}

func randomPolicy(r *rand.Rand) Policy {
	p := Policy{Garbage: 48 * time.Hour, Minimum: r.IntN(4)}
	some := func(n int) int { return r.IntN(2) * r.IntN(n) }
	p.Keep, p.Daily, p.Weekly, p.Monthly, p.Yearly, p.WALFull = some(6), some(5), some(4), some(3), some(2), some(4)
	p.Window = time.Duration(some(20)) * 24 * time.Hour
	p.Grace = time.Duration(some(60)) * time.Hour
	return p
}

func (w *world) expire(b storage.Bucket, p Policy) (Plan, Outcome, error) {
	f, err := Gather(w.Context(), w.repo(b))
	if err != nil {
		return Plan{}, Outcome{}, err
	}
	plan, err := NewPlan(f, p, time.Now())
	if err != nil {
		return plan, Outcome{}, err
	}
	out, err := Apply(w.Context(), w.repo(b), plan, Options{By: "test"})
	return plan, out, err
}
