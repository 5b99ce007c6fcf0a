package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// derive takes from Patroni's file what ours does not say, and fills the defaults
// that depend on it.
func (c *Config) derive(environ []string) error {
	if c.Patroni.Config != "" {
		t, err := readPatroni(c.Patroni.Config, environ)
		if err != nil {
			return err
		}
		if t.has("citus") {
			return errors.New("the cluster is run with Citus, which pgha-backup does not back up as a whole; nothing was done")
		}
		c.warnReadable(c.Patroni.Config)
		c.fromPatroni(t)
	}
	c.Patroni.Namespace = cmp.Or(c.Patroni.Namespace, "/service")
	if c.Cluster.StateDir == "" && c.Cluster.Scope != "" {
		c.Cluster.StateDir = filepath.Join("/var/lib/pgha-backup", c.Cluster.Scope, c.Cluster.Member)
	}
	if c.Daemon.Socket == "" && c.Cluster.Scope != "" {
		c.Daemon.Socket = filepath.Join("/run/pgha-backup", c.Cluster.Scope+".sock")
	}
	if c.Archive.Spool == "" && c.Cluster.StateDir != "" {
		c.Archive.Spool = filepath.Join(c.Cluster.StateDir, "spool")
	}
	return nil
}

func (c *Config) fromPatroni(t tree) {
	origin := c.Patroni.Config
	fill := func(path string, field *string, value string) {
		if *field == "" && value != "" {
			*field, c.Origins[path] = value, origin
		}
	}
	hide := func(path string, field *Secret, value string) {
		if field.IsZero() && value != "" {
			*field, c.Origins[path] = NewSecret(value), origin
		}
	}
	fill("cluster.scope", &c.Cluster.Scope, t.text("scope"))
	fill("cluster.member", &c.Cluster.Member, t.text("name"))
	fill("cluster.data_dir", &c.Cluster.DataDir, t.text("postgresql.data_dir"))
	fill("cluster.bin_dir", &c.Cluster.BinDir, t.text("postgresql.bin_dir"))
	hide("cluster.dsn", &c.Cluster.DSN, localDSN(t))
	fill("patroni.namespace", &c.Patroni.Namespace, t.text("namespace"))

	if e := &c.Patroni.Etcd; len(e.Endpoints) == 0 {
		section := "etcd3"
		if !t.has("etcd3") && t.has("etcd") {
			section, e.V2 = "etcd", true
		}
		endpoints, user, password := etcdEndpoints(t, section)
		if e.Endpoints = endpoints; len(endpoints) > 0 {
			c.Origins["patroni.etcd.endpoints"] = origin
		}
		fill("patroni.etcd.username", &e.Username, user)
		hide("patroni.etcd.password", &e.Password, password)
		fill("patroni.etcd.ca_file", &e.CAFile, t.text(section+".cacert"))
		fill("patroni.etcd.cert_file", &e.CertFile, t.text(section+".cert"))
		fill("patroni.etcd.key_file", &e.KeyFile, cmp.Or(t.text(section+".key"), t.text(section+".cert"))) // one PEM may hold both
		if e.CAFile == "" && len(endpoints) > 0 && strings.HasPrefix(endpoints[0], "https:") {
			e.NoVerify = true
			c.warn("%s has no %s.cacert: as Patroni does, etcd's certificate is not verified", origin, section)
		}
	}

	c.Patroni.PrePromote = t.text("postgresql.pre_promote")
	a := &c.Patroni.API
	fill("patroni.api.url", &a.URL, apiURL(t))
	login := "ctl.authentication" // as patronictl
	if !t.has(login) {
		login = "restapi.authentication"
	}
	fill("patroni.api.username", &a.Username, t.text(login+".username"))
	hide("patroni.api.password", &a.Password, t.text(login+".password"))
	fill("patroni.api.ca_file", &a.CAFile, cmp.Or(t.text("ctl.cacert"), t.text("restapi.cafile")))
	fill("patroni.api.cert_file", &a.CertFile, t.text("ctl.certfile"))
	fill("patroni.api.key_file", &a.KeyFile, t.text("ctl.keyfile"))
	a.NoVerify = t.truth("ctl.insecure")
}

// etcdEndpoints follows Patroni: a proxy wins, then url, hosts, host. A url
// replaces name and password too. SRV names are left to the override in our file.
func etcdEndpoints(t tree, section string) (endpoints []string, user, password string) {
	at := func(key string) string { return section + "." + key }
	user, password = t.text(at("username")), t.text(at("password"))
	for _, key := range []string{"proxy", "url"} {
		u, err := url.Parse(t.text(at(key)))
		if err != nil || u.Host == "" {
			continue
		}
		password, _ := u.User.Password()
		return []string{u.Scheme + "://" + withPort(u.Host, "2379")}, u.User.Username(), password
	}
	protocol, port := cmp.Or(t.text(at("protocol")), "http"), cmp.Or(t.text(at("port")), "2379")
	hosts := t.list(at("hosts"))
	if len(hosts) == 0 {
		hosts = t.list(at("host"))
	}
	for _, host := range hosts {
		if scheme, rest, ok := strings.Cut(host, "://"); ok {
			protocol, host = scheme, strings.TrimSuffix(rest, "/")
		}
		endpoints = append(endpoints, protocol+"://"+withPort(host, port))
	}
	return endpoints, user, password
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// apiURL is the REST API of the member whose file this is.
func apiURL(t tree) string {
	address := cmp.Or(t.text("restapi.connect_address"), t.text("restapi.listen"))
	if address == "" {
		return ""
	}
	scheme := "http"
	if t.text("restapi.certfile") != "" {
		scheme = "https"
	}
	return scheme + "://" + withPort(address, "8008")
}

// localDSN connects to the member's own server as Patroni itself does: through the
// unix socket if told so, else through localhost where the server listens there.
func localDSN(t tree) string {
	listen := cmp.Or(t.text("postgresql.listen"), t.text("postgresql.connect_address"))
	hosts, port := listen, "5432"
	if i := strings.LastIndexByte(listen, ':'); i >= 0 {
		hosts, port = listen[:i], listen[i+1:]
	}
	if listen == "" && !t.truth("postgresql.use_unix_socket") {
		return ""
	}
	host := ""
	for h := range strings.SplitSeq(hosts, ",") {
		h = strings.Trim(strings.TrimSpace(h), "[]")
		host = cmp.Or(host, h)
		switch strings.ToLower(h) {
		case "*", "0.0.0.0", "::", "127.0.0.1", "localhost":
			host = "localhost"
		}
	}
	if t.truth("postgresql.use_unix_socket") {
		host = "/var/run/postgresql"
		dirs := t.list("postgresql.parameters.unix_socket_directories")
		if i := slices.IndexFunc(dirs, filepath.IsAbs); i >= 0 {
			host = dirs[i]
		}
	}
	database := cmp.Or(t.text("postgresql.database"), "postgres")
	auth := "postgresql.authentication.superuser."
	user := cmp.Or(t.text(auth+"username"), "postgres")
	pairs := []string{pair("host", host), pair("port", port), pair("dbname", database), pair("user", user)}
	for _, key := range []string{"password", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslpassword"} {
		if value := t.text(auth + key); value != "" {
			pairs = append(pairs, pair(key, value))
		}
	}
	return strings.Join(pairs, " ")
}

// pair quotes one setting of a connection string.
func pair(key, value string) string {
	return fmt.Sprintf("%s='%s'", key, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value))
}
