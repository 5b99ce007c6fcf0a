package storage_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

// accounts is a server whose keys change: the accounts of a versitygw are a file of its.
type accounts struct {
	t     *testing.T
	file  string
	proxy *faultproxy.Proxy
	s3.Options
}

func withAccounts(t *testing.T) *accounts {
	t.Helper()
	dir := t.TempDir()
	srv := startVersitygw(t, false, "--iam-dir", dir, "--iam-cache-disable")
	srv.makeBucket(t, "bucket")
	p, err := faultproxy.Start(srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	a := &accounts{t: t, file: filepath.Join(dir, "users.json"), proxy: p, Options: srv.options("bucket")}
	a.Endpoint, a.AccessKey, a.SecretKey = "http://"+p.Addr(), "", ""
	return a
}

// only makes this the one pair of keys that the server knows.
func (a *accounts) only(id, secret string) {
	a.t.Helper()
	write(a.t, a.file, fmt.Sprintf(`{"accessAccounts":{%q:{"access":%q,"secret":%q,"role":"admin"}}}`, id, id, secret))
}

// write replaces a file in one step.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// everything is a call of each kind.
func everything(t *testing.T, b storage.Bucket) error {
	key := storage.Key(fmt.Sprintf("k%d", time.Now().UnixNano()))
	_, err := b.Head(t.Context(), key)
	if errors.Is(err, storage.ErrNotExist) {
		err = nil
	}
	up, err2 := b.Begin(t.Context(), key, once)
	if err2 == nil {
		err2 = errors.Join(up.Part(t.Context(), 1, []byte("x")), up.Complete(t.Context()))
	}
	_, err3 := storage.ReadAll(t.Context(), b, key, 10)
	return errors.Join(err, err2, err3, b.Put(t.Context(), key+"b", []byte("x"), once), listErr(t.Context(), b), b.Delete(t.Context(), key))
}

func patient(b storage.Bucket) storage.Bucket {
	return retry.New(b, retry.Options{Base: time.Millisecond, GiveUp: 20 * time.Second})
}

// Keys in files of their own, and a credentials file, are replaced while we run.
func TestRotatedFiles(t *testing.T) {
	a := withAccounts(t)
	dir := t.TempDir()
	id, secret, shared := filepath.Join(dir, "id"), filepath.Join(dir, "secret"), filepath.Join(dir, "credentials")
	profile := func(id, secret string) string {
		return fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", id, secret)
	}
	files := a.Options
	files.Fresh = func() (s3.Keys, error) {
		one, err := os.ReadFile(id)
		two, err2 := os.ReadFile(secret)
		return s3.Keys{Access: string(one), Secret: string(two)}, errors.Join(err, err2)
	}
	a.CredentialsFile = shared
	for name, c := range map[string]struct {
		o     s3.Options
		write func(id, secret string)
		half  func(id, old string) // the new id is there, its secret is not yet
	}{
		"two files": {files, func(i, s string) { write(t, id, i); write(t, secret, s) }, func(i, _ string) { write(t, id, i) }},
		"one file":  {a.Options, func(i, s string) { write(t, shared, profile(i, s)) }, func(i, old string) { write(t, shared, profile(i, old)) }},
		"one file, cut": {a.Options, func(i, s string) { write(t, shared, profile(i, s)) }, func(i, _ string) {
			write(t, shared, strings.SplitAfter(profile(i, ""), "\naws_secret")[0])
		}},
		"one file, gone": {a.Options, func(i, s string) { write(t, shared, profile(i, s)) }, func(string, string) { _ = os.Remove(shared) }},
	} {
		t.Run(name, func(t *testing.T) {
			a.only("one", "secret1")
			c.write("one", "secret1")
			b := open(t, c.o)
			if err := everything(t, b); err != nil {
				t.Fatal(err)
			}
			a.only("two", "secret2")
			c.write("two", "secret2")
			if err := everything(t, b); err != nil { // without any second try
				t.Errorf("after both were replaced: %v", err)
			}
			a.only("three", "secret3")
			c.half("three", "secret2")
			err := b.Put(t.Context(), "a", []byte("x"), storage.PutOptions{})
			_, headErr := b.Head(t.Context(), "a")
			for _, err := range []error{err, headErr} {
				if err == nil || !storage.IsRetryable(err) || strings.Contains(err.Error(), "AccessDenied") {
					t.Errorf("with half of a pair: %v, want an error that is worth another try", err)
				}
			}
			go func() {
				lastPut(a.proxy)
				c.write("three", "secret3")
			}()
			if err := everything(t, patient(b)); err != nil {
				t.Errorf("once the other half was there: %v", err)
			}
			if _, err := b.Head(t.Context(), "a"); !errors.Is(err, storage.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// lastPut returns when some requests more were made, or none has for a second.
func lastPut(p *faultproxy.Proxy) {
	for until, n := time.Now().Add(time.Second), p.Count("", ""); p.Count("", "") < n+3 && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
}

// Keys that never were any good are told at once where there can be no others, and soon
// where there can.
func TestWrongKeys(t *testing.T) {
	a := withAccounts(t)
	a.only("one", "secret1")
	for name, change := range map[string]func(*s3.Options){
		"id": func(o *s3.Options) { o.AccessKey, o.SecretKey = "two", "secret1" }, "secret": func(o *s3.Options) { o.AccessKey, o.SecretKey = "one", "secret2" },
	} {
		o := a.Options
		change(&o)
		b := open(t, o)
		_, headErr := b.Head(t.Context(), "a")
		for _, err := range []error{b.Put(t.Context(), "a", nil, once), headErr, listErr(t.Context(), b)} {
			if !errors.Is(err, storage.ErrDenied) {
				t.Errorf("wrong %s: %v, want a refusal", name, err)
			}
		}
	}
}

// authority gives temporary credentials, as AWS's STS and metadata service do: versitygw
// has no such thing. Each has a token of its own, which the proxy refuses when the
// credentials are over; versitygw itself knows the keys.
type authority struct {
	*httptest.Server
	given   atomic.Int32
	refused atomic.Int32
	fails   atomic.Bool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		end := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		switch {
		case a.fails.Load():
			http.Error(w, "out of order", http.StatusInternalServerError)
		case r.Method == http.MethodPut:
			fmt.Fprint(w, "metadata-token")
		case r.Method == http.MethodPost:
			if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != "jwt" || r.FormValue("RoleArn") != "arn:role" {
				http.Error(w, "not that", http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>token%d</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
				accessKey, secretKey, a.given.Add(1), end)
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			fmt.Fprint(w, "role")
		default:
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Token":"token%d","Expiration":%q}`, accessKey, secretKey, a.given.Add(1), end)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

// expire refuses every token but the newest, and that one too after so many requests.
func (a *authority) expire(after int) func(*http.Request) faultproxy.Fault {
	used := map[string]int{}
	return func(r *http.Request) faultproxy.Fault {
		token := r.Header.Get("X-Amz-Security-Token")
		used[token]++
		if token != fmt.Sprintf("token%d", a.given.Load()) || used[token] > after {
			a.refused.Add(1)
			return faultproxy.Fault{Status: http.StatusBadRequest, Code: "ExpiredToken"}
		}
		return untokened
	}
}

// untokened has the request signed anew without its token, which versitygw would refuse.
var untokened = faultproxy.Fault{Request: func(r *http.Request) {
	r.Header.Del("X-Amz-Security-Token")
	*r = *signer.SignV4(*r, accessKey, secretKey, "", region)
}}

// Temporary credentials end every few requests, before their time.
func TestExpiringCredentials(t *testing.T) {
	jwt := filepath.Join(t.TempDir(), "jwt")
	write(t, jwt, "jwt")
	for name, set := range map[string]func(t *testing.T, a *authority){
		"web identity": func(t *testing.T, a *authority) {
			t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", jwt)
			t.Setenv("AWS_ROLE_ARN", "arn:role")
			t.Setenv("AWS_ENDPOINT_URL_STS", a.URL)
		},
		"instance role": func(t *testing.T, a *authority) { t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			a := newAuthority(t)
			set(t, a)
			p, _ := proxied(t)
			o := s3.Options{Endpoint: "http://" + p.Addr(), Bucket: "bucket", Region: region, Style: s3.Path}
			b := open(t, o)
			p.Choose(a.expire(4))
			for range 3 {
				if err := everything(t, patient(b)); err != nil {
					t.Fatal(err)
				}
			}
			if a.given.Load() < 6 || a.refused.Load() < 5 {
				t.Errorf("%d tokens given, %d requests refused", a.given.Load(), a.refused.Load())
			}
			p.Choose(a.expire(0))
			if _, err := b.Head(t.Context(), "a"); !storage.IsRetryable(err) || !strings.Contains(err.Error(), "ExpiredToken") {
				t.Errorf("an expired token: %v", err)
			}
			// What gives them fails for a while: no request goes out without any.
			a.fails.Store(true)
			p.Set(faultproxy.Rule{Fault: untokened})
			n := len(p.Requests())
			if err := b.Put(t.Context(), "a", nil, storage.PutOptions{}); !storage.IsRetryable(err) || !strings.Contains(err.Error(), "no credentials") || len(p.Requests()) != n {
				t.Errorf("without credentials: %v, %q", err, p.Requests()[n:])
			}
			a.fails.Store(false)
			if err := everything(t, b); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("none anywhere", func(t *testing.T) {
		t.Setenv("HOME", t.TempDir())
		a := newAuthority(t)
		a.fails.Store(true)
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL)
		p, _ := proxied(t)
		err := open(t, s3.Options{Endpoint: "http://" + p.Addr(), Bucket: "bucket", Region: region, Style: s3.Path}).Put(t.Context(), "a", nil, once)
		if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "no credentials") || len(p.Requests()) != 0 {
			t.Errorf("got %v after %q", err, p.Requests())
		}
	})
	t.Run("written in the configuration", func(t *testing.T) {
		p, _ := proxied(t)
		b := open(t, s3.Options{Endpoint: "http://" + p.Addr(), Bucket: "bucket", Region: region, Style: s3.Path, AccessKey: accessKey, SecretKey: secretKey, SessionToken: "token"})
		p.Set(faultproxy.Rule{Fault: untokened})
		put(t, b, "a", nil)
		p.Choose((&authority{}).expire(0))
		err := b.Put(t.Context(), "a", nil, once)
		hint, _ := errors.AsType[*storage.Error](err)
		if !errors.Is(err, storage.ErrDenied) || hint.Hint() != "check the credentials: key, secret and, of temporary ones, the session token and its end" {
			t.Errorf("got %v, want a final refusal", err)
		}
	})
}

// The store's clock is off, as a real server with that clock would say it: it sees our
// request so much earlier or later, and its answers carry its time.
func TestSkewedStore(t *testing.T) {
	p, b := proxied(t)
	for _, c := range []struct {
		off  time.Duration // of the store's clock
		want string
	}{{3 * time.Hour, "this machine's clock is 3h0m"}, {-3 * time.Hour, "this machine's clock is 3h0m"}} {
		p.Set(faultproxy.Rule{Fault: skewed(c.off)})
		for op, err := range map[string]error{"put": b.Put(t.Context(), "a", nil, once), "list": listErr(t.Context(), b), "head": headErr(t, b)} {
			side := "s behind the store's"
			if c.off < 0 {
				side = "s ahead of the store's"
			}
			hint, _ := errors.AsType[*storage.Error](err)
			if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), c.want) && !strings.Contains(err.Error(), "2h59m5") ||
				!strings.Contains(err.Error(), side) || !strings.HasPrefix(hint.Hint(), "set the clock that is wrong") {
				t.Errorf("%s, store %s off: %v", op, c.off, err)
			}
		}
	}
	// The same refusal of one request, with clocks that agree: it was long under way.
	p.Set(faultproxy.Rule{Fault: faultproxy.Fault{Status: http.StatusForbidden, Code: "RequestTimeTooSkewed"}})
	if err := b.Put(t.Context(), "a", nil, once); !storage.IsRetryable(err) {
		t.Errorf("got %v, want another try", err)
	}
}

func headErr(t *testing.T, b storage.Bucket) error {
	_, err := b.Head(t.Context(), "a")
	return err
}

func skewed(off time.Duration) faultproxy.Fault {
	return faultproxy.Fault{
		Request: func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().Add(-off).UTC().Format("20060102T150405Z"))
		},
		Answer: func(resp *http.Response, _ *[]byte) {
			resp.Header.Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		},
	}
}

// What is asked of the store to encrypt is asked with each object, and with nothing else.
func TestServerSideEncryption(t *testing.T) {
	p, _ := proxied(t)
	for _, c := range []struct{ kind, key string }{{"", ""}, {"AES256", ""}, {"aws:kms", ""}, {"aws:kms", "alias/pg"}} {
		o := s3.Options{Endpoint: "http://" + p.Addr(), Bucket: "bucket", Region: region, Style: s3.Path, AccessKey: accessKey, SecretKey: secretKey, Encryption: c.kind, KMSKeyID: c.key}
		seen := map[string]int{}
		p.Set(faultproxy.Rule{Fault: faultproxy.Fault{Request: func(r *http.Request) {
			creates := r.Method == http.MethodPut && !r.URL.Query().Has("uploadId") || r.Method == http.MethodPost && r.URL.Query().Has("uploads")
			want := []string{"", ""}
			if creates {
				want = []string{c.kind, c.key}
				seen[r.Method]++
			}
			if kind, key := r.Header.Get("X-Amz-Server-Side-Encryption"), r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"); kind != want[0] || key != want[1] {
				t.Errorf("%s %s: %q %q, want %q", r.Method, r.URL, kind, key, want)
			}
		}}})
		if err := everything(t, open(t, o)); err != nil || seen["PUT"] != 1 || seen["POST"] != 1 {
			t.Errorf("%v: %v, %v", c, err, seen)
		}
	}
	for _, o := range []s3.Options{{Encryption: "aes"}, {KMSKeyID: "alias/pg"}, {Encryption: "AES256", KMSKeyID: "alias/pg"}} {
		o.Endpoint, o.Bucket, o.AccessKey, o.SecretKey = "http://"+p.Addr(), "bucket", accessKey, secretKey
		if _, err := s3.New(o); err == nil {
			t.Errorf("%+v: accepted", o)
		}
	}
}
