// Package e2e runs the whole story on a real Patroni cluster: archive, back up,
// lose, come back; and judges it by the ledger and by PostgreSQL's own tools.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// world is a Patroni cluster that archives into a store through our program.
type world struct {
	*testing.T
	s3      *lab.S3
	proxy   *faultproxy.Proxy // nil unless asked for
	cluster *lab.Cluster
	binary  string
	restore int
}

// worldOptions vary the usual three members on one store.
type worldOptions struct {
	major   int
	members int
	etcd    int
	proxied bool           // a fault proxy stands before the store
	patroni map[string]any // more of each patroni.yml
	// More of PostgreSQL's parameters.
	parameters map[string]string
	// The server's commands are pgha-wal, and each file whose push succeeded is written
	// down, in acked-<member>.
	hooked bool
	// Patroni calls ours before it promotes.
	prePromote bool
	extra      string // more lines of our configuration; {host} is the member's address, {home} its directory
}

func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	run := lab.RunOf(t)
	w := &world{T: t, s3: lab.StartS3(t, lab.S3Options{}), binary: run.Build("pgha-backup")}
	endpoint := w.s3.Endpoint
	if o.proxied {
		var err error
		if w.proxy, err = faultproxy.Start(w.s3.Addr); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.proxy.Close)
		endpoint = "http://" + w.proxy.Addr()
	}
	ours := w.binary + " --config " + run.Path("pgha-{member}.yaml")
	client, written := ours, ""
	if o.hooked {
		client = run.Build("pgha-wal") + " --socket {home}/state/socket --config " + run.Path("pgha-{member}.yaml")
		written = " && echo %f >> " + run.Path("acked-{member}")
	}
	if o.prePromote {
		o.patroni = map[string]any{"postgresql": map[string]any{"pre_promote": ours + " patroni pre-promote"}}
	}
	parameters := map[string]string{"track_commit_timestamp": "on"} // marks know their commit's time
	maps.Copy(parameters, o.parameters)
	w.cluster = lab.StartCluster(t, lab.ClusterOptions{
		Members: o.members, Major: o.major, Etcd: o.etcd, HAProxy: true, Extra: o.patroni,
		Parameters: parameters, ArchiveCommand: client + " archive-push %p" + written, RestoreCommand: client + " archive-get %f %p",
		Prepare: func(m *lab.Member) {
			text := w.config(m, endpoint) + strings.NewReplacer("{host}", m.Host, "{home}", m.Home).Replace(o.extra)
			run.WriteFile(m.User, 0o600, text, "pgha-"+m.Name+".yaml")
			run.Mkdir(m.User, 0o700, filepath.Base(m.Home), "state")
			run.WriteFile(m.User, 0o644, "", "acked-"+m.Name)
		},
	})
	return w
}

func (w *world) config(m *lab.Member, endpoint string) string {
	return fmt.Sprintf(`patroni:
  config: %s
cluster:
  state_dir: %s/state
repositories:
  - name: main
    type: s3
    s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}
`, m.ConfigFile, m.Home, endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey)
}

// result is what one command did.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// do runs our program as the member's user, as a person would on that node. Its
// configuration lies beside the member's home: a killed member does not take it along.
func (w *world) do(m *lab.Member, args ...string) result {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
	defer cancel()
	argv := append([]string{w.binary, "--config", m.Run().Path("pgha-" + m.Name + ".yaml")}, args...)
	cmd := m.Run().Command(ctx, m.User, nil, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Errorf("%s: %v", strings.Join(args, " "), err)
		return result{code: -1}
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs our program and insists on success.
func (w *world) must(m *lab.Member, args ...string) result {
	w.Helper()
	r := w.do(m, args...)
	if r.code != 0 {
		w.Fatalf("%s: %s", strings.Join(args, " "), r)
	}
	return r
}

// backup takes a full backup on the member and returns its manifest.
func (w *world) backup(m *lab.Member) catalog.Manifest {
	w.Helper()
	r := w.must(m, "backup", "--format", "json")
	var manifest catalog.Manifest
	if err := json.Unmarshal([]byte(r.stdout), &manifest); err != nil {
		w.Fatalf("backup: %v: %s", err, r)
	}
	return manifest
}

// lose removes a WAL segment from the store, behind everybody's back.
func (w *world) lose(segment string) {
	w.Helper()
	for key := range w.s3.Keys() {
		if strings.HasSuffix(key, "/"+segment) {
			if err := os.Remove(filepath.Join(w.s3.Dir, w.s3.Bucket, key)); err != nil {
				w.Fatal(err)
			}
			return
		}
	}
	w.Fatalf("the store has no %s to lose", segment)
}

// stored tells whether an object of that name is in the store.
func (w *world) stored(name string) error {
	for key := range w.s3.Keys() {
		if strings.HasSuffix(key, "/"+name) {
			return nil
		}
	}
	return errNotYet
}
