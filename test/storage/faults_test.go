package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

// proxied is a bucket of a real server behind a proxy.
func proxied(t *testing.T) (*faultproxy.Proxy, *s3.Bucket) {
	t.Helper()
	srv := startVersitygw(t, false)
	srv.makeBucket(t, "bucket")
	p, err := faultproxy.Start(srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	o := srv.options("bucket")
	o.Endpoint = "http://" + p.Addr()
	o.AnswerTimeout = 2 * time.Second
	return p, open(t, o)
}

var once = storage.PutOptions{IfAbsent: true}

func put(t *testing.T, b storage.Bucket, key storage.Key, body []byte) {
	t.Helper()
	if err := b.Put(t.Context(), key, body, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Every answer of a store, and the want of one, in the words of the contract.
func TestAnswers(t *testing.T) {
	p, b := proxied(t)
	put(t, b, "there", []byte("body"))
	ops := map[string]func() error{
		"put":    func() error { return b.Put(t.Context(), "new", []byte("x"), once) },
		"get":    func() error { _, err := storage.ReadAll(t.Context(), b, "there", 10); return err },
		"head":   func() error { _, err := b.Head(t.Context(), "there"); return err },
		"list":   func() error { return listErr(t.Context(), b) },
		"delete": func() error { return b.Delete(t.Context(), "gone") },
		"begin":  func() error { _, err := b.Begin(t.Context(), "new", once); return err },
	}
	for _, c := range []struct {
		name  string
		fault faultproxy.Fault
		kind  error // nil is none of the contract's
		retry bool
		only  string // operations, empty is all
	}{
		{"503", faultproxy.Fault{Status: 503, Code: "SlowDown", After: "7"}, nil, true, ""},
		{"500", faultproxy.Fault{Status: 500, Code: "InternalError"}, nil, true, ""},
		{"502 page", faultproxy.Fault{Status: 502}, nil, true, ""},
		{"403", faultproxy.Fault{Status: 403, Code: "AccessDenied"}, storage.ErrDenied, false, ""},
		{"403 page", faultproxy.Fault{Status: 403}, storage.ErrDenied, false, ""},
		{"404 bucket", faultproxy.Fault{Status: 404, Code: "NoSuchBucket"}, storage.ErrNoBucket, false, "put get list begin delete"},
		{"404 key", faultproxy.Fault{Status: 404, Code: "NoSuchKey"}, storage.ErrNotExist, false, "get"},
		{"409", faultproxy.Fault{Status: 409, Code: "ConditionalRequestConflict"}, nil, true, "put"},
		{"412", faultproxy.Fault{Status: 412, Code: "PreconditionFailed"}, storage.ErrExist, false, "put"},
		{"expired", faultproxy.Fault{Status: 400, Code: "ExpiredToken"}, storage.ErrDenied, false, "put get list"},
		{"skewed", faultproxy.Fault{Status: 403, Code: "RequestTimeTooSkewed"}, nil, true, "put get list"},
		{"400", faultproxy.Fault{Status: 400, Code: "InvalidArgument"}, nil, false, ""},
		{"dropped", faultproxy.Fault{Drop: true}, nil, true, ""},
		{"black hole", faultproxy.Fault{BlackHole: true}, nil, true, "head"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Set(faultproxy.Rule{Fault: c.fault})
			for op, f := range ops {
				if c.only != "" && !contains(c.only, op) {
					continue
				}
				err := f()
				if err == nil || storage.IsRetryable(err) != c.retry || (c.kind != nil && !errors.Is(err, c.kind)) {
					t.Errorf("%s: got %v (retryable %v), want %v, retryable %v", op, err, storage.IsRetryable(err), c.kind, c.retry)
				}
				if c.kind != storage.ErrNotExist && errors.Is(err, storage.ErrNotExist) {
					t.Errorf("%s: trouble reads as absence: %v", op, err)
				}
				if c.fault.After != "" && storage.RetryAfter(err) != 7*time.Second {
					t.Errorf("%s: Retry-After is %s", op, storage.RetryAfter(err))
				}
			}
		})
	}
}

func contains(words, word string) bool {
	return bytes.Contains([]byte(" "+words+" "), []byte(" "+word+" "))
}

func listErr(ctx context.Context, b storage.Bucket) error {
	for _, err := range b.List(ctx, "", "") {
		if err != nil {
			return err
		}
	}
	return nil
}

// A web server in the place of the store never reads as "nothing is there".
func TestNotAStore(t *testing.T) {
	p, b := proxied(t)
	for _, status := range []int{200, 404} {
		p.Set(faultproxy.Rule{Fault: faultproxy.Fault{Status: status}})
		if err := listErr(t.Context(), b); err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("list of HTTP %d: %v", status, err)
		}
		_, herr := b.Head(t.Context(), "a")
		_, gerr := storage.ReadAll(t.Context(), b, "a", 1000)
		for _, err := range []error{herr, gerr} {
			if err == nil || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("HTTP %d: %v", status, err)
			}
		}
	}
}

