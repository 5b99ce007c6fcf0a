package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// barman is Barman's tool for object stores, from the prefix that test/deps/bench.sh made.
func (b *bench) barman(p *place) *contender {
	b.Helper()
	prefix := filepath.Join(b.cache, "barman")
	if _, err := os.Stat(filepath.Join(prefix, "complete")); err != nil {
		b.Fatalf("no Barman in %s: run test/deps/bench.sh", prefix)
	}
	r := b.room("barman", p)
	command := func(tool string, args ...string) []string {
		return append([]string{"/usr/bin/env", "PYTHONPATH=" + prefix + "/usr/lib/python3/dist-packages", "AWS_ACCESS_KEY_ID=" + p.s3.AccessKey,
			"AWS_SECRET_ACCESS_KEY=" + p.s3.SecretKey, "AWS_DEFAULT_REGION=" + p.s3.Region, "AWS_CA_BUNDLE=" + p.ca, "TMPDIR=" + b.run.Mkdir(lab.User1, 0o700, "t"),
			"/usr/bin/python3", prefix + "/usr/bin/" + tool, "--endpoint-url", "https://" + p.addr, "--addressing-style", "path"}, args...)
	}
	return &contender{
		name: "Barman zstd", class: dense, peer: true, at: p,
		backup: func() []string {
			return command("barman-cloud-backup", "--zstd", "--immediate-checkpoint", "-J", "2", "-h", b.pg.SocketDir, "-p", fmt.Sprint(b.pg.Port),
				"-U", "postgres", "s3://"+r.name, "bench")
		},
		restore: func(to string) []string {
			id := filepath.Base(b.glob(r.root + "/bench/base/*")[0])
			return command("barman-cloud-restore", "s3://"+r.name, "bench", id, to)
		},
		backups: []string{r.root + "/bench/base/*"},
	}
}

// barmanVersion is for the page.
func (b *bench) barmanVersion() string {
	prefix := filepath.Join(b.cache, "barman")
	return b.run.Must(lab.User1, "/usr/bin/env", "PYTHONPATH="+prefix+"/usr/lib/python3/dist-packages", "/usr/bin/python3", prefix+"/usr/bin/barman-cloud-backup", "--version")
}
