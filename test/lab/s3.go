package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Options says what S3 server to start.
type S3Options struct {
	// TLS serves https with a certificate for the address and for localhost, signed by CAFile.
	TLS bool
	// Bucket is made at start; "backups" when empty.
	Bucket string
	// Versioning lets buckets be versioned.
	Versioning bool
}

// S3 is one S3 server, a versitygw on a directory of the run.
type S3 struct {
	// Addr is host:port; Endpoint the URL.
	Addr, Endpoint       string
	Bucket, Region       string
	AccessKey, SecretKey string
	// CAFile is the PEM file that a client of a TLS server needs.
	CAFile string
	// Dir is the directory whose files are the objects.
	Dir string

	t    T
	run  *Run
	tls  bool
	proc *Process
}

// StartS3 starts an S3 server and makes a bucket in it.
func StartS3(t T, o S3Options) *S3 {
	t.Helper()
	run := RunOf(t)
	n := run.next("s3")
	name := fmt.Sprintf("s3-%d", n)
	host := run.Prefix + strconv.Itoa(40+n)
	s := &S3{
		Addr: net.JoinHostPort(host, "9000"), Bucket: or(o.Bucket, "backups"), Region: "us-east-1",
		AccessKey: "lab-access", SecretKey: "lab-secret-key", t: t, run: run, tls: o.TLS,
	}
	run.Mkdir(UserS3, 0o755, name)
	s.Dir = run.Mkdir(UserS3, 0o700, name, "objects")
	argv := []string{run.tool("versitygw"), "--port", s.Addr, "--keep-alive", "--quiet", "--region", s.Region}
	s.Endpoint = "http://" + s.Addr
	if o.TLS {
		s.Endpoint = "https://" + s.Addr
		authority := newAuthority(run, UserS3, name)
		s.CAFile = authority.file
		cert, key := authority.issue("server", "lab", net.ParseIP(host))
		argv = append(argv, "--cert", cert, "--key", key)
	}
	argv = append(argv, "posix")
	if o.Versioning {
		argv = append(argv, "--versioning-dir", run.Mkdir(UserS3, 0o700, name, "versions"))
	}
	env := []string{"ROOT_ACCESS_KEY=" + s.AccessKey, "ROOT_SECRET_KEY=" + s.SecretKey}
	s.proc = run.Start(UserS3, name, env, append(argv, s.Dir)...)
	s.wait()
	if err := s.MakeBucket(s.Bucket); err != nil {
		t.Fatalf("lab: make bucket %s: %v", s.Bucket, err)
	}
	return s
}

// Client is a minio-go client of the server with the root credentials.
func (s *S3) Client() (*minio.Client, error) {
	o := &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Secure: s.tls, Region: s.Region}
	if s.tls {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		o.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	return minio.New(s.Addr, o)
}

// MakeBucket makes another bucket.
func (s *S3) MakeBucket(name string) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: s.Region})
}

// Keys lists the bucket's objects with their sizes.
func (s *S3) Keys() map[string]int64 {
	s.t.Helper()
	c, err := s.Client()
	if err != nil {
		s.t.Fatalf("lab: %v", err)
	}
	keys := map[string]int64{}
	for o := range c.ListObjects(context.Background(), s.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			s.t.Fatalf("lab: list %s: %v", s.Bucket, o.Err)
		}
		keys[o.Key] = o.Size
	}
	return keys
}

// Stop ends the server: its address then refuses connections.
func (s *S3) Stop() {
	s.t.Helper()
	if err := s.proc.Stop(syscall.SIGTERM, 10*time.Second); err != nil {
		s.t.Logf("lab: %v", err)
	}
}

// Start starts a stopped server again on its address with its objects.
func (s *S3) Start() {
	s.t.Helper()
	if err := s.proc.Restart(); err != nil {
		s.t.Fatalf("lab: %v", err)
	}
	s.wait()
}

// Process is the server's process; SIGSTOP to it makes a server that accepts and never answers.
func (s *S3) Process() *Process { return s.proc }

func (s *S3) wait() {
	s.t.Helper()
	Poll(s.t, 15*time.Second, "the S3 server", func() error {
		if !s.proc.Running() {
			return fmt.Errorf("%s ended: see %s", s.proc.Name, s.proc.Log)
		}
		c, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}
