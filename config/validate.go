package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/storage"
)

// checker gathers problems with the paths of their fields, and where the value is from.
type checker struct {
	file     string
	origins  map[string]string
	problems []string
}

func (k *checker) bad(path, format string, args ...any) {
	line, from := "", ""
	if origin, ok := k.origins[path]; ok {
		if line, ok = strings.CutPrefix(origin, k.file+":"); ok {
			line += ": "
		} else {
			line, from = "", " (from "+origin+")"
		}
	}
	k.problems = append(k.problems, line+path+from+": "+fmt.Sprintf(format, args...))
}

func (k *checker) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.bad(path, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (k *checker) absolute(path, value string) {
	if value != "" && !filepath.IsAbs(value) {
		k.bad(path, "%q is not an absolute path", value)
	}
}

func (k *checker) positive(path string, d time.Duration) {
	if d <= 0 {
		k.bad(path, "want more than 0s")
	}
}

// Validate returns everything that is wrong as one *Error, or nil. It adds
// warnings for what is only unwise.
func (c *Config) Validate() error {
	k := checker{file: c.File, origins: c.Origins}
	c.validateCluster(&k)
	advice := ""
	switch len(c.Repositories) {
	case 0:
		k.bad("repositories", "no repository is configured")
		advice = adviceRepository
		if c.Cluster.Scope == "" {
			advice = adviceFile
		}
	case 1:
		c.validateRepository(&k, "repositories[0]", c.Repositories[0])
	default:
		k.bad("repositories", "%d repositories are given; this version uses one", len(c.Repositories))
	}
	a, b := c.Archive, c.Backup
	k.absolute("archive.spool", a.Spool)
	if a.GetBatch < 1 || a.GetBatch > 64 {
		k.bad("archive.get_batch", "%d is not from 1 to 64", a.GetBatch)
	}
	k.positive("archive.push_timeout", a.PushTimeout)
	k.positive("archive.get_standby_timeout", a.GetStandbyTimeout)
	k.positive("archive.get_rewind_timeout", a.GetRewindTimeout)
	k.positive("archive.get_recovery_timeout", a.GetRecoveryTimeout)
	if b.Workers < 1 || b.Workers > 64 {
		k.bad("backup.workers", "%d is not from 1 to 64", b.Workers)
	}
	if b.RateLimit < 0 || b.RateLimit > 0 && b.RateLimit < 1<<20 {
		k.bad("backup.rate_limit", "%s a second is less than 1MiB", b.RateLimit)
	}
	if b.PackSize < 16<<20 || b.PackSize > 64<<30 {
		k.bad("backup.pack_size", "%s is not from 16MiB to 64GiB", b.PackSize)
	}
	if b.PartSize < 5<<20 || b.PartSize > 1<<30 {
		k.bad("backup.part_size", "%s is not from 5MiB to 1GiB", b.PartSize)
	}
	k.positive("backup.wal_timeout", b.WALTimeout)
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	if len(k.problems) > 0 {
		return &Error{File: c.File, Problems: k.problems, Advice: advice}
	}
	return nil
}

func (c *Config) validateCluster(k *checker) {
	k.absolute("patroni.config", c.Patroni.Config)
	k.absolute("cluster.data_dir", c.Cluster.DataDir)
	k.absolute("cluster.bin_dir", c.Cluster.BinDir)
	k.absolute("cluster.state_dir", c.Cluster.StateDir)
	if c.Cluster.Scope == "" {
		k.bad("cluster.scope", "not given, and no patroni.config to take it from")
	} else if err := catalog.ValidateScope(c.Cluster.Scope); err != nil {
		k.bad("cluster.scope", "%v", err)
	}
	if strings.ContainsAny(c.Cluster.Member, "/\x00") || c.Cluster.Member == ".." {
		k.bad("cluster.member", "%q cannot be part of a path", c.Cluster.Member)
	}
	for i, endpoint := range c.Patroni.Etcd.Endpoints {
		if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			k.bad(fmt.Sprintf("patroni.etcd.endpoints[%d]", i), "want http://host:2379 or https://host:2379")
		}
	}
	if e := c.Patroni.Etcd; (e.CertFile == "") != (e.KeyFile == "") {
		k.bad("patroni.etcd", "cert_file and key_file go together")
	}
}

func (c *Config) validateRepository(k *checker, at string, r Repository) {
	if r.Name == "" {
		k.bad(at+".name", "not given; any word, for example main")
	}
	if _, _, err := codec.Parse(r.Codec, r.Level); err != nil {
		k.bad(at+".codec", "%v", err)
	}
	k.oneOf(at+".conditional_writes", r.ConditionalWrites, Required, Emulate)
	switch r.Type {
	case TypeS3:
		c.validateS3(k, at+".s3", r.S3)
		if r.File != (File{}) {
			k.bad(at+".file", "given for a repository of type s3")
		}
	case TypeFile:
		if r.S3 != defaultRepository().S3 {
			k.bad(at+".s3", "given for a repository of type file")
		}
		c.validateFile(k, at+".file.path", r.File.Path)
	case "":
		k.bad(at+".type", "not given; s3, or file for a directory")
	default:
		k.oneOf(at+".type", r.Type, TypeS3, TypeFile)
	}
}

func (c *Config) validateS3(k *checker, at string, s S3) {
	u, err := url.Parse(s.Endpoint)
	switch {
	case s.Endpoint == "":
		k.bad(at+".endpoint", "not given; for example https://s3.example.com")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" ||
		u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		k.bad(at+".endpoint", "want https://host[:port]")
	case u.Scheme == "http" && s.TLS != "off":
		k.bad(at+".endpoint", "http sends everything unencrypted; use https, or say tls: off")
	case u.Scheme == "https" && s.TLS == "off":
		k.bad(at+".tls", "off, but the endpoint is https")
	}
	k.oneOf(at+".tls", s.TLS, "on", "off")
	k.oneOf(at+".path_style", s.PathStyle, "auto", "path", "virtual")
	if s.Bucket == "" {
		k.bad(at+".bucket", "not given")
	}
	if p := strings.Trim(s.Prefix, "/"); p != "" {
		if err := storage.Key(p).Validate(); err != nil {
			k.bad(at+".prefix", "%v", err)
		}
	}
	if s.AccessKey.IsZero() != s.SecretKey.IsZero() {
		k.bad(at, "access_key and secret_key go together")
	}
	if !s.AccessKey.IsZero() && (s.CredentialsFile != "" || s.Profile != "") {
		k.bad(at, "access_key is given, and credentials_file or profile too; which one holds?")
	}
	k.absolute(at+".ca_file", s.CAFile)
	k.absolute(at+".credentials_file", s.CredentialsFile)
}

func (c *Config) validateFile(k *checker, at, dir string) {
	if dir == "" {
		k.bad(at, "not given; the directory of the repository")
		return
	}
	k.absolute(at, dir)
	data := c.Cluster.DataDir
	if data == "" {
		return
	}
	if rel, err := filepath.Rel(data, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		k.bad(at, "%s lies inside the data directory %s: a repository there is lost with it", dir, data)
		return
	}
	var one, other syscall.Stat_t
	if syscall.Stat(data, &one) == nil && syscall.Stat(dir, &other) == nil && one.Dev == other.Dev {
		c.warn("repository %s is on the same filesystem as the data directory %s: one broken disk takes both", dir, data)
	}
}
