package daemon

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// rightful is the sha256 of the content that the leader's daemon may say counts
// (R4), or why a person must decide. me is this daemon's member. A decision is for
// ever, so whatever is in doubt is left to a person.
func rightful(c catalog.Conflict, t cluster.Topology, me string) (sha, why string) {
	leader, _ := t.Member(t.Leader)
	switch {
	case c.Resolution != nil || c.Problem != "":
		return "", "there is a decision"
	case c.File.Kind == postgres.WALHistory:
		return "", "two servers made the same timeline: switch over"
	case t.Leader == "":
		return "", "nobody leads"
	case t.Leader != me:
		return "", "the leader is " + t.Leader
	case t.Paused:
		return "", "Patroni is paused"
	case leader.Role != cluster.Primary:
		return "", me + " is no primary"
	case leader.Timeline != c.File.Segment.Timeline: // what it wrote there was in another life
		return "", fmt.Sprintf("%s writes timeline %d now", me, uint32(leader.Timeline))
	}
	mine := slices.IndexFunc(c.Contents, func(k catalog.Content) bool { return k.Author == me })
	if mine < 0 {
		return "", me + " wrote none of them"
	}
	others := 0
	for _, k := range c.Contents {
		_, member := t.Member(k.Author)
		switch {
		case k.Problem != "":
			return "", "one cannot be read: " + k.Problem
		case k.Same(c.Contents[mine].WALObject):
			continue
		case k.Author == me:
			return "", me + " wrote both"
		case k.Author == "":
			return "", fmt.Sprintf("nobody knows who wrote %.12s", k.SHA256)
		case member:
			return "", k.Author + " is still a member"
		}
		others++
	}
	if others == 0 {
		return "", "there is no other one"
	}
	return c.Contents[mine].SHA256, ""
}

// lookAtConflicts tells of conflicts that are new, and ends those that the leader's
// daemon may end.
func (s *service) lookAtConflicts(ctx context.Context, undecided []string) {
	for _, name := range undecided {
		t, _, unseen := s.view.now()
		if s.told[name] && (unseen != nil || t.Leader != s.me.Member || s.single()) {
			continue
		}
		if err := s.lookAtConflict(ctx, name); err != nil {
			s.event(slog.LevelWarn, "conflict.failed", "a conflict over a WAL file could not be looked at or ended", "file", name, "error", err)
		}
	}
}

func (s *service) lookAtConflict(ctx context.Context, name string) error {
	repository, err := s.repository()
	if err != nil {
		return err
	}
	found, err := repository.Conflicting(ctx, name)
	if err != nil || len(found) == 0 {
		return err
	}
	t, _, err := s.view.now()
	sha, why := rightful(found[0], t, s.me.Member)
	if s.single() {
		sha, why = "", "this daemon agrees with nobody"
	} else if err != nil {
		sha, why = "", err.Error()
	}
	if !s.told[name] {
		s.told[name] = true
		s.event(slog.LevelError, "conflict.found", "two contents of one WAL file", "file", name, "contents", sides(found[0]), "undecided", why)
	}
	if sha == "" {
		return nil
	}
	word := catalog.Resolution{SHA256: sha, By: "daemon of " + s.me.Member, At: time.Now().UTC().Truncate(time.Second),
		Reason: "the leader wrote it, and who wrote the other one is no longer a member"}
	if _, err := repository.Resolve(ctx, found[0], word); err != nil {
		return err
	}
	s.event(slog.LevelWarn, "conflict.resolved", "the content of the leader counts", "file", name, "sha256", sha, "contents", sides(found[0]))
	s.surveyAgain()
	return nil
}

// sides are the contents and who wrote them.
func sides(c catalog.Conflict) (all []string) {
	for _, k := range c.Contents {
		all = append(all, fmt.Sprintf("%.12s of %s", k.SHA256, cmp.Or(k.Author, "?")))
	}
	return all
}
