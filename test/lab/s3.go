package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
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
		cert, key := s.certificate(name, net.ParseIP(host))
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

// certificate makes an authority and a server certificate signed by it.
func (s *S3) certificate(name string, ip net.IP) (certFile, keyFile string) {
	s.t.Helper()
	must := func(err error) {
		if err != nil {
			s.t.Fatalf("lab: certificate: %v", err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "lab"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{ip},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	s.CAFile = s.run.WriteFile(UserS3, 0o644, block("CERTIFICATE", caDER), name, "ca.pem")
	certFile = s.run.WriteFile(UserS3, 0o644, block("CERTIFICATE", der), name, "server.pem")
	keyFile = s.run.WriteFile(UserS3, 0o600, block("PRIVATE KEY", keyDER), name, "server.key")
	return certFile, keyFile
}
