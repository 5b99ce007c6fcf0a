package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// of is the repository as a member's programs see it, with nothing remembered.
func of(bucket storage.Bucket, member string) *Repository {
	return New(bucket, Location{Scope: "main", System: 77}, Options{Author: member})
}

// resolve decides as the commands do: it looks first.
func resolve(t *testing.T, r *Repository, f postgres.WALFile, sha string) (Resolution, error) {
	t.Helper()
	found, err := r.Conflicting(t.Context(), f.String())
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return r.Resolve(t.Context(), found[0], word(sha))
}

var decidedAt = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func word(sha string) Resolution {
	return Resolution{SHA256: sha, By: "me", Reason: "n1 is the one", At: decidedAt}
}

// dispute stores one content of n1 and keeps another one of n2.
func dispute(t *testing.T, bucket storage.Bucket, name string) (file postgres.WALFile, stored, kept *ConflictError) {
	t.Helper()
	file = segmentFile(t, name)
	var facts [2]*postgres.SegmentFacts
	var body [2][]byte
	body[0], facts[0] = segment(5000, 'a', 0)
	body[1], facts[1] = segment(6000, 'b', 0)
	if file.Kind == postgres.WALHistory {
		facts = [2]*postgres.SegmentFacts{}
	}
	if _, err := of(bucket, "n1").PutWAL(t.Context(), file, body[0], facts[0]); err != nil {
		t.Fatal(err)
	}
	_, err := of(bucket, "n2").PutWAL(t.Context(), file, body[1], facts[1])
	kept, ok := errors.AsType[*ConflictError](err)
	if !ok {
		t.Fatal(err)
	}
	return file, &ConflictError{Ours: kept.Stored}, kept
}

