package storage_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/storage/s3"
)

const (
	accessKey = "pgha-test"
	secretKey = "pgha-test-secret"
	region    = "us-east-1"
)

// server is a real S3 server on loopback.
type server struct {
	addr   string
	root   string // directory of the buckets
	caFile string // empty without TLS
}

// options are for the bucket of that name.
func (s server) options(bucket string) s3.Options {
	o := s3.Options{
		Endpoint: "http://" + s.addr, Bucket: bucket, Region: region, Style: s3.Path,
		AccessKey: accessKey, SecretKey: secretKey,
	}
	if s.caFile != "" {
		o.Endpoint, o.CAFile = "https://"+s.addr, s.caFile
	}
	return o
}

func (s server) makeBucket(t *testing.T, name string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(s.root, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

func program(t *testing.T, env, name string) string {
	t.Helper()
	if p := os.Getenv(env); p != "" {
		return p
	}
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(home, "go", "bin", name)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%s is not installed: set %s (%v)", name, env, err)
	}
	return p
}

func startVersitygw(t *testing.T, secure bool, args ...string) server {
	t.Helper()
	root := t.TempDir()
	s := server{addr: freeAddr(t), root: root}
	line := []string{"--port", s.addr, "--access", accessKey, "--secret", secretKey, "--region", region, "--keep-alive", "--quiet"}
	if secure {
		cert, key := certificate(t)
		s.caFile = cert
		line = append(line, "--cert", cert, "--key", key)
	}
	line = append(append(line, args...), "posix", root)
	start(t, s.addr, program(t, "PGHA_VERSITYGW", "versitygw"), line...)
	return s
}

// start runs a server until the end of the test and waits until it listens.
func start(t *testing.T, addr, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		log.Close()
	})
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return
		}
		select {
		case err := <-exited:
			said, _ := os.ReadFile(log.Name())
			exited <- err
			t.Fatalf("%s ended: %v\n%s", path, err, said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s", path, addr)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificate makes a self-signed one for 127.0.0.1 and *.localhost.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pgha test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "*.localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

func bucketName(i int) string { return fmt.Sprintf("bucket-%d", i) }
