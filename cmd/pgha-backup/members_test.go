package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// patroniArgs are what Patroni passes beside the method's own keys.
func patroniArgs(scope, dataDir string) []string {
	return []string{"patroni", "create-replica", "--no_leader=1", "--no_master=1", "--keep_data=False", "--foo=some value", "--scope=" + scope,
		"--role=replica", "--datadir=" + dataDir, "--connstring="}
}

func TestCreateReplicaRefusesEarly(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.dir, "data")
	stamp := filepath.Join(h.dir, "state", "create-replica.failed")
	for _, c := range []struct {
		name    string
		prepare func()
		args    []string
		code    int
		want    string
	}{
		{"no repository", func() {}, patroniArgs("main", dir), exitPreflight, "holds nothing of cluster main"},
		{"asked again at once", func() {}, patroniArgs("main", dir), exitPreflight,
			"create-replica failed (times in a row: 1), last at 2026-11-21T12:00:00Z (repository nas holds nothing of cluster main): not tried again before 2026-11-21T12:00:10Z"},
		{"another cluster", func() { h.must(os.Remove(stamp)) }, patroniArgs("other", dir), exitConfig, "Patroni means cluster other"},
		{"only a damaged backup", h.damaged, patroniArgs("main", dir), exitPreflight, "no undamaged full backup lies on the history of timeline 1"},
		{"no data directory", func() { h.must(os.RemoveAll(stamp)) }, []string{"patroni", "create-replica"}, exitConfig, "the data directory is not known"},
	} {
		c.prepare()
		code, stdout, stderr := h.run(c.args...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d, want %d with %q\n%s%s", c.name, code, c.code, c.want, stdout, stderr)
		}
		if _, err := os.Lstat(dir); err == nil {
			t.Fatalf("%s: %s was touched", c.name, dir)
		}
	}
}

// damaged makes a repository whose only backup has bad pages.
func (h *host) damaged() {
	_, err := h.catalog(system).Create(h.t.Context(), size, "required", noon)
	h.must(err)
	h.archive(1, 1, 4)
	h.backup("20261121T090000Z-manual-1f0a", 2, 3, catalog.Damage{Path: "base/5/16384", Blocks: []uint32{7}})
}

