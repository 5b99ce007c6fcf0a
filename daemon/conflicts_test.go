package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// disputed keeps contents of one file, each pushed by an author: of the same letter
// is the same WAL with another tail.
func disputed(t *testing.T, bucket storage.Bucket, name string, pushed ...string) catalog.Conflict {
	t.Helper()
	file, err := postgres.ParseWALFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pushed {
		letter, author, _ := strings.Cut(p, " ")
		body := append(bytes.Repeat([]byte(letter), 1000), byte(i))
		facts := &postgres.SegmentFacts{Walked: true, ValidEnd: 1000}
		if file.Kind == postgres.WALHistory {
			facts = nil
		}
		_, err := catalog.New(bucket, catalog.Location{Scope: "main", System: 7}, catalog.Options{Author: author}).PutWAL(t.Context(), file, body, facts)
		if _, conflict := errors.AsType[*catalog.ConflictError](err); err != nil && !conflict {
			t.Fatal(err)
		}
	}
	found, err := catalog.New(bucket, catalog.Location{Scope: "main", System: 7}, catalog.Options{}).Conflicting(t.Context(), name)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}

func TestRightful(t *testing.T) {
	const segment = "000000010000000000000005"
	change := func(f func(t *cluster.Topology)) cluster.Topology {
		t := three()
		t.Members = slices.Clone(t.Members)
		f(&t)
		return t
	}
	for _, c := range []struct {
		what   string
		file   string
		pushed []string
		t      cluster.Topology
		me     string
		want   string // the letter of the content that counts, or why a person must decide
	}{
		{"stored by the leader", segment, []string{"a n1", "b n9"}, three(), "n1", "a"},
		{"stored by one that is gone", segment, []string{"b n9", "a n1"}, three(), "n1", "a"},
		{"two that are gone", segment, []string{"b n9", "a n1", "c n8"}, three(), "n1", "a"},
		{"a partial segment", segment + ".partial", []string{"b n9", "a n1"}, three(), "n1", "a"},
		{"the other one is a member", segment, []string{"b n2", "a n1"}, three(), "n1", "n2 is still a member"},
		{"one of the others is a member", segment, []string{"b n9", "a n1", "c n2"}, three(), "n1", "n2 is still a member"},
		{"a member that is not the leader", segment, []string{"b n9", "a n2"}, three(), "n1", "n1 wrote none of them"},
		{"nobody knows whose", segment, []string{"b ", "a n1"}, three(), "n1", "nobody knows who wrote "},
		{"none is known", segment, []string{"b ", "a "}, three(), "n1", "n1 wrote none of them"},
		{"both of the leader", segment, []string{"b n1", "a n1"}, three(), "n1", "n1 wrote both"},
		{"not the leader's daemon", segment, []string{"b n9", "a n1"}, three(), "n2", "the leader is n1"},
		{"its own, and not the leader", segment, []string{"b n9", "a n2"}, three(), "n2", "the leader is n1"},
		{"nobody leads", segment, []string{"b n9", "a n1"}, change(func(t *cluster.Topology) { t.Leader = "" }), "n1", "nobody leads"},
		{"paused", segment, []string{"b n9", "a n1"}, change(func(t *cluster.Topology) { t.Paused = true }), "n1", "Patroni is paused"},
		{"a leader that is no member", segment, []string{"b n9", "a n4"}, change(func(t *cluster.Topology) { t.Leader = "n4" }), "n4", "n4 is no primary"},
		{"a standby cluster", segment, []string{"b n9", "a n1"}, change(func(t *cluster.Topology) { t.Members[0].Role = cluster.StandbyLeader }), "n1", "n1 is no primary"},
		{"another life of the leader", segment, []string{"b n9", "a n1"}, change(func(t *cluster.Topology) { t.Members[0].Timeline = 3 }), "n1", "n1 writes timeline 3 now"},
		{"the timeline is not known", segment, []string{"b n9", "a n1"}, change(func(t *cluster.Topology) { t.Members[0].Timeline = 0 }), "n1", "n1 writes timeline 0 now"},
		{"a history", "00000001.history", []string{"b n9", "a n1"}, three(), "n1", "two servers made the same timeline: switch over"},
	} {
		conflict := disputed(t, mem.New(), c.file, c.pushed...)
		want, why := "", c.want
		if len(c.want) == 1 {
			why = ""
			i := slices.IndexFunc(c.pushed, func(p string) bool { return strings.HasPrefix(p, c.want) })
			want = conflict.Contents[slices.IndexFunc(conflict.Contents, func(k catalog.Content) bool { return k.Author == strings.Fields(c.pushed[i])[1] })].SHA256
		}
		sha, because := rightful(conflict, c.t, c.me)
		if sha != want || !strings.HasPrefix(because, why) || (because == "") != (why == "") {
			t.Errorf("%s: %.12s %q, want %.12s %q", c.what, sha, because, want, why)
		}
	}
	// What is decided is decided; what cannot be read is a person's matter.
	conflict := disputed(t, mem.New(), segment, "b n9", "a n1")
	conflict.Resolution = &catalog.Resolution{}
	if sha, why := rightful(conflict, three(), "n1"); sha != "" || why != "there is a decision" {
		t.Error(sha, why)
	}
	conflict.Resolution, conflict.Contents[0].Problem = nil, "torn"
	if sha, why := rightful(conflict, three(), "n1"); sha != "" || why != "one cannot be read: torn" {
		t.Error(sha, why)
	}
}

