package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
)

// walk reads WAL objects, several at once, and looks in their order whether they join.
type walk struct {
	*Verifier
	backup catalog.BackupID
	batch  []catalog.WALEntry
	last   postgres.Segment
	joint  postgres.Joint // behind it
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
	return &walk{Verifier: v, backup: backup, disputed: map[string]bool{}}
}

func (w *walk) add(ctx context.Context, e catalog.WALEntry) error {
	if w.batch = append(w.batch, e); len(w.batch) < batch {
		return nil
	}
	return w.flush(ctx)
}

func (w *walk) flush(ctx context.Context) error {
	facts := make([]*postgres.SegmentFacts, len(w.batch))
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(min(workers, max(1, maxBuffered/int(w.Archive.SegmentSize))))
	for i, e := range w.batch {
		group.Go(func() (err error) {
			facts[i], err = w.object(within, w.backup, e)
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
	at := catalog.Finding{Backup: w.backup, Object: w.Repository.WALKey(e.File)}
	stat := func(f postgres.WALFile) (*postgres.SegmentFacts, error) {
		counts, err := w.Repository.StatWAL(ctx, f)
		return counts.Facts, err
	}
	if e.Object() != "" && e.Object() != at.Object {
		w.disputed[e.File.String()] = true // conflicts come before what is stored
		return nil
	}
	if w.disputed[e.File.String()] {
		counts, err := stat(e.File)
		if facts = counts; err != nil {
			facts = nil
		}
		if err := w.judge(at, err); err != nil {
			return err
		}
	}
	if e.File.Kind != postgres.WALSegment || w.Level != Full || facts == nil {
		return nil
	}
	s := e.File.Segment
	before, _ := w.Archive.Before(s)
	if w.last != before {
		w.joint = postgres.Joint{}
		if w.Archive.Has(before) { // behind a fork, or one that could not be read
			known, err := stat(postgres.WALFile{Kind: postgres.WALSegment, Segment: before})
			if err == nil && known != nil {
				w.joint.Note(*known)
			} else if err != nil && !catalog.IsDamage(err) {
				return err
			}
		}
	}
	if !w.joint.Joins(*facts) {
		w.Verifier.add(at, "it does not go on where %s ends: two servers wrote them", before)
	}
	if f := w.joint.Facts; f.Walked && !f.Complete(w.Archive.SegmentSize) {
		w.Verifier.add(w.wal(w.backup, before), "its WAL ends at %s, before the segment does, and %s follows: nothing can be replayed past it",
			before.Start(w.Archive.SegmentSize)+postgres.LSN(f.ValidEnd), s)
	}
	w.joint.Note(*facts)
	w.last = s
	return nil
}

// object reads one WAL object; with Full its content is compared with what is said of it.
func (v *Verifier) object(ctx context.Context, backup catalog.BackupID, e catalog.WALEntry) (*postgres.SegmentFacts, error) {
	at := catalog.Finding{Backup: backup, Object: e.Object()}
	if at.Object == "" {
		at.Object = v.Repository.WALKey(e.File)
	}
	limit := max(maxSmall, int64(v.Archive.SegmentSize))
	plain, w := bytes.Buffer{}, io.Discard
	if v.Level == Full {
		if w = &plain; e.File.Kind == postgres.WALSegment {
			plain.Grow(int(v.Archive.SegmentSize)) // once: it may be a gigabyte
		}
	}
	var o catalog.WALObject
	err := catalog.Twice(func() (err error) {
		plain.Reset()
		o, err = v.Repository.InspectWAL(ctx, e, w, limit)
		return err
	})
	if errors.Is(err, storage.ErrNotExist) && e.Object() != "" { // it was, a while ago
		if gone, err := v.Repository.Removed(ctx, e); gone || err != nil {
			return nil, err
		}
	}
	v.looked(e.Size, func(c *Counts) { c.WAL++ })
	if err != nil || v.Level != Full {
		return nil, v.judge(at, err)
	}
	bad := func(format string, args ...any) { v.add(at, format, args...) }
	switch e.File.Kind {
	case postgres.WALHistory:
		v.history(e.File.Segment.Timeline, plain.Bytes(), bad)
	case postgres.WALBackupHistory:
		l, err := postgres.ParseBackupLabel(plain.String())
		if err != nil || l.StartFile.Segment != e.File.Segment || uint32(uint64(l.StartLSN)%uint64(v.Archive.SegmentSize)) != e.File.Offset {
			bad("it tells of a backup that started at %s (%v)", l.StartLSN, err)
		}
	default:
		v.segment(o, e.File, plain.Bytes(), bad)
	}
	return o.Facts, nil
}

// history compares a history with those of the timelines that it names.
func (v *Verifier) history(tli postgres.TimelineID, text []byte, bad func(string, ...any)) {
	h, err := postgres.ParseTimelineHistory(tli, text)
	if err != nil || len(h.Entries) == 0 {
		bad("it names no timeline that it was forked off from (%v)", err)
	}
	for i, e := range h.Entries {
		parent, known := v.Archive.History(e.Parent)
		same := func(a, b postgres.HistoryEntry) bool { return a.Parent == b.Parent && a.Switch == b.Switch }
		if known && !slices.EqualFunc(parent.Entries, h.Entries[:i], same) {
			bad("it tells another descent than %s", postgres.HistoryFile(e.Parent))
		}
	}
}

// segment walks a segment anew and compares what its header says.
func (v *Verifier) segment(o catalog.WALObject, file postgres.WALFile, data []byte, bad func(string, ...any)) {
	if len(data) != int(v.Archive.SegmentSize) || o.Facts == nil {
		bad("it holds %d bytes, a segment has %d; facts in its header: %t", len(data), v.Archive.SegmentSize, o.Facts != nil)
		return
	}
	if again := v.Repository.Describe(file, data, o.Facts).ValidSHA256; again != o.ValidSHA256 {
		bad("up to its valid end its sha256 is %s, its header says %s", again, o.ValidSHA256)
	}
	if !o.Facts.Walked { // whoever archived it could not read it, and said so
		return
	}
	facts, err := postgres.ScanSegment(file, data)
	if err != nil {
		bad("%v, and its header says that it was read", err)
		return
	}
	if o.Facts.FirstPrev == 0 && o.StoredCRC32C == "" { // an early version did not keep how segments join
		facts.FirstPrev, facts.Continues, facts.Overwrites = 0, o.Facts.Continues, o.Facts.Overwrites
		if facts.Open != nil && o.Facts.Open != nil && o.Facts.Open.Left == 0 {
			facts.Open.Left = 0
		}
	}
	walked, kept := fields(facts), fields(*o.Facts)
	names := maps.Clone(walked)
	maps.Copy(names, kept)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if walked[name] != kept[name] {
			bad("%s is %s, its header says %s", name, walked[name], kept[name])
		}
	}
	history, _ := v.Archive.History(file.Segment.Timeline)
	head, err := postgres.ParseWALHeader(data)
	if err == nil {
		err = head.CheckName(file, v.Repository.Location().System, history)
	}
	if err != nil {
		bad("%v", err)
	}
}

// fields are facts as the header has them: they came from there, or from times as short.
func fields(f postgres.SegmentFacts) map[string]string {
	raw, all := map[string]json.RawMessage{}, map[string]string{}
	text, _ := json.Marshal(f)
	_ = json.Unmarshal(text, &raw)
	for name, value := range raw {
		all[name] = string(value)
	}
	return all
}
