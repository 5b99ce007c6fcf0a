package s3

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

func TestNewRefuses(t *testing.T) {
	good := Options{Endpoint: "https://store.example:9000", Bucket: "bucket", AccessKey: "a", SecretKey: "s"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no endpoint":      func(o *Options) { o.Endpoint = "" },
		"scheme":           func(o *Options) { o.Endpoint = "ftp://store.example" },
		"path":             func(o *Options) { o.Endpoint = "https://store.example/bucket" },
		"user":             func(o *Options) { o.Endpoint = "https://user:secret@store.example" },
		"no bucket":        func(o *Options) { o.Bucket = "" },
		"prefix":           func(o *Options) { o.Prefix = "a/../b" },
		"style":            func(o *Options) { o.Style = "dns" },
		"half credentials": func(o *Options) { o.SecretKey = "" },
		"CA file":          func(o *Options) { o.CAFile = "/does/not/exist" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	for _, s := range []string{"", "0", "7", "-1", "99999999999", "x", now.Add(time.Minute).Format(http.TimeFormat), now.Add(-time.Minute).Format(http.TimeFormat)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := parseRetryAfter(s, now); d < 0 || d > time.Hour {
			t.Errorf("%q: %s", s, d)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"7": 7 * time.Second, "": 0, "-3": 0, now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
	} {
		if got := parseRetryAfter(s, now); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestUnanswered(t *testing.T) {
	const advice = "check the endpoint's host name and port, and that this machine reaches it"
	for _, c := range []struct {
		err    error
		advice string
	}{
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "s3.example.com", IsNotFound: true}}, advice},
		{fmt.Errorf("dial: %w", syscall.ECONNREFUSED), advice},
		{fmt.Errorf("read: %w", syscall.ECONNRESET), ""},
		{context.Canceled, ""},
	} {
		e := &storage.Error{Err: c.err}
		(&Bucket{}).unanswered(e)
		if !e.Retry || e.Hint() != c.advice {
			t.Errorf("%v: retry %t, hint %q", c.err, e.Retry, e.Hint())
		}
	}
}
