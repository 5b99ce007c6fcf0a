package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func derived(t *testing.T, path string, environ ...string) Config {
	t.Helper()
	c := Default()
	c.Patroni.Config = path
	if err := c.derive(environ); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPatroniDirectory(t *testing.T) {
	c := derived(t, "../configs/testdata/patroni.d")
	if c.Cluster.Scope != "15-main" || c.Cluster.Member != "7" || c.Cluster.BinDir != "/usr/lib/postgresql/15/bin" || c.Patroni.Namespace != "/postgresql-common/" {
		t.Errorf("%+v", c.Cluster)
	}
	e := c.Patroni.Etcd
	if !slices.Equal(e.Endpoints, []string{"https://10.0.0.1:2379", "https://10.0.0.2:4001"}) || e.V2 || !e.NoVerify ||
		e.CertFile != "/etc/etcd/both.pem" || e.KeyFile != e.CertFile {
		t.Errorf("%+v", e)
	}
	if got := c.Cluster.DSN.Reveal(); got != "host='/run/pg' port='5433' dbname='postgres' user='admin' sslmode='verify-full'" {
		t.Error(got)
	}
	if c.Patroni.API.URL != "https://0.0.0.0:8008" {
		t.Error(c.Patroni.API.URL)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "etcd's certificate is not verified") {
		t.Error(c.Warnings)
	}
}

func TestPatroniV2(t *testing.T) {
	c := derived(t, "../configs/testdata/patroni-v2.yml")
	e := c.Patroni.Etcd
	if !e.V2 || !slices.Equal(e.Endpoints, []string{"https://10.0.0.1:2379"}) || e.Username != "user" || e.Password.Reveal() != "pa ss" {
		t.Errorf("%+v %s", e, e.Password.Reveal())
	}
	if got := c.Cluster.DSN.Reveal(); got != "host='localhost' port='5432' dbname='postgres' user='postgres'" {
		t.Error(got)
	}
}

func TestPatroniEnvironment(t *testing.T) {
	c := derived(t, "../configs/testdata/patroni.yml", "PATRONI_ETCD3_HOSTS='a:1','b'", "PATRONI_ETCD3_PROTOCOL=https",
		"PATRONI_ETCD3_CACERT=/ca", "PATRONI_POSTGRESQL_DATA_DIR=/pg", "PATRONI_SUPERUSER_PASSWORD=p", "PATRONI_SCOPE=s",
		"PATRONI_RESTAPI_CONNECT_ADDRESS=h:1", "PATRONI_NAMESPACE=", "PATRONI_UNKNOWN=x")
	if e := c.Patroni.Etcd; !slices.Equal(e.Endpoints, []string{"https://a:1", "https://b:2379"}) || e.NoVerify || e.CAFile != "/ca" {
		t.Errorf("%+v", e)
	}
	if c.Cluster.Scope != "s" || c.Cluster.DataDir != "/pg" || c.Patroni.API.URL != "http://h:1" || c.Patroni.Namespace != "/service/" ||
		!strings.HasSuffix(c.Cluster.DSN.Reveal(), "password='p'") {
		t.Errorf("%+v %+v", c.Cluster, c.Patroni)
	}
}

func TestOursBeforePatronis(t *testing.T) {
	c := Default()
	c.Patroni.Config = "../configs/testdata/patroni.yml"
	c.Cluster = Cluster{Scope: "ours", DataDir: "/ours", DSN: NewSecret("host=ours")}
	c.Patroni.Etcd.Endpoints = []string{"http://ours:2379"}
	if err := c.derive(nil); err != nil {
		t.Fatal(err)
	}
	if c.Cluster.Scope != "ours" || c.Cluster.DataDir != "/ours" || c.Cluster.DSN.Reveal() != "host=ours" ||
		c.Patroni.Etcd.Endpoints[0] != "http://ours:2379" || c.Cluster.Member != "pg_node1" {
		t.Errorf("%+v", c)
	}
}

// The password for changes is patronictl's, else the one that Patroni itself asks for.
func TestPatroniAPILogin(t *testing.T) {
	const rest, ctl = "restapi: {authentication: {username: r, password: one}}\n", "ctl: {authentication: {username: c, password: two}}\n"
	for _, c := range []struct {
		file    string
		environ []string
		want    string
	}{
		{"scope: main", nil, ":"}, {rest, nil, "r:one"}, {rest + ctl, nil, "c:two"},
		{"scope: main", []string{"PATRONI_RESTAPI_USERNAME=e", "PATRONI_RESTAPI_PASSWORD=three"}, "e:three"},
		{rest, []string{"PATRONI_CTL_USERNAME=e", "PATRONI_CTL_PASSWORD=three"}, "e:three"},
	} {
		path := filepath.Join(t.TempDir(), "patroni.yml")
		if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		config := Default()
		config.Patroni.Config = path
		if err := config.derive(c.environ); err != nil {
			t.Fatal(err)
		}
		if got := config.Patroni.API.Username + ":" + config.Patroni.API.Password.Reveal(); got != c.want {
			t.Errorf("%q %v: %s, want %s", c.file, c.environ, got, c.want)
		}
	}
}

func TestYAML11(t *testing.T) {
	tr := tree{}
	err := tr.read([]byte("a: on\nb: yes\nc: 1\nd: off\ne: false\nf: 15\ng: 12:30:00\nh: [x, 5]\ni: {j: ~}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		if !tr.truth(key) {
			t.Errorf("%s is false", key)
		}
	}
	for _, key := range []string{"d", "e", "f", "none", "none.below", "a.below", "h"} {
		if tr.truth(key) {
			t.Errorf("%s is true", key)
		}
	}
	if tr.text("f") != "15" || !slices.Equal(tr.list("h"), []string{"x", "5"}) || tr.has("i.j") {
		t.Error(tr)
	}
}

func FuzzPatroniFile(f *testing.F) {
	for _, seed := range []string{"scope: a\netcd3: {hosts: 'a,b:1'}\npostgresql: {listen: '[::1]:5432'}", "etcd: {url: 'http://%zz'}",
		"scope: [1]\npostgresql: 5", "? {a: b}\n: c", "a: &x {b: *x}", "restapi: {listen: ':'}\npostgresql: {use_unix_socket: on}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		tr := tree{}
		if tr.read(data) != nil {
			return
		}
		c := Default()
		c.fromPatroni(tr)
		_ = c.Validate()
	})
}
