// Package members lets a real Patroni make its members, and a whole new cluster,
// from the repository.
package members

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// world is a store and the clusters that archive into it.
type world struct {
	*testing.T
	major   int // of PostgreSQL; 15 when zero
	run     *lab.Run
	s3      *lab.S3
	program string // calls ours with the configuration that lies in the home of whoever runs it
	cluster *lab.Cluster
}

const login = "admin"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, run: lab.RunOf(t)}
	w.s3 = lab.StartS3(t, lab.S3Options{})
	// Every member must be able to run the same command line, and all live on one host.
	w.program = w.run.WriteFile(lab.User1, 0o755, "#!/bin/sh\nexec "+w.run.Build("pgha-backup")+` --config "$HOME/pgha.yaml" "$@"`+"\n", "pgha")
	return w
}

// start starts a cluster whose Patroni wants a password for changes.
func (w *world) start(o lab.ClusterOptions) *lab.Cluster {
	w.Helper()
	o.Major = w.major
	if o.Extra == nil {
		o.Extra = map[string]any{}
	}
	o.Extra["restapi"] = map[string]any{"authentication": map[string]any{"username": login, "password": lab.Password}}
	o.Prepare = func(m *lab.Member) {
		w.run.WriteFile(m.User, 0o600, w.config("patroni: {config: "+m.ConfigFile+"}\ncluster: {state_dir: "+m.Home+"/state}\n"), filepath.Base(m.Home), "pgha.yaml")
		w.run.Mkdir(m.User, 0o700, filepath.Base(m.Home), "state")
	}
	c := lab.StartCluster(w.T, o)
	for _, m := range c.Members {
		m.API = strings.Replace(m.API, "http://", "http://"+login+":"+lab.Password+"@", 1)
	}
	return c
}

func (w *world) config(cluster string) string {
	return fmt.Sprintf("%srepositories:\n  - name: main\n    type: s3\n    s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: \"off\"}\n",
		cluster, w.s3.Endpoint, w.s3.Bucket, w.s3.Region, w.s3.AccessKey, w.s3.SecretKey)
}

// command prepares our program as the member's user.
func (w *world) command(ctx context.Context, m *lab.Member, args ...string) *exec.Cmd {
	return w.run.Command(ctx, m.User, []string{"HOME=" + m.Home}, append([]string{w.program}, args...)...)
}

func (w *world) do(m *lab.Member, args ...string) (code int, stdout, said string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	cmd := w.command(ctx, m, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		w.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), fmt.Sprintf("%s exits %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), errs.String())
}

// must insists on success and, if v is not nil, reads the document that was printed.
func (w *world) must(m *lab.Member, v any, args ...string) {
	w.Helper()
	if v != nil {
		args = append(args, "--format", "json")
	}
	code, stdout, said := w.do(m, args...)
	if code != 0 {
		w.Fatal(said)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(stdout), v); err != nil {
			w.Fatalf("%v: %s", err, said)
		}
	}
}

// logged counts a text in what a member has said from a position of its log on.
func logged(m *lab.Member, from int, text string) int {
	b, _ := os.ReadFile(m.Log)
	return strings.Count(string(b[min(from, len(b)):]), text)
}

func length(m *lab.Member) int {
	b, _ := os.ReadFile(m.Log)
	return len(b)
}

// rebuilt has a member made anew, by its Patroni, and returns where its log began to
// tell of that.
func (w *world) rebuilt(m *lab.Member) (from int) {
	w.Helper()
	from = length(m)
	w.atOnce(m)
	m.Stop()
	if err := os.RemoveAll(m.DataDir); err != nil {
		w.Fatal(err)
	}
	m.Start()
	w.cluster.WaitHealthy(time.Minute)
	return from
}

// atOnce ends the pause after a failed attempt, as its hint says.
func (w *world) atOnce(m *lab.Member) {
	w.Helper()
	if err := os.RemoveAll(filepath.Join(m.Home, "state", "create-replica.failed")); err != nil {
		w.Fatal(err)
	}
}

func (w *world) reinitialized(m *lab.Member) (from int) {
	w.Helper()
	from = length(m)
	w.atOnce(m)
	lab.Poll(w, 30*time.Second, "reinitialize", func() error { return m.Post("reinitialize", "{}") })
	lab.Poll(w, time.Minute, "a new data directory", func() error {
		if logged(m, from, "replica has been created using") == 0 {
			return errNotYet
		}
		return nil
	})
	w.cluster.WaitHealthy(time.Minute)
	return from
}

// method changes the options that Patroni calls ours with, and a setting by which a
// member shows that it knows them: a reinitialize is taken before its next look.
func (w *world) method(options, workMem string) {
	w.Helper()
	w.cluster.PatchConfig(fmt.Sprintf(`{"postgresql": {"pgha_backup": %s, "parameters": {"work_mem": %q}}}`, options, workMem))
	for _, m := range append(w.cluster.Replicas(), w.cluster.Leader()) {
		lab.Poll(w, 30*time.Second, "the new options on "+m.Name, func() error {
			var now string
			if m.QueryRow("show work_mem", &now); now != workMem {
				return errNotYet
			}
			return nil
		})
	}
}

// madeBy insists on the method that made a member.
func (w *world) madeBy(m *lab.Member, from int, method string) {
	w.Helper()
	if logged(m, from, "replica has been created using "+method) != 1 {
		b, _ := os.ReadFile(m.Log)
		w.Fatalf("%s was not made by %s:\n%s", m.Name, method, b[from:])
	}
	for _, name := range []string{"pgha.origin.json", "recovery.signal", "pgha.restore-in-progress"} {
		if _, err := os.Lstat(filepath.Join(m.DataDir, name)); err == nil {
			w.Errorf("%s of %s", name, m.Name)
		}
	}
}

func (w *world) connect(dsn string) *pgx.Conn {
	w.Helper()
	conn, err := pgx.Connect(w.Context(), dsn)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

var errNotYet = errors.New("not yet")

// stored are the objects of a scope by the last part of their names.
func (w *world) stored(scope string) map[string]bool {
	w.Helper()
	found := map[string]bool{}
	for key := range w.s3.Keys() {
		if strings.HasPrefix(key, scope+"/") {
			found[filepath.Base(key)] = true
		}
	}
	return found
}
