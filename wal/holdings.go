package wal

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// ServerState is what the server of a pg_wal does.
type ServerState uint8

// The states. Down is certain: no process serves the directory.
const (
	ServerDown ServerState = iota
	ServerFollows
	ServerLeads
)

// Holdings are what a pg_wal holds, as far as names tell, and where its server stands.
type Holdings struct {
	Dir         string // pg_wal
	System      postgres.SystemIdentifier
	Size        postgres.SegmentSize
	Redo        postgres.LSN // of the last checkpoint or restartpoint
	Files       map[postgres.WALFile]bool
	Ready, Done map[postgres.WALFile]bool // the archiver's marks
	Histories   map[postgres.TimelineID]postgres.TimelineHistory

	// State, Timeline and Reached are the server's own word. Until it is asked, it is
	// down, and the timeline is that of pg_control.
	State    ServerState
	Timeline postgres.TimelineID
	Reached  postgres.LSN
}

// ReadHoldings reads the names in a data directory. None there is fs.ErrNotExist.
func ReadHoldings(dataDir string) (Holdings, error) {
	control, err := ReadControl(dataDir)
	if err != nil {
		return Holdings{}, err
	}
	h := Holdings{Dir: filepath.Join(dataDir, "pg_wal"), System: control.System, Size: control.SegmentSize, Redo: control.Redo,
		Timeline: max(control.Timeline, control.MinRecoveryTimeline), Histories: map[postgres.TimelineID]postgres.TimelineHistory{}}
	status := filepath.Join(h.Dir, "archive_status")
	var errs [3]error
	h.Files, errs[0] = named(h.Dir, "")
	h.Ready, errs[1] = named(status, ".ready")
	h.Done, errs[2] = named(status, ".done")
	for file := range h.Files {
		if file.Kind == postgres.WALHistory {
			text, _ := os.ReadFile(filepath.Join(h.Dir, file.String()))
			if history, err := postgres.ParseTimelineHistory(file.Segment.Timeline, text); err == nil { // one that says nothing leaves nothing
				h.Histories[file.Segment.Timeline] = history
			}
		}
	}
	return h, errors.Join(errs[:]...)
}

// named are the segments and histories of a directory, by names that end so.
func named(dir, end string) (map[postgres.WALFile]bool, error) {
	found := map[postgres.WALFile]bool{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), end)
		file, no := postgres.ParseWALFile(name)
		if ok && no == nil && (file.Kind == postgres.WALSegment || file.Kind == postgres.WALHistory) {
			found[file] = true
		}
	}
	return found, err
}

// branch is the history of the server's own timeline; where it is not here, only that
// timeline is known.
func (h Holdings) branch() postgres.TimelineHistory {
	if history, ok := h.Histories[h.Timeline]; ok {
		return history
	}
	return postgres.RootHistory(h.Timeline)
}

// Left is where the histories leave a timeline first: what a follower has of it behind
// that may be another server's WAL, or none (R2).
func (h Holdings) Left(tli postgres.TimelineID) postgres.LSN {
	left := ^postgres.LSN(0)
	for _, history := range h.Histories {
		if at, ok := history.SwitchOf(tli); ok {
			left = min(left, at)
		}
	}
	return left
}

// Offers are the files that this member may bring to the archive by itself, as far as
// names, histories and positions tell (R2): histories first, then the oldest.
func (h Holdings) Offers() []postgres.WALFile {
	found := slices.Collect(maps.Keys(h.Files))
	return slices.SortedFunc(slices.Values(slices.DeleteFunc(found, func(f postgres.WALFile) bool { return !h.offers(f) })), h.older)
}

func (h Holdings) older(a, b postgres.WALFile) int {
	return cmp.Or(-cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Segment.Number(h.Size), b.Segment.Number(h.Size)),
		cmp.Compare(a.Segment.Timeline, b.Segment.Timeline))
}

func (h Holdings) offers(f postgres.WALFile) bool {
	tli, own := f.Segment.Timeline, h.branch()
	if f.Kind == postgres.WALSegment && h.Left(tli) < f.Segment.End(h.Size) {
		return false
	}
	switch h.State {
	case ServerFollows:
		return own.Descends(tli) && (f.Kind == postgres.WALHistory || f.Segment.End(h.Size) <= h.Reached)
	case ServerLeads:
		return own.Descends(tli) && tli != h.Timeline // that is its archiver's
	}
	return h.Ready[f]
}

// Branch names the segments of the server's own branch that it has gone through, from
// the one that holds a position on.
func (h Holdings) Branch(from postgres.LSN) (found []postgres.WALFile) {
	own := h.branch()
	for s := postgres.SegmentAt(0, from, h.Size); s.End(h.Size) <= h.Reached; s = s.Next(h.Size) {
		found = append(found, postgres.WALFile{Kind: postgres.WALSegment, Segment: s.On(own.TimelineAt(s.End(h.Size) - 1))})
	}
	return found
}

// Frontier is the first segment of the own branch, from a position on, that the archive
// lacks, or the one that is being written. gone are those of it and behind it that are
// not here any more either.
func (h Holdings) Frontier(from postgres.LSN, lacks func(postgres.WALFile) bool) (at postgres.Segment, gone []postgres.Segment) {
	branch := h.Branch(from)
	i := slices.IndexFunc(branch, lacks)
	if i < 0 {
		at := max(from, h.Reached)
		return postgres.SegmentAt(h.branch().TimelineAt(at), at, h.Size), nil
	}
	for _, f := range branch[i:] {
		if h.Files[f] || !lacks(f) {
			break
		}
		gone = append(gone, f.Segment)
	}
	return branch[i].Segment, gone
}

// On tells whether a segment is the server's own branch's, in part at least.
func (h Holdings) On(s postgres.Segment) bool {
	own := h.branch()
	return own.Contains(s.Timeline, s.Start(h.Size)) || own.Contains(s.Timeline, s.End(h.Size)-1)
}

// Forked is where the server's own timeline begins.
func (h Holdings) Forked() postgres.LSN {
	if entries := h.branch().Entries; len(entries) > 0 {
		return entries[len(entries)-1].Switch
	}
	return 0
}
