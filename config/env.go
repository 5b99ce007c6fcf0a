package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
)

// envPrefix begins the name of every variable we read.
const envPrefix = "PGHA_BACKUP_"

// EnvPath names the configuration file where --config does not.
const EnvPath = envPrefix + "CONFIG"

// variableOf names the variable of a path: cluster.scope is CLUSTER_SCOPE. The
// repository is the only one, and Patroni's etcd the only etcd.
var variableOf = strings.NewReplacer("repositories[0].", "", "patroni.etcd.", "etcd.", ".", "_")

// override lets the environment replace texts. A secret has a second variable
// ending in _FILE, of a file that holds it.
func (c *Config) override(environ []string) (problems []string) {
	given := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) && name != EnvPath {
			given[name] = value
		}
	}
	walk("", reflect.ValueOf(c).Elem(), func(path string, v reflect.Value) {
		name := envPrefix + strings.ToUpper(variableOf.Replace(path))
		value, direct := given[name]
		file, fromFile := given[name+"_FILE"]
		switch field := v.Addr().Interface().(type) {
		case *string:
			if !direct {
				return
			}
			*field = value
		case *Secret:
			delete(given, name+"_FILE")
			switch {
			case direct && fromFile:
				problems = append(problems, fmt.Sprintf("%s: both %s and %s_FILE are set", path, name, name))
			case direct:
				*field = NewSecret(value)
			case fromFile:
				var err error
				if *field, err = c.secretFile(file); err != nil {
					problems = append(problems, fmt.Sprintf("%s: %s_FILE: %v", path, name, err))
				}
			default:
				return
			}
		default:
			return
		}
		delete(given, name)
		c.Origins[path] = "environment"
	})
	for _, name := range slices.Sorted(maps.Keys(given)) {
		c.warn("environment variable %s is not one of ours and was ignored", name)
	}
	return problems
}

func (c *Config) secretFile(path string) (Secret, error) {
	text, err := Secret{file: path}.Again()
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	c.warnReadable(path)
	secret := NewSecret(text)
	secret.file = path
	return secret, nil
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
