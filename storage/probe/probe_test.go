package probe_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/storage/mem"
	"github.com/pgha-backup/pgha-backup/storage/probe"
)

// bad is a store with one vice.
type bad struct {
	*mem.Bucket
	vice string
}

func (b bad) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	if b.vice == conditionalPut {
		opts.IfAbsent = false
	}
	return b.Bucket.Put(ctx, key, body, opts)
}

func (b bad) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	if b.vice == conditionalUpload {
		opts.IfAbsent = false
	}
	return b.Bucket.Begin(ctx, key, opts)
}

func (b bad) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	if b.vice == "ranged get" && span != storage.Whole {
		span.Offset = 0
	}
	r, err := b.Bucket.Get(ctx, key, span)
	if err == nil && b.vice == "put and get" && strings.HasSuffix(string(key), "/object") {
		r = faulty.Flip(100).Body(r)
	}
	if err == nil && b.vice == "multipart upload" && strings.HasSuffix(string(key), "/parts") {
		r = faulty.Flip(storage.MinPart).Body(r)
	}
	return r, err
}

func (b bad) Head(ctx context.Context, key storage.Key) (storage.Object, error) {
	if b.vice == "missing key" {
		return storage.Object{Key: key}, nil
	}
	return b.Bucket.Head(ctx, key)
}

func (b bad) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	if b.vice != "list after put" {
		return b.Bucket.List(ctx, prefix, after)
	}
	return func(yield func(storage.Object, error) bool) {
		for o, err := range b.Bucket.List(ctx, prefix, after) {
			if !strings.HasSuffix(string(o.Key), "a.b") && !yield(o, err) {
				return
			}
		}
	}
}

func (b bad) Delete(ctx context.Context, key storage.Key) error {
	if b.vice == "delete" && strings.HasSuffix(string(key), "/deleted") {
		return nil
	}
	return b.Bucket.Delete(ctx, key)
}

const (
	conditionalPut    = "conditional put"
	conditionalUpload = "conditional multipart upload"
)

// able says whether the store can do everything.
func able(r probe.Report) bool {
	return !slices.ContainsFunc(r.Findings, func(f probe.Finding) bool { return !f.OK })
}

func TestGoodStore(t *testing.T) {
	b := mem.New()
	r, err := probe.Probe(t.Context(), b, &mem.Bucket{})
	if err != nil || !able(r) || !r.ConditionalWrites || len(r.Findings) != 10 {
		t.Fatalf("%+v, %v", r, err)
	}
	for o := range b.List(t.Context(), "", "") {
		t.Errorf("the probe left %s", o.Key)
	}
}

func TestEveryVice(t *testing.T) {
	for _, vice := range []string{
		conditionalPut, conditionalUpload, "ranged get", "put and get", "multipart upload",
		"missing key", "list after put", "delete",
	} {
		t.Run(vice, func(t *testing.T) {
			r, err := probe.Probe(t.Context(), bad{mem.New(), vice}, nil)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range r.Findings {
				if f.Name == vice {
					found = !f.OK && f.Detail != "" && f.Hint != ""
				}
			}
			if !found || able(r) {
				t.Errorf("the probe did not find it: %+v", r.Findings)
			}
			if conditional := vice == conditionalPut || vice == conditionalUpload; r.ConditionalWrites == conditional {
				t.Errorf("conditional writes: %v", r.ConditionalWrites)
			}
		})
	}
	// A missing bucket that reads as an empty one.
	r, err := probe.Probe(t.Context(), mem.New(), mem.New())
	if err != nil || able(r) {
		t.Errorf("a missing bucket that looks empty: %+v, %v", r.Findings, err)
	}
}

func TestTroubleIsNoFinding(t *testing.T) {
	for _, trouble := range []error{storage.ErrDenied, storage.ErrNoBucket, errors.New("other")} {
		b := faulty.New(mem.New(), faulty.From(1, trouble))
		if _, err := probe.Probe(t.Context(), b, nil); !errors.Is(err, trouble) {
			t.Errorf("got %v, want %v", err, trouble)
		}
	}
}
