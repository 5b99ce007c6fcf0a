package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
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
	*Config
	problems []string
}

func (k *checker) bad(path, format string, args ...any) {
	line, from := "", ""
	if origin, ok := k.Origins[path]; ok {
		if line, ok = strings.CutPrefix(origin, k.File+":"); ok {
			line += ": "
		} else {
			line, from = "", " (from "+origin+")"
		}
	}
	k.problems = append(k.problems, line+path+from+": "+fmt.Sprintf(format, args...))
}

// want says what is wrong unless it is right.
func (k *checker) want(right bool, path, format string, args ...any) {
	if !right {
		k.bad(path, format, args...)
	}
}

func (k *checker) oneOf(path, value string, allowed ...string) {
	k.want(slices.Contains(allowed, value), path, "%q is not one of %s", value, strings.Join(allowed, ", "))
}

func (k *checker) absolute(path, value string) {
	k.want(value == "" || filepath.IsAbs(value), path, "%q is not an absolute path", value)
}

func (k *checker) within(path string, v, least, most Size) {
	k.want(v >= least && v <= most, path, "%s is not from %s to %s", v, least, most)
}

// Validate returns everything that is wrong as one *Error, or nil. It adds
// warnings for what is only unwise.
func (c *Config) Validate() error {
	k := checker{Config: c}
	k.cluster()
	advice := ""
	switch len(c.Repositories) {
	case 0:
		k.bad("repositories", "no repository is configured")
		advice = adviceRepository
		if c.Cluster.Scope == "" {
			advice = adviceFile
		}
	case 1:
		k.repository("repositories[0]", c.Repositories[0])
	default:
		k.bad("repositories", "%d repositories are given; this version uses one", len(c.Repositories))
	}
	a, b := c.Archive, c.Backup
	k.absolute("archive.spool", a.Spool)
	k.within("archive.get_batch", Size(a.GetBatch), 1, 64)
	k.within("archive.push_ahead", Size(a.PushAhead), 1, 16)
	k.want(a.KeepOnStandby == 0 || a.KeepOnStandby >= 64<<20, "archive.keep_on_standby", "%s is less than 64MiB", a.KeepOnStandby)
	k.oneOf("archive.on_full", a.OnFull, Stop, DropAndRecord)
	k.want(a.OnFull != DropAndRecord || c.Cluster.StateDir != "", "archive.on_full", "drop-and-record needs cluster.state_dir: what is given up is recorded there")
	k.want(a.FullBelow >= 64<<20, "archive.full_below", "%s is less than 64MiB: the server needs some to go on", a.FullBelow)
	walk("", reflect.ValueOf(*c), func(path string, v reflect.Value) {
		switch d, ok := v.Interface().(time.Duration); {
		case !ok:
		case slices.Contains(mayBeZero, path[strings.LastIndex(path, ".")+1:]):
			k.want(d >= 0, path, "want 0 or more")
		default:
			k.want(d > 0, path, "want more than 0s")
		}
	})
	k.schedules(c.Schedules)
	k.retention(c.Retention)
	k.daemon(c.Daemon)
	k.within("backup.workers", Size(b.Workers), 1, 64)
	k.want(b.RateLimit == 0 || b.RateLimit >= 1<<20, "backup.rate_limit", "%s a second is less than 1MiB", b.RateLimit)
	k.within("backup.pack_size", b.PackSize, 16<<20, 64<<30)
	k.within("backup.part_size", b.PartSize, 5<<20, 1<<30)
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	if len(k.problems) > 0 {
		return &Error{File: c.File, Problems: k.problems, Advice: advice}
	}
	return nil
}

func (k *checker) cluster() {
	c := k.Config
	k.absolute("patroni.config", c.Patroni.Config)
	k.absolute("cluster.data_dir", c.Cluster.DataDir)
	k.absolute("cluster.bin_dir", c.Cluster.BinDir)
	k.absolute("cluster.state_dir", c.Cluster.StateDir)
	if c.Cluster.Scope == "" {
		k.bad("cluster.scope", "not given, and no patroni.config to take it from")
	} else if err := catalog.ValidateScope(c.Cluster.Scope); err != nil {
		k.bad("cluster.scope", "%v", err)
	}
	k.within("patroni.replicas_at_once", Size(c.Patroni.ReplicasAtOnce), 1, 64)
	member, e := c.Cluster.Member, c.Patroni.Etcd
	k.want(!strings.ContainsAny(member, "/\x00") && member != "..", "cluster.member", "%q cannot be part of a path", member)
	for i, endpoint := range e.Endpoints {
		u, err := url.Parse(endpoint)
		k.want(err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https"),
			fmt.Sprintf("patroni.etcd.endpoints[%d]", i), "want http://host:2379 or https://host:2379")
	}
	k.want((e.CertFile == "") == (e.KeyFile == ""), "patroni.etcd", "cert_file and key_file go together")
}

func (k *checker) repository(at string, r Repository) {
	k.want(r.Name != "", at+".name", "not given; any word, for example main")
	_, _, err := codec.Parse(r.Codec, r.Level)
	k.want(err == nil, at+".codec", "%v", err)
	k.oneOf(at+".conditional_writes", r.ConditionalWrites, Required, Emulate)
	switch r.Type {
	case TypeS3:
		k.s3(at+".s3", r.S3)
		k.want(r.File == (File{}), at+".file", "given for a repository of type s3")
	case TypeFile:
		k.want(r.S3 == defaultRepository().S3, at+".s3", "given for a repository of type file")
		k.directory(at+".file.path", r.File.Path)
	case "":
		k.bad(at+".type", "not given; s3, or file for a directory")
	default:
		k.oneOf(at+".type", r.Type, TypeS3, TypeFile)
	}
}

func (k *checker) s3(at string, s S3) {
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
	k.want(s.Bucket != "", at+".bucket", "not given")
	if p := strings.Trim(s.Prefix, "/"); p != "" {
		err := storage.Key(p).Validate()
		k.want(err == nil, at+".prefix", "%v", err)
	}
	k.want(s.AccessKey.IsZero() == s.SecretKey.IsZero(), at, "access_key and secret_key go together")
	k.want(s.AccessKey.IsZero() || s.CredentialsFile == "" && s.Profile == "",
		at, "access_key is given, and credentials_file or profile too; which one holds?")
	k.absolute(at+".ca_file", s.CAFile)
	k.absolute(at+".credentials_file", s.CredentialsFile)
	if s.CredentialsFile != "" {
		if _, err := os.Stat(s.CredentialsFile); err != nil {
			k.warn("%s.credentials_file: %v: no request can be made before it is there", at, err)
		}
	}
	if s.Encryption != "" {
		k.oneOf(at+".server_side_encryption", s.Encryption, "AES256", "aws:kms")
	}
	k.want(s.KMSKeyID == "" || s.Encryption == "aws:kms", at+".kms_key_id", "given without server_side_encryption: aws:kms")
}

func (k *checker) directory(at, dir string) {
	if dir == "" {
		k.bad(at, "not given; the directory of the repository")
		return
	}
	k.absolute(at, dir)
	data := k.Cluster.DataDir
	if data == "" {
		return
	}
	if rel, err := filepath.Rel(data, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		k.bad(at, "%s lies inside the data directory %s: a repository there is lost with it", dir, data)
		return
	}
	var one, other syscall.Stat_t
	if syscall.Stat(data, &one) == nil && syscall.Stat(dir, &other) == nil && one.Dev == other.Dev {
		k.warn("repository %s is on the same filesystem as the data directory %s: one broken disk takes both", dir, data)
	}
}