// heardEvents are the events of conflicts that a service logged.
func heardEvents(t *testing.T, text *bytes.Buffer) (all []string) {
	t.Helper()
	for line := range strings.Lines(text.String()) {
		var e struct{ Event, File, Undecided, Error string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(e.Event, "conflict.") {
			all = append(all, strings.TrimSpace(strings.Join([]string{e.Event, e.File[len(e.File)-2:], e.Undecided, e.Error}, " ")))
		}
	}
	text.Reset()
	return all
}

// The leader's daemon ends what it may after a look at the store; every daemon tells
// of a conflict once.
func TestDaemonEndsConflicts(t *testing.T) {
	bucket := mem.New()
	open := func(id postgres.SystemIdentifier) *catalog.Repository {
		return catalog.New(bucket, catalog.Location{Scope: "main", System: id}, catalog.Options{})
	}
	if _, err := open(7).Create(t.Context(), 1<<20, "required", time.Now()); err != nil {
		t.Fatal(err)
	}
	node := func(member string, single bool) (*service, *bytes.Buffer) {
		s, text := alive(t), new(bytes.Buffer)
		s.log, s.me.Member, s.opener = slog.New(slog.NewJSONHandler(text, nil)), member, open
		if !single {
			s.daemons = func(context.Context) ([]cluster.Daemon, error) { return nil, nil }
		}
		s.see(three(), nil)
		return s, text
	}
	expect := func(s *service, text *bytes.Buffer, undecided int, want ...string) {
		t.Helper()
		s.lookAtStore(t.Context())
		if got := heardEvents(t, text); !slices.Equal(got, want) || len(s.survey.Conflicts) != undecided || s.survey.err != nil {
			t.Errorf("%q, want %q; undecided %q, %v", got, want, s.survey.Conflicts, s.survey.err)
		}
	}
	n1, heard1 := node("n1", false)
	n2, heard2 := node("n2", false)
	alone, heardAlone := node("n1", true)
	expect(n1, heard1, 0)
	disputed(t, bucket, "000000010000000000000005", "b n9", "a n1")
	disputed(t, bucket, "000000010000000000000006", "b n2", "a n1")

	expect(n2, heard2, 2, "conflict.found 05 the leader is n1", "conflict.found 06 the leader is n1")
	expect(n2, heard2, 2)
	expect(alone, heardAlone, 2, "conflict.found 05 this daemon agrees with nobody", "conflict.found 06 this daemon agrees with nobody")
	n1.see(three(), errors.New("etcd: no answer"))
	heard1.Reset()
	expect(n1, heard1, 2, "conflict.found 05 etcd: no answer", "conflict.found 06 etcd: no answer")
	n1.see(three(), nil)
	select {
	case <-n1.again:
	default:
	}
	expect(n1, heard1, 2, "conflict.resolved 05")
	select {
	case <-n1.again: // another look follows at once
	default:
		t.Error("nobody looks again")
	}
	expect(n1, heard1, 1)
	if err := disputedAgain(t, bucket); err != nil {
		t.Errorf("the rightful push: %v", err)
	}
	// n2 leaves the cluster.
	two := three()
	two.Members = slices.DeleteFunc(slices.Clone(two.Members), func(m cluster.Member) bool { return m.Name == "n2" })
	n1.see(two, nil)
	expect(n1, heard1, 1, "conflict.resolved 06")
	expect(n2, heard2, 0)
}

// disputedAgain is n1's next try.
func disputedAgain(t *testing.T, bucket storage.Bucket) error {
	file, _ := postgres.ParseWALFile("000000010000000000000005")
	_, err := catalog.New(bucket, catalog.Location{Scope: "main", System: 7}, catalog.Options{Author: "n1"}).
		PutWAL(t.Context(), file, append(bytes.Repeat([]byte("a"), 1000), 1), &postgres.SegmentFacts{Walked: true, ValidEnd: 1000})
	return err
}
