// Package s3 is a bucket in an S3 store. It is the only importer of minio-go, whose
// own retries are off: storage/retry decides when to try again.
package s3

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Style is how the bucket is addressed.
type Style string

// The styles. Auto is virtual-host style where the endpoint is known to have it.
const (
	Auto        Style = ""
	Path        Style = "path"
	VirtualHost Style = "virtual-host"
)

// Options say where the bucket is and how to reach it.
type Options struct {
	Endpoint string // "https://host[:port]"; without a scheme https; http is for tests and trusted networks
	Bucket   string
	Prefix   string // put before every key; may be empty
	Region   string // asked of the store if empty
	Style    Style

	CAFile             string // PEM file of the authorities to trust instead of the system's
	InsecureSkipVerify bool   // do not verify the certificate of the server

	// AccessKey and SecretKey, and SessionToken if temporary; Fresh instead is asked for
	// them before each request. Without them CredentialsFile alone, read before each
	// request; without that the environment (AWS_*), ~/.aws, web identity or a role.
	AccessKey, SecretKey, SessionToken string
	Fresh                              func() (Keys, error)
	CredentialsFile, Profile           string

	// Encryption by the store: "", AES256 or aws:kms, that one with KMSKeyID or the
	// store's own key.
	Encryption, KMSKeyID string

	AnswerTimeout time.Duration // from the end of a request to its answer; 0 is 60 s
}

const (
	maxConns       = 32 // connections kept and open at most
	connectTimeout = 10 * time.Second
)

// Bucket is a bucket of an S3 store.
type Bucket struct {
	core   *minio.Core
	bucket string
	prefix string
	secure bool
	sse    encrypt.ServerSide // nil: what the bucket's default is

	creds   *credentials.Credentials
	lasting bool // there are no others to come
	made    time.Time
	worked  *atomic.Bool
}

// New checks the options. It asks the store nothing.
func New(o Options) (*Bucket, error) {
	secure, host, err := parseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.Bucket == "" {
		return nil, errors.New("s3: no bucket given")
	}
	prefix := strings.Trim(o.Prefix, "/")
	if prefix != "" {
		if err := storage.Key(prefix).Validate(); err != nil {
			return nil, fmt.Errorf("s3: prefix: %w", err)
		}
		prefix += "/"
	}
	lookup, ok := map[Style]minio.BucketLookupType{
		Auto: minio.BucketLookupAuto, Path: minio.BucketLookupPath, VirtualHost: minio.BucketLookupDNS,
	}[o.Style]
	if !ok {
		return nil, fmt.Errorf("s3: unknown addressing style %q", o.Style)
	}
	b := &Bucket{bucket: o.Bucket, prefix: prefix, secure: secure, made: time.Now(), worked: new(atomic.Bool)}
	if b.sse, err = serverSide(o); err != nil {
		return nil, err
	}
	rt, err := newTransport(o, b.worked)
	if err != nil {
		return nil, err
	}
	provider, lasting, err := chain(o)
	if err != nil {
		return nil, err
	}
	b.creds, b.lasting = credentials.New(provider), lasting
	b.core, err = minio.NewCore(host, &minio.Options{
		Creds: b.creds, Secure: secure, Region: o.Region, BucketLookup: lookup,
		Transport: rt, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	return b, nil
}

func serverSide(o Options) (encrypt.ServerSide, error) {
	switch {
	case o.Encryption == "aws:kms":
		return encrypt.NewSSEKMS(o.KMSKeyID, nil)
	case o.KMSKeyID != "":
		return nil, errors.New("s3: a KMS key without aws:kms")
	case o.Encryption == "AES256":
		return encrypt.NewSSE(), nil
	case o.Encryption != "":
		return nil, fmt.Errorf("s3: unknown encryption %q", o.Encryption)
	}
	return nil, nil
}

func parseEndpoint(s string) (secure bool, host string, err error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return false, "", errors.New("s3: endpoint is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return false, "", fmt.Errorf("s3: endpoint has scheme %q, want https", u.Scheme)
	case u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		return false, "", errors.New("s3: endpoint is not of the form https://host[:port]")
	}
	return u.Scheme == "https", u.Host, nil
}

func newTransport(o Options, worked *atomic.Bool) (http.RoundTripper, error) {
	// Small first records are for browsers that wait for them: here each is only a call of the kernel more.
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.InsecureSkipVerify, DynamicRecordSizingDisabled: true}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("s3: certificate authorities: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("s3: %s holds no PEM certificate", o.CAFile)
		}
	}
	return &transport{worked, &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: cmp.Or(o.AnswerTimeout, 60*time.Second),
		MaxIdleConns:          maxConns,
		MaxIdleConnsPerHost:   maxConns,
		MaxConnsPerHost:       maxConns,
		IdleConnTimeout:       60 * time.Second,
		WriteBufferSize:       64 << 10,
		DisableCompression:    true, // a store that zips would hide the length of the body
	}}, nil
}

// name is the object's name in the store.
func (b *Bucket) name(key storage.Key) string { return b.prefix + string(key) }
