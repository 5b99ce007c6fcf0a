package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/living"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/wal"
)

// Keep is what this member keeps for the archive, and brings to it: ADR 0009.
type Keep struct {
	Slot     string           `json:"slot,omitempty"`    // the temporary slot that is held
	Frontier postgres.Segment `json:"frontier,omitzero"` // all of this branch below it is archived
	Bytes    int64            `json:"bytes"`             // of this branch behind it
	Problem  string           `json:"problem,omitempty"` // why WAL may be recycled before it is archived
	Filled   int              `json:"filled_files"`      // since the start of the daemon
}

// keeper keeps the WAL of a standby until it is archived (R13), and finds what the
// archive lacks and this member has (R2).
type keeper struct {
	dsn, pgdata, state string
	session            *server.Server
	slot               string // its name; "": none is held
	retry              time.Time
	refused            string
	stock              wal.Stock
	system             postgres.SystemIdentifier // whose stock it is
	frontier           wal.Frontier
	broken             string       // what is neither in the archive nor here
	until              postgres.LSN // where the server was when that was found
	since              map[postgres.WALFile]time.Time
	work               chan []postgres.WALFile
	shown              Keep
}

const (
	keepTimeout = 15 * time.Second
	askTimeout  = 4 * time.Second // of a round, the rest of which must not wait for the store
	keepRetry   = 30 * time.Second
)

// keepEvery is how often a round is made.
func keepEvery(fillAfter time.Duration) time.Duration {
	if fillAfter == 0 {
		return 10 * time.Second
	}
	return min(max(fillAfter/3, 2*time.Second), 10*time.Second)
}

func (k *keeper) close() {
	if k.session != nil {
		k.session.Close()
	}
	k.session, k.slot = nil, ""
}

// keepRounds makes rounds until ctx ends, not rarer while the store does not answer: the
// disk goes on filling.
func (s *service) keepRounds(ctx context.Context, k *keeper) {
	for {
		bounded, cancel := context.WithTimeout(ctx, keepTimeout)
		s.keepRound(bounded, k, time.Now())
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-time.After(keepEvery(s.settings().Archive.FillAfter)):
		}
	}
}

