package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// walk reads WAL objects, several at once, and looks in their order whether they join.
type walk struct {
	v      *Verifier
	backup catalog.BackupID
	batch  []catalog.WALEntry
	last   postgres.Segment
	// joints are what segments leave to those behind them: the last one, and those
	// before a fork.
	joints map[postgres.Segment]postgres.Joint
	forks  map[postgres.Segment]bool
	// disputed are files of which another content may count than the stored one.
	disputed map[string]bool
}

const (
	batch = 64
	// maxBuffered bounds the WAL that is held at once, unless one segment is larger.
	maxBuffered = 64 << 20
	// maxSmall bounds a history or backup history file.
	maxSmall = 1 << 20
)

func newWalk(v *Verifier, backup catalog.BackupID) *walk {
	w := &walk{v: v, backup: backup, joints: map[postgres.Segment]postgres.Joint{}, forks: map[postgres.Segment]bool{}, disputed: map[string]bool{}}
	for _, t := range v.Archive.Timelines {
		if before, ok := v.Archive.Before(postgres.SegmentAt(t.Timeline, t.Switch, v.Archive.SegmentSize)); ok && t.Parent != 0 {
			w.forks[before] = true
		}
	}
	return w
}

func (w *walk) add(ctx context.Context, e catalog.WALEntry) error {
	if e.Object() != "" && e.Object() != w.v.Repository.WALKey(e.File) {
		w.disputed[e.File.String()] = true
	}
	if w.batch = append(w.batch, e); len(w.batch) < batch {
		return nil
	}
	return w.flush(ctx)
}

