package keep_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// marks are the segments with a mark of the archiver.
func (n *node) marks(end string) (names []string) {
	n.Helper()
	found, err := filepath.Glob(filepath.Join(n.DataDir, "pg_wal", "archive_status", "0000000100000*"+end))
	if err != nil {
		n.Fatal(err)
	}
	for _, path := range found {
		names = append(names, strings.TrimSuffix(filepath.Base(path), end))
	}
	return names
}

// TestPrePromote promotes a standby whose primary could not archive (R14).
func TestPrePromote(t *testing.T) {
	w := newWorld(t)
	primary := w.primary()
	standby := primary.standby()
	standby.Exec("alter system set max_wal_size = '1GB'") // no daemon keeps its WAL here
	standby.Exec("select pg_reload_conf()")
	primary.archives(primary.archiveCommand())
	before := primary.segments(2)
	w.has(before...)
	primary.archives(refuse)
	names := primary.segments(5)
	primary.Exec("insert into t select generate_series(1, 1000)")
	standby.catches(primary)
	primary.Stop("fast") // which ends a segment and begins another
	complete := primary.marks(".ready")
	lab.Poll(t, 20*time.Second, "all of it on the standby", func() error {
		if lost := without(complete, standby.marks(".done")); len(lost) > 0 {
			return errNotYet
		}
		return nil
	})
	done := standby.marks(".done")
	t.Logf("the primary completed %v, the standby has closed %v", complete, done)

	call := func(args ...string) (string, time.Duration) {
		t.Helper()
		code, said, took := standby.call(args...)
		if code != 0 {
			t.Errorf("%q exits %d: %s", args, code, said)
		}
		return said, took
	}
	promote := []string{"--config", standby.config, "patroni", "pre-promote"}

	// Whatever is wrong, the promotion goes on.
	broken := w.run.WriteFile(lab.User1, 0o600, "cluster: [", "broken.yaml")
	absent := w.run.WriteFile(lab.User1, 0o600, strings.Replace(read(t, standby.config), standby.DataDir, "/nowhere", 1), "absent.yaml")
	for _, args := range [][]string{
		{"patroni", "pre-promote"}, {"--config", broken, "patroni", "pre-promote"}, {"--config", absent, "patroni", "pre-promote"},
		{"patroni", "pre-promote", "--nonsense"}, {"patroni", "pre-promote", "a", "b"}, {"--nonsense", "patroni", "pre-promote"}, {"pre-promote"}, {"patroni", "pre-promote", "--help"},
	} {
		call(args...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if out, err := w.run.Command(ctx, "root", nil, append([]string{w.bin}, promote...)...).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("does not run as root")) {
		t.Errorf("as root: %v: %s", err, out)
	}
	if ready := standby.marks(".ready"); len(ready) > 0 {
		t.Errorf("queued already: %v", ready)
	}

	// A store that does not answer costs no second; a busy machine can hold up one call.
	w.proxy.Set(blackHole)
	for try := 1; ; try++ {
		for _, name := range standby.marks(".ready") {
			mark := filepath.Join(standby.DataDir, "pg_wal", "archive_status", name)
			if err := os.Rename(mark+".ready", mark+".done"); err != nil {
				t.Fatal(err)
			}
		}
		said, took := call(promote...)
		if !strings.Contains(said, "as known from nobody: the newest are taken\n") || strings.Count(said, "pre-promote: ") != 1 {
			t.Errorf("with a black hole: %s", said)
		}
		if lost := without(complete, append(standby.marks(".ready"), before...)); len(lost) > 0 {
			t.Errorf("with a black hole %v were not queued: %s", lost, said)
		}
		if took < time.Second {
			t.Logf("with a black hole it took %s", took)
			break
		}
		if try == 3 {
			t.Fatalf("with a black hole it took %s", took)
		}
	}
	for _, name := range standby.marks(".ready") {
		mark := filepath.Join(standby.DataDir, "pg_wal", "archive_status", name)
		if err := os.Rename(mark+".ready", mark+".done"); err != nil {
			t.Fatal(err)
		}
	}
	w.proxy.Set()
	said, took := call(promote...)
	t.Logf("%s in %s", strings.TrimSpace(said), took)
	if !strings.Contains(said, "as known from the archive\n") || strings.Count(said, "\n") != 1 {
		t.Errorf("%s", said)
	}
	archived := w.archived()
	if got, want := standby.marks(".ready"), without(complete, archived); !slices.Equal(got, want) {
		t.Errorf("queued %v, want %v", got, want)
	}

	standby.Exec("alter system set archive_command = '" + standby.archiveCommand() + "'")
	standby.Exec("select pg_reload_conf()")
	standby.Exec("select pg_promote()")
	w.has(append(append(names, complete...), "00000002.history")...)
	for _, name := range w.archived() {
		if strings.HasPrefix(name, "00000001") && len(name) == 24 && !slices.Contains(complete, name) && !slices.Contains(archived, name) {
			t.Errorf("%s is archived, and was not complete", name)
		}
	}
}

// TestPatroniPromotes: Patroni honours the hook that setup gives it, in a switchover and
// in a failover with an archive backlog, and never without its blessing.
func TestPatroniPromotes(t *testing.T) {
	w := newWorld(t)
	program := w.run.WriteFile(lab.User1, 0o755, "#!/bin/sh\nexec "+w.bin+` --config "$HOME/pgha.yaml" "$@"`+"\n", "pgha")
	c := lab.StartCluster(t, lab.ClusterOptions{Members: 2, Etcd: 1, Parameters: map[string]string{"archive_timeout": "0"},
		Extra: map[string]any{"bootstrap": map[string]any{"dcs": map[string]any{"maximum_lag_on_failover": 1 << 30}}},
		Prepare: func(m *lab.Member) {
			state := w.run.Mkdir(m.User, 0o700, filepath.Base(m.Home), "state")
			w.run.WriteFile(m.User, 0o600, "patroni: {config: "+m.ConfigFile+"}\ncluster: {state_dir: "+state+"}\nrepositories:\n  - {name: main, type: s3, s3: {endpoint: \"http://"+
				w.proxy.Addr()+"\", bucket: "+w.s3.Bucket+", region: "+w.s3.Region+", access_key: "+w.s3.AccessKey+", secret_key: "+w.s3.SecretKey+", path_style: path, tls: \"off\"}}\n",
				filepath.Base(m.Home), "pgha.yaml")
		}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	leader := c.Leader()
	if out, err := w.run.Command(ctx, leader.User, []string{"HOME=" + leader.Home}, program, "patroni", "setup", "--apply", "--program", program).CombinedOutput(); err != nil ||
		!bytes.Contains(out, []byte("postgresql.pre_promote")) {
		t.Fatalf("setup: %v: %s", err, out)
	}
	knows := func(m *lab.Member, setting, text string) {
		t.Helper()
		lab.Poll(t, 30*time.Second, m.Name+" to know of the change", func() error {
			var command string
			if m.QueryRow("show "+setting, &command); !strings.Contains(command, text) {
				return errNotYet
			}
			return nil
		})
	}
	next := c.Replicas()[0]
	knows(next, "archive_command", "archive-push")
	ran := func(m *lab.Member, times int, texts ...string) {
		t.Helper()
		log := read(t, m.Log)
		if strings.Count(log, "pre_promote script `/bin/sh -c '"+program+" patroni pre-promote; exit 0'` exited with 0") != times {
			t.Errorf("the hook of %s: want %d times exit 0:\n%s", m.Name, times, log)
		}
		for _, text := range append(texts, "pre-promote: ") {
			if !strings.Contains(log, text) {
				t.Errorf("%s did not say %q", m.Name, text)
			}
		}
	}
	c.Switchover(next)
	ran(next, 1, "that the archive lacks queued again, as known from the archive")

	// A failover with a backlog, to the former leader.
	old, next := c.Leader(), c.Replicas()[0]
	c.PatchConfig(`{"postgresql": {"parameters": {"archive_command": "/bin/false"}}}`)
	knows(old, "archive_command", "/bin/false")
	old.Exec("create table t (i int)")
	var names []string
	for range 3 {
		var name, to string
		old.Exec("insert into t values (1)")
		old.QueryRow("select pg_walfile_name(pg_switch_wal())", &name)
		old.QueryRow("select pg_current_wal_lsn()::text", &to)
		names = append(names, name)
		lab.Poll(t, 30*time.Second, "replay", func() error {
			var done bool
			if next.QueryRow("select pg_last_wal_replay_lsn() >= '"+to+"'", &done); !done {
				return errNotYet
			}
			return nil
		})
	}
	old.Kill9()
	if err := c.Etcd.DeletePrefix(c.Key("leader")); err != nil {
		t.Fatal(err)
	}
	lab.Poll(t, 90*time.Second, next.Name+" to be writable", func() error {
		conn, err := pgx.Connect(ctx, next.DSN())
		if err == nil {
			_, err = conn.Exec(ctx, "insert into t values (2)")
			_ = conn.Close(ctx)
		}
		return err
	})
	ran(next, 1, " that the archive lacks queued again, as known from the archive")
	c.PatchConfig(`{"postgresql": {"parameters": {"archive_command": "` + program + ` archive-push %p"}}}`)
	w.has(append(names, "00000003.history")...)
}
