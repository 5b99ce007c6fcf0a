package config

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// envPrefix begins the name of every variable we read.
const envPrefix = "PGHA_BACKUP_"

// EnvPath names the configuration file where --config does not.
const EnvPath = envPrefix + "CONFIG"

type variable struct {
	name, path string
	text       *string
	secret     *Secret
}

// variables are the fields that the environment may set. A secret has a second
// name ending in _FILE, of a file that holds it.
func (c *Config) variables() []variable {
	all := []variable{
		{name: "CLUSTER_SCOPE", path: "cluster.scope", text: &c.Cluster.Scope},
		{name: "CLUSTER_MEMBER", path: "cluster.member", text: &c.Cluster.Member},
		{name: "CLUSTER_DATA_DIR", path: "cluster.data_dir", text: &c.Cluster.DataDir},
		{name: "CLUSTER_BIN_DIR", path: "cluster.bin_dir", text: &c.Cluster.BinDir},
		{name: "CLUSTER_STATE_DIR", path: "cluster.state_dir", text: &c.Cluster.StateDir},
		{name: "CLUSTER_DSN", path: "cluster.dsn", secret: &c.Cluster.DSN},
		{name: "PATRONI_CONFIG", path: "patroni.config", text: &c.Patroni.Config},
		{name: "ETCD_PASSWORD", path: "patroni.etcd.password", secret: &c.Patroni.Etcd.Password},
		{name: "LOG_LEVEL", path: "log.level", text: &c.Log.Level},
		{name: "LOG_FORMAT", path: "log.format", text: &c.Log.Format},
	}
	if len(c.Repositories) == 0 {
		return all
	}
	s3, at := &c.Repositories[0].S3, "repositories[0].s3."
	return append(all,
		variable{name: "S3_ENDPOINT", path: at + "endpoint", text: &s3.Endpoint},
		variable{name: "S3_BUCKET", path: at + "bucket", text: &s3.Bucket},
		variable{name: "S3_PREFIX", path: at + "prefix", text: &s3.Prefix},
		variable{name: "S3_REGION", path: at + "region", text: &s3.Region},
		variable{name: "S3_ACCESS_KEY", path: at + "access_key", secret: &s3.AccessKey},
		variable{name: "S3_SECRET_KEY", path: at + "secret_key", secret: &s3.SecretKey},
		variable{name: "S3_SESSION_TOKEN", path: at + "session_token", secret: &s3.SessionToken},
	)
}

// override lets the environment replace fields.
func (c *Config) override(environ []string) (problems []string) {
	given := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if rest, ok := strings.CutPrefix(name, envPrefix); ok && name != EnvPath {
			given[rest] = value
		}
	}
	for _, v := range c.variables() {
		value, ok := given[v.name]
		file, fromFile := given[v.name+"_FILE"]
		delete(given, v.name)
		switch {
		case v.text != nil && ok:
			*v.text = value
		case v.secret != nil && ok && fromFile:
			problems = append(problems, fmt.Sprintf("%s: both %s and %s_FILE are set", v.path, envPrefix+v.name, envPrefix+v.name))
		case v.secret != nil && ok:
			*v.secret = NewSecret(value)
		case v.secret != nil && fromFile:
			text, err := c.secretFile(file)
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s: %s_FILE: %v", v.path, envPrefix+v.name, err))
			}
			*v.secret = text
		default:
			continue
		}
		if v.secret != nil {
			delete(given, v.name+"_FILE")
		}
		c.Origins[v.path] = "environment"
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		c.warn("environment variable %s%s is not one of ours and was ignored", envPrefix, name)
	}
	return problems
}

func (c *Config) secretFile(path string) (Secret, error) {
	data, err := readFile(path)
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	c.warnReadable(path)
	return NewSecret(strings.TrimRight(string(data), "\r\n")), nil
}

// warnReadable warns of a file with secrets that others can read.
func (c *Config) warnReadable(path string) {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0 {
		c.warn("%s holds secrets and everybody can read it (mode %04o); chmod 0640 it", path, info.Mode().Perm())
	}
}

func (c *Config) warn(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}