func (w *walk) flush(ctx context.Context) error {
	facts := make([]*postgres.SegmentFacts, len(w.batch))
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(min(workers, max(1, maxBuffered/int(w.v.Archive.SegmentSize))))
	for i, e := range w.batch {
		group.Go(func() (err error) {
			facts[i], err = w.v.object(within, w.backup, e)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, e := range w.batch {
		if err := w.next(ctx, e, facts[i]); err != nil {
			return err
		}
	}
	w.batch = w.batch[:0]
	return nil
}

// next goes on to an object that was read; facts is nil where nothing is known of it.
func (w *walk) next(ctx context.Context, e catalog.WALEntry, facts *postgres.SegmentFacts) error {
	v, key, size := w.v, w.v.Repository.WALKey(e.File), w.v.Archive.SegmentSize
	if e.Object() != "" && e.Object() != key {
		return nil
	}
	if w.disputed[e.File.String()] {
		counts, err := v.Repository.StatWAL(ctx, e.File)
		if facts = counts.Facts; err != nil {
			facts = nil
		}
		if err := v.judge(catalog.Finding{Backup: w.backup, Object: key}, err); err != nil {
			return err
		}
	}
	if e.File.Kind != postgres.WALSegment || v.Level != Full {
		return nil
	}
	s := e.File.Segment
	before, _ := v.Archive.Before(s)
	joint, known := w.joints[before]
	if !w.forks[w.last] {
		delete(w.joints, w.last)
	}
	w.last = s
	if facts == nil {
		return nil
	}
	if known && !joint.Joins(*facts) {
		v.found(w.backup, key, "it does not go on where %s ends: two servers wrote them", before)
	}
	if f := joint.Facts; known && f.Walked && !f.Complete(size) {
		v.found(w.backup, v.segmentKey(before), "its WAL ends at %s, before the segment does, and %s follows: nothing can be replayed past it", before.Start(size)+postgres.LSN(f.ValidEnd), s)
	}
	joint.Note(*facts)
	w.joints[s] = joint
	return nil
}

// bounded is a buffer that does not grow past what is expected.
type bounded struct {
	*bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("%w: it is longer than any such file", codec.ErrCorrupt)
	}
	return b.Buffer.Write(p)
}

// object reads one WAL object; with Full its content is compared with what is said of it.
func (v *Verifier) object(ctx context.Context, backup catalog.BackupID, e catalog.WALEntry) (*postgres.SegmentFacts, error) {
	at := catalog.Finding{Backup: backup, Object: e.Object()}
	if at.Object == "" {
		at.Object = v.Repository.WALKey(e.File)
	}
	var plain *bytes.Buffer
	w := io.Discard
	if v.Level == Full {
		plain = v.buffer()
		defer v.buffers.Put(plain)
	}
	var o catalog.WALObject
	err := catalog.Twice(func() (err error) {
		if plain != nil {
			plain.Reset()
			w = &bounded{plain, max(maxSmall, int(v.Archive.SegmentSize))}
		}
		o, err = v.Repository.InspectWAL(ctx, e, w)
		return err
	})
	v.done(e.Size)
	v.count(func(c *Counts) { c.WAL++ })
	if err != nil || v.Level != Full {
		return nil, v.judge(at, err)
	}
	var problems []string
	switch tli := e.File.Segment.Timeline; e.File.Kind {
	case postgres.WALHistory:
		var h postgres.TimelineHistory
		if h, err = postgres.ParseTimelineHistory(tli, plain.Bytes()); err == nil {
			problems = v.descent(h)
		}
	case postgres.WALBackupHistory:
		var l postgres.BackupLabel
		l, err = postgres.ParseBackupLabel(plain.String())
		if err == nil && (l.StartFile.Segment != e.File.Segment || uint32(uint64(l.StartLSN)%uint64(v.Archive.SegmentSize)) != e.File.Offset) {
			problems = []string{fmt.Sprintf("it tells of a backup that started at %s", l.StartLSN)}
		}
	default:
		problems = v.segment(o, e.File, plain.Bytes())
	}
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, problem := range problems {
		v.found(backup, at.Object, "%s", problem)
	}
	return o.Facts, nil
}

// descent compares a history with those of the timelines that it names.
func (v *Verifier) descent(h postgres.TimelineHistory) (problems []string) {
	if len(h.Entries) == 0 {
		return []string{"it names no timeline that it was forked off from"}
	}
	for i, e := range h.Entries {
		parent, known := v.Archive.History(e.Parent)
		same := func(a, b postgres.HistoryEntry) bool { return a.Parent == b.Parent && a.Switch == b.Switch }
		if known && !slices.EqualFunc(parent.Entries, h.Entries[:i], same) {
			problems = append(problems, fmt.Sprintf("it tells another descent than %s", postgres.HistoryFile(e.Parent)))
		}
	}
	return problems
}

// segment walks a segment anew and compares what its header says.
func (v *Verifier) segment(o catalog.WALObject, file postgres.WALFile, data []byte) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(data) != int(v.Archive.SegmentSize) {
		bad("it holds %d bytes, a segment has %d", len(data), v.Archive.SegmentSize)
	}
	if o.Facts == nil {
		bad("its header tells nothing of its content")
		return problems
	}
	again := v.Repository.Describe(file, data, o.Facts)
	if again.ValidSHA256 != o.ValidSHA256 {
		bad("up to its valid end its sha256 is %s, its header says %s", again.ValidSHA256, o.ValidSHA256)
	}
	if !o.Facts.Walked { // whoever archived it could not read it, and said so
		return problems
	}
	facts, err := postgres.ScanSegment(file, data)
	if err != nil {
		bad("%v, and its header says that it was read", err)
		return problems
	}
	if o.Facts.FirstPrev == 0 && o.StoredCRC32C == "" { // an early version did not keep how segments join
		facts.FirstPrev, facts.Continues, facts.Overwrites = 0, o.Facts.Continues, o.Facts.Overwrites
		if facts.Open != nil && o.Facts.Open != nil && o.Facts.Open.Left == 0 {
			facts.Open.Left = 0
		}
	}
	for _, difference := range differences(facts, *o.Facts) {
		bad("%s", difference)
	}
	history, _ := v.Archive.History(file.Segment.Timeline)
	head, err := postgres.ParseWALHeader(data)
	if err == nil {
		err = head.CheckName(file, v.Repository.Location().System, history)
	}
	if err != nil {
		bad("%v", err)
	}
	return problems
}

// differences name each fact that a walk finds otherwise.
func differences(walked, kept postgres.SegmentFacts) (all []string) {
	fields := func(f postgres.SegmentFacts) (m map[string]json.RawMessage) {
		text, err := json.Marshal(f)
		if err == nil {
			_ = json.Unmarshal(text, &m) // what was just written
		}
		return m
	}
	ours, theirs := fields(walked), fields(kept)
	names := maps.Clone(ours)
	maps.Copy(names, theirs)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !bytes.Equal(ours[name], theirs[name]) {
			all = append(all, fmt.Sprintf("%s is %s, its header says %s", name, or(ours[name]), or(theirs[name])))
		}
	}
	return all
}

func or(value json.RawMessage) string {
	if value == nil {
		return "absent"
	}
	return string(value)
}