// keepRound looks at this member's WAL and at the archive, holds the slot, and hands
// over what is to be filled.
func (s *service) keepRound(ctx context.Context, k *keeper, now time.Time) {
	a := s.settings().Archive
	h, err := k.look(ctx)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if errors.Is(err, fs.ErrNotExist) { // there is no data directory yet
			s.keep = nil
			return
		}
		s.log.Debug("the WAL here cannot be looked at", "error", err)
		if s.keep != nil { // the slot ended with the session
			shown := *s.keep
			shown.Slot, shown.Problem = k.slot, "the server does not say where it stands: "+err.Error()
			s.keep = &shown
		}
		return
	}
	keeps := h.State == wal.ServerFollows || k.slot != ""
	wanted := h.Offers()
	if a.FillAfter == 0 {
		wanted = nil
	}
	fill := len(wanted)
	if keeps {
		k.settle(h)
		if k.slot == "" { // before the store is asked: its silence takes seconds, a restartpoint none
			s.hold(ctx, k, h, nil, a, now)
		}
		wanted = append(wanted, h.Branch(k.frontier.Segment.Start(h.Size))...)
	}
	lacks, unasked := s.lacks(ctx, k, h.System, wanted)
	if unasked != nil {
		s.log.Debug("the archive does not say what it lacks", "error", unasked)
	} else {
		k.offer(k.due(wanted[:fill], lacks, now, a.FillAfter))
	}
	if keeps {
		var gone []postgres.Segment
		if unasked == nil {
			gone = k.advance(h, lacks, now)
		}
		s.hold(ctx, k, h, gone, a, now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k.shown.Filled = s.counts.filled
	s.keep = nil
	if keeps {
		shown := k.shown
		s.keep = &shown
	}
}

// look asks the server first: what it has gone through is then in the directory, or gone.
func (k *keeper) look(ctx context.Context) (h wal.Holdings, err error) {
	var stand server.Stand
	if k.session == nil {
		k.session, err = server.Connect(ctx, k.dsn)
	}
	if err == nil {
		stand, err = k.session.Stand(ctx)
	}
	if err != nil {
		k.close()
		if slices.ContainsFunc(living.Servers("/proc"), func(l living.Server) bool { return l.PGDATA == living.Resolve(k.pgdata) }) {
			return h, err // it is alive, and only does not talk to us
		}
	}
	down := err != nil
	if h, err = wal.ReadHoldings(k.pgdata); err == nil && !down {
		h.Timeline, h.Reached, h.State = stand.Timeline, stand.LSN, wal.ServerLeads
		if stand.InRecovery {
			h.State = wal.ServerFollows
		}
	}
	return h, err
}

func (s *service) lacks(ctx context.Context, k *keeper, system postgres.SystemIdentifier, wanted []postgres.WALFile) (map[postgres.WALFile]bool, error) {
	s.mu.Lock()
	open, seen, of := s.opener, s.survey.Archive, s.survey.Info.SystemIdentifier
	s.mu.Unlock()
	if of != system { // another cluster's files have the same names
		seen = catalog.Archive{}
	}
	if k.system != system {
		k.stock, k.system = wal.Stock{}, system
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return k.stock.Lacks(ctx, open(system), slices.DeleteFunc(slices.Clone(wanted), func(f postgres.WALFile) bool { return settled(seen, f) }))
}

// settle makes the frontier one of the server's own branch: what was written down last
// time, or where the last restartpoint began.
func (k *keeper) settle(h wal.Holdings) {
	if k.frontier.System == 0 {
		k.frontier, _ = wal.ReadFrontier(k.state)
	}
	if s := k.frontier.Segment; k.frontier.System != h.System || !h.On(s) || s.Start(h.Size) > h.Reached {
		at, _ := h.Frontier(min(h.Redo, h.Reached), func(postgres.WALFile) bool { return true })
		k.frontier = wal.Frontier{System: h.System, Segment: at}
	}
}

// advance moves the frontier by what the archive has got. gone is what it lacks of the
// branch and nobody can bring it from here.
func (k *keeper) advance(h wal.Holdings, lacks map[postgres.WALFile]bool, now time.Time) (gone []postgres.Segment) {
	if h.State == wal.ServerFollows && h.Left(h.Timeline) < h.Reached {
		// A server that follows without streaming names the timeline of its last restartpoint,
		// which it may have left: whose the segments behind the fork are is not known now.
		k.shown.Frontier = k.frontier.Segment
		return nil
	}
	missing := func(f postgres.WALFile) bool { return lacks[f] }
	at, gone := h.Frontier(k.frontier.Segment.Start(h.Size), missing)
	if len(gone) > 0 {
		at, _ = h.Frontier(gone[len(gone)-1].End(h.Size), missing)
	}
	if at != k.frontier.Segment || k.frontier.At.IsZero() {
		k.frontier = wal.Frontier{System: h.System, Segment: at, At: now}
		_ = k.frontier.Write(k.state) // else a promotion asks the archive, or takes the newest
	}
	k.shown.Frontier = at
	return gone
}

// plan is what a round does with the slot: whether one is to be held, from where on it
// keeps WAL, and why that is less than it should be.
type plan struct {
	hold     bool
	from     postgres.LSN
	exceeded bool
	why      string // none is held
}

// planKeep decides. Beyond the cap PostgreSQL goes before the archive.
func planKeep(h wal.Holdings, held bool, frontier postgres.LSN, free int64, a config.Archive) (p plan) {
	limit := postgres.LSN(a.KeepOnStandby)
	switch {
	case limit == 0:
		return plan{why: "archive.keep_on_standby is 0"}
	case free < int64(a.FullBelow):
		return plan{why: fmt.Sprintf("pg_wal has %d bytes free, less than archive.full_below", free)}
	case h.State != wal.ServerFollows && (!held || frontier >= postgres.SegmentAt(0, h.Forked(), h.Size).Start(h.Size)):
		return plan{why: "all below the fork of its timeline is archived"}
	}
	p = plan{hold: true, from: frontier}
	if p.exceeded = h.Reached > frontier+limit; p.exceeded {
		p.from = postgres.SegmentAt(0, h.Reached-limit, h.Size).Start(h.Size) + postgres.LSN(h.Size)
	}
	return p
}

// hold makes, advances or drops the slot, and says what has changed.
func (s *service) hold(ctx context.Context, k *keeper, h wal.Holdings, gone []postgres.Segment, a config.Archive, now time.Time) {
	frontier := k.frontier.Segment.Start(h.Size)
	p := planKeep(h, k.slot != "", frontier, free(h.Dir), a)
	k.shown.Bytes = int64(h.Reached - min(h.Reached, frontier))
	before := k.shown.Problem
	switch {
	case !p.hold && k.slot != "":
		_ = k.session.DropSlot(ctx, k.slot) // the end of the session does it too
		if h.State == wal.ServerFollows {
			s.event(slog.LevelError, "keep.released", "the slot is dropped, WAL is recycled whether archived or not", "slot", k.slot, "why", p.why)
		} else {
			s.event(slog.LevelInfo, "keep.ended", "the slot is dropped, the server is no standby any more", "slot", k.slot, "why", p.why)
		}
		k.close()
	case p.hold && k.slot == "" && now.After(k.retry):
		k.create(ctx, s, now)
	}
	if p.hold && k.slot != "" {
		if err := k.session.KeepFrom(ctx, k.slot, p.from); err != nil {
			s.log.Warn("the slot is gone, a new one is made", "slot", k.slot, "error", err)
			k.refused = err.Error()
			k.close()
		}
	}
	if len(gone) > 0 {
		k.broken = fmt.Sprintf("%s to %s are neither archived nor here any more", gone[0], gone[len(gone)-1])
		k.until = h.Reached
	} else if frontier >= postgres.SegmentAt(0, k.until, h.Size).Start(h.Size) {
		k.broken = ""
	}
	k.shown.Slot, k.shown.Problem = k.slot, ""
	switch {
	case a.KeepOnStandby == 0 || h.State != wal.ServerFollows && !p.hold:
		return
	case !p.hold:
		k.shown.Problem = p.why
	case k.broken != "":
		k.shown.Problem = k.broken
		if len(gone) > 0 {
			s.event(slog.LevelError, "keep.broken", "WAL that is not archived was recycled here", "first", gone[0], "last", gone[len(gone)-1], "files", len(gone))
		}
	case p.exceeded:
		k.shown.Problem = fmt.Sprintf("more than archive.keep_on_standby is not archived: what is before %s is recycled", p.from)
		if !strings.HasPrefix(before, "more than ") {
			s.event(slog.LevelError, "keep.exceeded", "more WAL is not archived than may be kept, the oldest is recycled", "frontier", k.frontier.Segment, "bytes", k.shown.Bytes, "limit", int64(a.KeepOnStandby))
		}
	case k.slot == "":
		k.shown.Problem = "no slot: " + k.refused
	case before != "":
		s.event(slog.LevelInfo, "keep.whole", "all WAL that is not archived is kept again", "frontier", k.frontier.Segment)
	}
}

// create makes a slot. What refuses one is said once.
func (k *keeper) create(ctx context.Context, s *service, now time.Time) {
	if k.session == nil {
		return // the next round connects
	}
	name := "pgha_keep_" + strings.ToLower(rand.Text()[:12])
	_, err := k.session.CreateKeepSlot(ctx, name)
	if err == nil {
		k.slot, k.refused = name, ""
		return
	}
	k.retry = now.Add(keepRetry)
	if err.Error() != k.refused {
		k.refused = err.Error()
		s.event(slog.LevelWarn, "keep.refused", "no slot keeps the WAL of this standby", "error", err, "hint", s.hintOf(err))
	}
}

// free are the bytes that a user may still write beside a file.
func free(dir string) int64 {
	var fsys syscall.Statfs_t
	if syscall.Statfs(dir, &fsys) != nil {
		return 0
	}
	return int64(fsys.Bavail) * fsys.Bsize
}