func TestBootstrapRefusesEarly(t *testing.T) {
	h := newHost(t)
	h.stock()
	dir := filepath.Join(h.dir, "data")
	h.write("source.yaml", "cluster: {scope: main}\nrepositories: [{name: nas, type: file, file: {path: "+h.repository+"}}]\n")
	h.write("clone.yaml", "cluster: {scope: clone, state_dir: "+h.dir+"/state}\nrepositories: [{name: nas, type: file, file: {path: "+h.repository+"}}]\n")
	source := "--from-config=" + filepath.Join(h.dir, "source.yaml")
	for _, c := range []struct {
		config string
		args   []string
		code   int
		want   string
	}{
		{"clone.yaml", nil, exitUsage, "want --from-config"},
		{"clone.yaml", []string{source, "--from-scope=main"}, exitUsage, "want --from-config"},
		{"clone.yaml", []string{source, "--target_tme=2026-11-21T10:00:00Z"}, exitUsage, "unknown flag --target-tme"},
		{"clone.yaml", []string{source, "--recovery_target_time=2026-11-21T10:00:00Z"}, exitUsage, "unknown flag --recovery-target-time"},
		{"clone.yaml", []string{source, "--target-action=pause"}, exitUsage, "a new cluster is promoted"},
		{"clone.yaml", []string{source, "--scope=main"}, exitConfig, "Patroni means cluster main"},
		{"clone.yaml", []string{source, "--my_key=True", "--target_timeline=9"}, exitNotFound, "timeline 9 is not in the archive; there are: 2, 1"},
		{"clone.yaml", []string{"--from-scope=main", "--target_timeline=9"}, exitNotFound, "timeline 9 is not in the archive"},
		{"clone.yaml", []string{"--from-scope=other"}, exitNotFound, "holds nothing of cluster other"},
		{"config.yaml", []string{source, "--scope=main"}, exitPreflight, "the source is named main, as the new cluster is"},
		{"config.yaml", []string{"--from-scope=main"}, exitPreflight, "the source is named main, as the new cluster is"},
	} {
		args := append([]string{"--config", filepath.Join(h.dir, c.config), "patroni", "bootstrap", "--datadir=" + dir}, c.args...)
		code, stdout, stderr := h.run(args...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%s %v: exit %d, want %d with %q\n%s%s", c.config, c.args, code, c.code, c.want, stdout, stderr)
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("%s was touched", dir)
	}
}

// Where Patroni names a source somebody leads, on a timeline that must be known: the
// archive's newest one may be older.
func TestCreateReplicaWantsTheLeadersTimeline(t *testing.T) {
	h := newHost(t)
	h.stock()
	members := ""
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cluster":
			fmt.Fprintf(w, `{"members": [%s], "scope": "main"}`, members)
		case "/patroni":
			fmt.Fprintf(w, `{"state": "running", "role": "replica", "database_system_identifier": "%s", "patroni": {"scope": "main"}}`, system)
		case "/config":
			fmt.Fprint(w, `{}`)
		}
	}))
	defer api.Close()
	leader := `{"name": "a", "role": "leader", "state": "running", "timeline": 3, "api_url": "` + api.URL + `/patroni", "host": "127.0.0.1", "port": 1}`
	plain, err := os.ReadFile(h.config)
	h.must(err)
	h.write("patroni.yaml", string(plain)+"patroni: {api: {url: "+api.URL+"}}\n")
	for _, c := range []struct {
		name, config, members, connstring, want string
	}{
		{"nobody leads meanwhile", "patroni.yaml", "", "host=127.0.0.1 port=1 user=replicator", "nobody says on which timeline"},
		{"nobody to ask", "config.yaml", "", "host=127.0.0.1 port=1 user=replicator", "nobody says on which timeline"},
		{"the source is behind the leader", "patroni.yaml", leader, fakeSource(t, 2), "timeline history 00000003.history is not in the archive"},
	} {
		members = c.members
		_ = os.RemoveAll(filepath.Join(h.dir, "state"))
		dir := filepath.Join(h.dir, "data")
		code, _, stderr := h.run("--config", filepath.Join(h.dir, c.config), "patroni", "create-replica", "--datadir="+dir, "--connstring="+c.connstring)
		if code != exitPreflight || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d, want %d with %q\n%s", c.name, code, exitPreflight, c.want, stderr)
		}
	}
}

// fakeSource answers IDENTIFY_SYSTEM, and gives its connection string.
func fakeSource(t *testing.T, timeline int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	be := binary.BigEndian
	message := func(kind byte, body []byte) []byte {
		return append(be.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...)
	}
	ready := message('Z', []byte{'I'})
	description, row := []byte{0, 3}, []byte{0, 3}
	for _, v := range []string{system.String(), fmt.Sprint(timeline), "0/B000000"} {
		description = append(description, strings.Repeat("\x00", 10)+"\x19\xff\xff\xff\xff\xff\xff\x00\x00"...) // a text without a name
		row = append(be.AppendUint32(row, uint32(len(v))), v...)
	}
	answers := [][]byte{append(message('R', make([]byte, 4)), ready...),
		slices.Concat(message('T', description), message('D', row), message('C', []byte("IDENTIFY_SYSTEM\x00")), ready)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			for _, answer := range answers {
				_, _ = conn.Read(make([]byte, 4096)) // the start-up message, then the question
				_, _ = conn.Write(answer)
			}
			_, _ = conn.Read(make([]byte, 16))
			_ = conn.Close()
		}
	}()
	return fmt.Sprintf("host=127.0.0.1 port=%d user=replicator sslmode=disable", l.Addr().(*net.TCPAddr).Port)
}