func TestConflicting(t *testing.T) {
	bucket := mem.New()
	f, stored, kept := dispute(t, bucket, "000000010000000000000005")
	dispute(t, bucket, "00000002.history")
	if err := bucket.Put(t.Context(), of(bucket, "").keys.conflicts()+"note.txt", []byte("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	all, err := of(bucket, "").Conflicting(t.Context(), "")
	if err != nil || len(all) != 2 || all[1].File.String() != "00000002.history" {
		t.Fatalf("%+v %v", all, err)
	}
	one, err := of(bucket, "").Conflicting(t.Context(), f.String())
	if err != nil || len(one) != 1 {
		t.Fatalf("%+v %v", one, err)
	}
	text := func(c Conflict) (lines []string) {
		for _, k := range c.Contents {
			at := "-"
			if k.DiffersAt != nil {
				at = fmt.Sprint(*k.DiffersAt)
			}
			lines = append(lines, fmt.Sprintf("%v %.8s %s %d %v %d %v %s", k.Stored, k.SHA256, k.Author, k.Size, k.Facts.Walked, k.Facts.ValidEnd, !k.Archived.IsZero(), at))
		}
		return lines
	}
	want := fmt.Sprintf("true %.8s n1 1048576 true 5000 true -\nfalse %.8s n2 1048576 true 6000 true ", stored.Ours.SHA256, kept.Ours.SHA256)
	if got := strings.Join(text(one[0]), "\n"); got != want+"-" {
		t.Errorf("%s\nwant\n%s-", got, want)
	}
	if err := of(bucket, "").Compare(t.Context(), one[0]); err != nil || strings.Join(text(one[0]), "\n") != want+"0" {
		t.Errorf("%s\nwant\n%s0 (%v)", strings.Join(text(one[0]), "\n"), want, err)
	}
	if none, err := of(bucket, "").Conflicting(t.Context(), "00000003.history"); err != nil || len(none) != 0 {
		t.Errorf("%+v %v", none, err)
	}
	// A content that nobody can read is shown as such; a store that gives trouble is none.
	if err := bucket.Put(t.Context(), kept.Kept, []byte("torn"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if one, err = of(bucket, "").Conflicting(t.Context(), f.String()); err != nil || one[0].Contents[1].Problem == "" || one[0].Contents[0].Problem != "" {
		t.Errorf("%+v %v", one, err)
	}
	if _, err := of(faulty.New(bucket, faulty.On("get", faulty.From(1, faulty.ErrInjected))), "").Conflicting(t.Context(), ""); !errors.Is(err, faulty.ErrInjected) {
		t.Error(err)
	}
}

func TestResolve(t *testing.T) {
	bucket := mem.New()
	f, stored, kept := dispute(t, bucket, "000000010000000000000005")
	r := of(bucket, "")
	if _, err := r.StatWAL(t.Context(), f); err != nil { // it knows of no decision now
		t.Fatal(err)
	}
	if _, err := resolve(t, r, f, "abc"); !errors.Is(err, storage.ErrNotExist) {
		t.Error(err)
	}
	// Who has looked before is not faster than who decides.
	early, err := r.Conflicting(t.Context(), f.String())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // once more is the same
		got, err := resolve(t, r, f, kept.Ours.SHA256)
		if err != nil || got.By != "me" || !got.At.Equal(decidedAt) || got.SHA256 != kept.Ours.SHA256 {
			t.Fatalf("%+v %v", got, err)
		}
	}
	if o, err := r.StatWAL(t.Context(), f); err != nil || o.SHA256 != kept.Ours.SHA256 {
		t.Errorf("%s %v: who decides follows at once", o.SHA256, err)
	}
	later := word(stored.Ours.SHA256)
	later.By = "you"
	now, err := r.Conflicting(t.Context(), f.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Conflict{early[0], now[0]} {
		was, err := r.Resolve(t.Context(), c, later)
		want := fmt.Sprintf("000000010000000000000005: sha256 %.12s counts, by me at 2026-11-28T12:00:00Z (n1 is the one): a decision is for ever, readers have followed it", kept.Ours.SHA256)
		if !errors.Is(err, ErrDecided) || err.Error() != want || was.By != "me" {
			t.Errorf("%+v %v, want %s", was, err, want)
		}
	}
	if open, _, err := of(bucket, "").Conflicts(t.Context()); err != nil || len(open) != 0 {
		t.Errorf("%v %v", open, err)
	}
	// The refused push says so, and the content that it keeps once more is no third one.
	body, facts := segment(5000, 'a', 0)
	_, err = of(bucket, "n1").PutWAL(t.Context(), f, body, facts)
	conflict, ok := errors.AsType[*ConflictError](err)
	if !ok || !strings.HasPrefix(conflict.Hint(), fmt.Sprintf("it is decided, sha256 %.12s counts, by me", kept.Ours.SHA256)) {
		t.Error(err)
	}
	all, err := r.Conflicting(t.Context(), "")
	if err != nil || len(all) != 1 || len(all[0].Contents) != 2 || all[0].Resolution == nil || all[0].Resolution.Reason != "n1 is the one" {
		t.Errorf("%+v %v", all, err)
	}
}

// Of a history only the stored content can be chosen.
func TestResolveHistory(t *testing.T) {
	bucket := mem.New()
	f, stored, kept := dispute(t, bucket, "00000002.history")
	r := of(bucket, "")
	if _, err := resolve(t, r, f, kept.Ours.SHA256); !errors.Is(err, ErrHistory) {
		t.Error(err)
	}
	if _, err := resolve(t, r, f, stored.Ours.SHA256); err != nil {
		t.Error(err)
	}
}

// What cannot be read whole is never declared to count; what was declared and is gone
// is never replaced by the other one.
func TestResolveDamage(t *testing.T) {
	bucket := mem.New()
	f, _, kept := dispute(t, bucket, "000000010000000000000005")
	whole, err := storage.ReadAll(t.Context(), bucket, kept.Kept, 1<<20)
	if err == nil {
		err = bucket.Put(t.Context(), kept.Kept, whole[:len(whole)-10], storage.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(t, of(bucket, ""), f, kept.Ours.SHA256); err == nil {
		t.Error("half a segment was declared to count")
	}
	if err := bucket.Put(t.Context(), kept.Kept, whole, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(t, of(bucket, ""), f, kept.Ours.SHA256); err != nil {
		t.Fatal(err)
	}
	if err := bucket.Delete(t.Context(), kept.Kept); err != nil {
		t.Fatal(err)
	}
	_, statErr := of(bucket, "").StatWAL(t.Context(), f)
	_, getErr := of(bucket, "").GetWAL(t.Context(), f, io.Discard)
	body, facts := segment(5000, 'a', 0)
	_, putErr := of(bucket, "n1").PutWAL(t.Context(), f, body, facts)
	for _, err := range []error{statErr, getErr, putErr} {
		if !errors.Is(err, codec.ErrCorrupt) || !strings.Contains(err.Error(), "it was decided that") {
			t.Errorf("the other content was taken: %v", err)
		}
	}
}

// A process that has looked at the decisions a moment ago acknowledges nothing by that.
func TestPutAsksForTheDecision(t *testing.T) {
	bucket := mem.New()
	f, _, kept := dispute(t, bucket, "000000010000000000000005")
	before := of(bucket, "n1")
	body, facts := segment(5000, 'a', 0)
	if outcome, err := before.PutWAL(t.Context(), f, body, facts); err != nil || outcome != Already {
		t.Fatal(outcome, err)
	}
	if _, err := before.StatWAL(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(t, of(bucket, ""), f, kept.Ours.SHA256); err != nil {
		t.Fatal(err)
	}
	if outcome, err := before.PutWAL(t.Context(), f, body, facts); err == nil {
		t.Errorf("%s, though the other content counts", outcome)
	}
	rightful, rightFacts := segment(6000, 'b', 'x')
	if outcome, err := before.PutWAL(t.Context(), f, rightful, rightFacts); err != nil || outcome != Already {
		t.Errorf("%s %v", outcome, err)
	}
}

// Two who decide at the same moment: one is followed, the other is told.
func TestResolveAtOnce(t *testing.T) {
	for range 20 {
		bucket := mem.New()
		f, stored, kept := dispute(t, bucket, "000000010000000000000005")
		var wait sync.WaitGroup
		shas := []string{stored.Ours.SHA256, kept.Ours.SHA256}
		said, errs := make([]Resolution, 10), make([]error, 10)
		found, err := of(bucket, "").Conflicting(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			wait.Go(func() { said[i], errs[i] = of(bucket, "").Resolve(t.Context(), found[0], word(shas[i%2])) })
		}
		wait.Wait()
		o, err := of(bucket, "").StatWAL(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if (errs[i] == nil) != (shas[i%2] == o.SHA256) || said[i].SHA256 != o.SHA256 {
				t.Errorf("%d: %.8s, %v; %.8s counts", i, said[i].SHA256, errs[i], o.SHA256)
			}
		}
	}
}

// One name, two contents, a hundred pushes at once.
func TestConflictAtOnce(t *testing.T) {
	for name, bucket := range map[string]storage.Bucket{"memory": mem.New(), "directory": file.New(t.TempDir())} {
		t.Run(name, func(t *testing.T) { ConflictAtOnce(t, bucket) })
	}
}

func ConflictAtOnce(t *testing.T, bucket storage.Bucket) {
	f := segmentFile(t, "000000010000000000000005")
	bodies, facts := [2][]byte{}, [2]*postgres.SegmentFacts{}
	bodies[0], facts[0] = segment(5000, 'a', 0)
	bodies[1], facts[1] = segment(6000, 'b', 0)
	var wait sync.WaitGroup
	outcomes, errs := make([]PutOutcome, 100), make([]error, 100)
	begin := make(chan struct{})
	for i := range 100 {
		wait.Go(func() {
			<-begin
			outcomes[i], errs[i] = of(bucket, fmt.Sprintf("n%d", i%2)).PutWAL(t.Context(), f, bodies[i%2], facts[i%2])
		})
	}
	close(begin)
	wait.Wait()
	judgeConflict(t.Context(), t, bucket, f, bodies, outcomes, errs)
}

func judgeConflict(ctx context.Context, t *testing.T, bucket storage.Bucket, f postgres.WALFile, bodies [2][]byte, outcomes []PutOutcome, errs []error) {
	r := of(bucket, "")
	var got bytes.Buffer
	if _, err := r.GetWAL(ctx, f, &got); err != nil {
		t.Fatal(err)
	}
	winner := 0
	if bytes.Equal(got.Bytes(), bodies[1]) {
		winner = 1
	}
	if !bytes.Equal(got.Bytes(), bodies[winner]) {
		t.Fatal("the stored content is neither")
	}
	stored := 0
	for i := range errs {
		_, conflict := errors.AsType[*ConflictError](errs[i])
		if i%2 == winner && errs[i] != nil || i%2 != winner && !conflict {
			t.Errorf("push %d, winner %d: %s, %v", i, winner, outcomes[i], errs[i])
		}
		if outcomes[i] == Stored {
			stored++
		}
	}
	if stored != 1 {
		t.Errorf("%d pushes stored it", stored)
	}
	all, err := r.Conflicting(ctx, f.String())
	if err != nil || len(all) != 1 || len(all[0].Contents) != 2 || all[0].Contents[0].Author != fmt.Sprintf("n%d", winner) || all[0].Contents[1].Author != fmt.Sprintf("n%d", 1-winner) {
		t.Fatalf("%+v %v", all, err)
	}
	got.Reset()
	if _, err := r.getWAL(ctx, all[0].Contents[1].key, f, &got); err != nil || !bytes.Equal(got.Bytes(), bodies[1-winner]) {
		t.Errorf("the other content is not kept whole: %v", err)
	}
}