// The answer of a Complete is lost; the next one finds the upload gone. versitygw
// remembers what it completed, most stores do not: the proxy plays one of those.
func TestLostComplete(t *testing.T) {
	p, b := proxied(t)
	body := storagetest.Random(3, storage.MinPart+100)
	begin := func(key storage.Key) storage.Upload {
		u, err := b.Begin(t.Context(), key, once)
		if err == nil {
			err = u.Part(t.Context(), 1, body[:storage.MinPart])
		}
		if err == nil {
			err = u.Part(t.Context(), 2, body[storage.MinPart:])
		}
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	lose := []faultproxy.Rule{
		{Method: "POST", Match: "uploadId", Times: 1, Fault: faultproxy.Fault{LoseReply: true}},
		{Method: "POST", Match: "uploadId", Fault: faultproxy.Fault{Status: 404, Code: "NoSuchUpload"}},
	}
	u := begin("lost")
	p.Set(lose...)
	if err := u.Complete(t.Context()); !storage.IsRetryable(err) {
		t.Fatalf("lost answer: %v", err)
	}
	if err := u.Complete(t.Context()); err != nil {
		t.Fatalf("again: %v", err)
	}
	if got, err := storage.ReadAll(t.Context(), b, "lost", 10<<20); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// The same, but by then another object of that size stands there.
	u = begin("replaced")
	p.Set(lose...)
	if err := u.Complete(t.Context()); !storage.IsRetryable(err) {
		t.Fatalf("lost answer: %v", err)
	}
	put(t, b, "replaced", make([]byte, len(body)))
	if err := u.Complete(t.Context()); !errors.Is(err, storage.ErrExist) {
		t.Fatalf("got %v, want ErrExist", err)
	}
	// The upload was gone before the first Complete: nothing is ours.
	u = begin("never")
	p.Set(lose[1])
	if err := u.Complete(t.Context()); err == nil || storage.IsRetryable(err) || errors.Is(err, storage.ErrNotExist) {
		t.Fatalf("got %v, want a final error", err)
	}
}

// Bodies that end early are errors, and retry reads on; damaged requests are refused.
func TestBodies(t *testing.T) {
	p, b := proxied(t)
	body := storagetest.Random(4, 1<<20)
	put(t, b, "a", body)
	p.Set(faultproxy.Rule{Method: "GET", Times: 3, Fault: faultproxy.Fault{Truncate: 100_000}})
	r, err := b.Get(t.Context(), "a", storage.Whole)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	r.Close()
	if !errors.Is(err, io.ErrUnexpectedEOF) || !storage.IsRetryable(err) || len(got) >= len(body) {
		t.Errorf("a short body: %d bytes, %v", len(got), err)
	}
	again := retry.New(b, retry.Options{Base: time.Millisecond})
	if got, err := storage.ReadAll(t.Context(), again, "a", 1<<20); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read on: %d bytes, %v", len(got), err)
	}
	p.Set(faultproxy.Rule{Method: "GET", Fault: faultproxy.Fault{Corrupt: 5}})
	if got, err := storage.ReadAll(t.Context(), b, "a", 1<<20); err != nil || bytes.Equal(got, body) {
		t.Errorf("the proxy corrupts nothing: %v", err)
	}
	p.Set(faultproxy.Rule{Method: "PUT", Fault: faultproxy.Fault{CorruptRequest: 7}})
	if err := b.Put(t.Context(), "damaged", body, once); !storage.IsRetryable(err) {
		t.Errorf("a damaged body: %v, want a refusal worth another try", err)
	}
	p.Set()
	if _, err := b.Head(t.Context(), "damaged"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a damaged body was stored: %v", err)
	}
}

// A lost answer to a create-once put: the next try says ErrExist, the caller compares.
func TestLostPut(t *testing.T) {
	p, b := proxied(t)
	p.Set(faultproxy.Rule{Method: "PUT", Times: 1, Fault: faultproxy.Fault{LoseReply: true}})
	err := retry.New(b, retry.Options{Base: time.Millisecond}).Put(t.Context(), "a", []byte("mine"), once)
	if !errors.Is(err, storage.ErrExist) || p.Count("PUT", "/bucket/a") != 2 {
		t.Errorf("got %v after %d puts", err, p.Count("PUT", "/bucket/a"))
	}
}
