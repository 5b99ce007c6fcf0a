package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// place is a store that several contenders keep their repositories in, at the same time.
type place struct {
	name     string
	s3       *lab.S3 // nil: files
	addr, ca string
	proxy    *faultproxy.Proxy // nil: nobody counts
}

// farLatency is what the proxy adds to each request.
const farLatency = 20 * time.Millisecond

// at is the place of a name, which is made when it is first wanted.
func (b *bench) at(name string) *place {
	b.Helper()
	if p := b.places[name]; p != nil {
		return p
	}
	p := &place{name: name}
	switch name {
	case "s3":
		p.s3 = lab.StartS3(b, lab.S3Options{TLS: true})
		p.addr, p.ca = p.s3.Addr, p.s3.CAFile
	case "far":
		p.s3 = lab.StartS3(b, lab.S3Options{})
		var err error
		p.proxy, err = faultproxy.Start(p.s3.Addr)
		b.must(err)
		b.Cleanup(p.proxy.Close)
		p.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{Delay: farLatency}})
		server := httptest.NewTLSServer(p.proxy)
		b.Cleanup(server.Close)
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		p.addr, p.ca = server.Listener.Addr().String(), b.run.WriteFile(lab.User1, 0o644, string(ca), "far.pem")
	}
	b.places[name] = p
	return p
}

// title is the place in words.
func (p *place) title() string {
	return map[string]string{"file": "files", "s3": "S3 on the same machine", "far": "S3 with " + farLatency.String() + " for each request"}[p.name]
}

// requests is how many the store has had so far, where somebody counts them.
func (p *place) requests() int {
	if p == nil || p.proxy == nil {
		return 0
	}
	return p.proxy.Count("", "")
}

// room is a contender's own part of a place.
type room struct {
	at      *place
	name    string // of the bucket
	root    string // of its files
	scratch string // emptied before each run
}

func (b *bench) room(name string, p *place) room {
	b.Helper()
	name += "-" + p.name
	r := room{at: p, name: name, scratch: b.run.Mkdir(lab.User1, 0o700, name, "scratch")}
	if p.s3 == nil {
		r.root = b.run.Mkdir(lab.User1, 0o700, name, "repository")
		return r
	}
	c, err := p.s3.Client()
	b.must(err)
	if found, err := c.BucketExists(context.Background(), name); err != nil || !found {
		b.must(p.s3.MakeBucket(name))
	}
	r.root = filepath.Join(p.s3.Dir, name)
	return r
}

// ours is the room in our configuration.
func (r room) ours() string {
	s := r.at.s3
	if s == nil {
		return fmt.Sprintf("type: file, file: {path: %s}", r.root)
	}
	return fmt.Sprintf(`type: s3, s3: {endpoint: "https://%s", bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, ca_file: %s}`,
		r.at.addr, r.name, s.Region, s.AccessKey, s.SecretKey, r.at.ca)
}

// pgBackRest is the room in pgBackRest's configuration.
func (r room) pgBackRest() string {
	s := r.at.s3
	if s == nil {
		return "repo1-path=" + r.root
	}
	host, port, _ := net.SplitHostPort(r.at.addr)
	return fmt.Sprintf("repo1-type=s3\nrepo1-path=/\nrepo1-s3-bucket=%s\nrepo1-s3-endpoint=localhost\nrepo1-s3-uri-style=path\nrepo1-s3-region=%s\nrepo1-s3-key=%s\nrepo1-s3-key-secret=%s\n"+
		"repo1-storage-host=%s\nrepo1-storage-port=%s\nrepo1-storage-verify-tls=n", r.name, s.Region, s.AccessKey, s.SecretKey, host, port)
}
