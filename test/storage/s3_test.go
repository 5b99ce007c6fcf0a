// Package storage_test holds the S3 driver to the contract against real servers.
package storage_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/emulate"
	"github.com/pgha-backup/pgha-backup/storage/probe"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
)

func open(t *testing.T, o s3.Options) *s3.Bucket {
	t.Helper()
	b, err := s3.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVersitygw(t *testing.T) {
	for _, c := range []struct {
		name   string
		secure bool
		prefix string
	}{{"http", false, ""}, {"tls with prefix", true, "some/prefix"}} {
		t.Run(c.name, func(t *testing.T) {
			srv := startVersitygw(t, c.secure)
			var n atomic.Int32
			storagetest.Run(t, func(t *testing.T) storage.Bucket {
				name := bucketName(int(n.Add(1)))
				srv.makeBucket(t, name)
				o := srv.options(name)
				o.Prefix = c.prefix
				return open(t, o)
			})
			t.Run("missing bucket", func(t *testing.T) { storagetest.RunMissing(t, open(t, srv.options("never-made"))) })
		})
	}
}

func TestVersitygwTLS(t *testing.T) {
	resolveToLoopback(t)
	srv := startVersitygw(t, true, "--virtual-domain", "localhost")
	srv.makeBucket(t, "bucket")
	good := srv.options("bucket")
	put(t, open(t, good), "a", []byte("body"))
	_, port, err := net.SplitHostPort(srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*s3.Options)
		want   error // nil is success
	}{
		{"virtual host", func(o *s3.Options) { o.Style, o.Endpoint = s3.VirtualHost, "https://localhost:"+port }, nil},
		{"virtual host, missing", func(o *s3.Options) {
			o.Style, o.Endpoint, o.Bucket = s3.VirtualHost, "https://localhost:"+port, "never-made"
		}, storage.ErrNoBucket},
		{"not verified", func(o *s3.Options) { o.CAFile, o.InsecureSkipVerify = "", true }, nil},
		{"wrong secret", func(o *s3.Options) { o.SecretKey = "wrong" }, storage.ErrDenied},
		{"wrong access key", func(o *s3.Options) { o.AccessKey = "wrong" }, storage.ErrDenied},
		{"missing bucket", func(o *s3.Options) { o.Bucket = "never-made" }, storage.ErrNoBucket},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good
			c.change(&o)
			b := open(t, o)
			_, headErr := b.Head(t.Context(), "a")
			for _, err := range []error{b.Put(t.Context(), "a", []byte("body"), storage.PutOptions{}), headErr, listErr(t.Context(), b)} {
				if !errors.Is(err, c.want) || storage.IsRetryable(err) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			}
		})
	}
	t.Run("unknown authority", func(t *testing.T) {
		o := good
		o.CAFile = ""
		err := open(t, o).Put(t.Context(), "a", nil, storage.PutOptions{})
		hint, ok := errors.AsType[*storage.Error](err)
		if storage.IsRetryable(err) || !ok || hint.Hint() == "" {
			t.Errorf("got %v, want a final error with a hint", err)
		}
	})
	t.Run("credentials of the environment and of a file", func(t *testing.T) {
		o := good
		o.AccessKey, o.SecretKey = "", ""
		o.CredentialsFile = filepath.Join(t.TempDir(), "credentials")
		file := "[archive]\naws_access_key_id = " + accessKey + "\naws_secret_access_key = " + secretKey + "\n"
		if err := os.WriteFile(o.CredentialsFile, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Profile = "archive"
		put(t, open(t, o), "a", []byte("x"))
		o.CredentialsFile, o.Profile = "", ""
		t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
		put(t, open(t, o), "a", []byte("x"))
	})
}

func TestProbe(t *testing.T) {
	srv := startVersitygw(t, true)
	srv.makeBucket(t, "bucket")
	b, missing := open(t, srv.options("bucket")), open(t, srv.options("never-made"))
	r, err := probe.Probe(t.Context(), b, missing)
	if err != nil || slices.ContainsFunc(r.Findings, func(f probe.Finding) bool { return !f.OK }) || !r.ConditionalWrites {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := probe.Probe(t.Context(), missing, nil); !errors.Is(err, storage.ErrNoBucket) {
		t.Errorf("a missing bucket: %v", err)
	}
}

// An old gofakes3 ignores If-None-Match, and lists nothing where a delimiter is
// given as empty: the probe says so, emulation copes with the first.
func TestCarelessServer(t *testing.T) {
	addr := freeAddr(t)
	start(t, addr, program(t, "PGHA_GOFAKES3", "gofakes3-careless"), "-host", addr, "-backend", "mem", "-initialbucket", "bucket")
	b, missing := open(t, server{addr: addr}.options("bucket")), open(t, server{addr: addr}.options("never-made"))
	r, err := probe.Probe(t.Context(), b, missing)
	if err != nil {
		t.Fatal(err)
	}
	if r.ConditionalWrites {
		t.Error("the probe believes in conditional writes")
	}
	for _, f := range r.Findings {
		race := strings.HasPrefix(f.Name, "conditional")
		vice := race || f.Name == "list after put"
		if f.OK == vice || (race && !strings.Contains(f.Detail, "of 16 writers")) || (vice && f.Hint == "") {
			t.Errorf("%s: %v, %s; %s", f.Name, f.OK, f.Detail, f.Hint)
		}
	}
	e := emulate.New(b)
	if err := e.Put(t.Context(), "a", []byte("first"), once); err != nil {
		t.Error(err)
	}
	if err := e.Put(t.Context(), "a", []byte("second"), once); !errors.Is(err, storage.ErrExist) {
		t.Errorf("got %v, want ErrExist", err)
	}
}
