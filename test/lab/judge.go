package lab

import (
	"os"
	"path/filepath"
)

// JudgeFiles runs pg_verifybackup over a restored data directory that has never been started. WAL is not
// parsed: it comes from the archive.
func JudgeFiles(t T, major int, user, dataDir string) {
	t.Helper()
	run := RunOf(t)
	if _, err := os.Stat(filepath.Join(dataDir, "backup_manifest")); err != nil {
		t.Fatalf("lab: a restored directory without its manifest: %v", err)
	}
	run.Must(user, filepath.Join(BinDir(t, major), "pg_verifybackup"), "--no-parse-wal", "--exit-on-error", dataDir)
}

// Judge has PostgreSQL's own tools look at the server: pg_amcheck, every heap row against every index of every
// database, and, while it is stopped for that, pg_checksums. The server ends as it began, running; one in
// recovery is looked at by pg_checksums only, because amcheck's extension cannot be made there.
func (p *Postgres) Judge() {
	p.t.Helper()
	var recovering bool
	var checksums string
	p.QueryRow("select pg_is_in_recovery(), current_setting('data_checksums')", &recovering, &checksums)
	if !recovering {
		p.run.Must(p.User, p.Bin("pg_amcheck"), "--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend",
			"-h", p.SocketDir, "-p", "5432", "-U", "postgres")
	}
	if checksums != "on" {
		return
	}
	if _, err := os.Stat(p.Bin("pg_checksums")); err != nil { // 16 comes without; a base backup reads every page, too
		dir := filepath.Join(p.run.Mkdir(p.User, 0o700, "judge"), "read")
		p.run.Must(p.User, p.Bin("pg_basebackup"), "-d", p.SocketDSN(), "-c", "fast", "-X", "none", "-F", "tar", "-D", dir, "--no-sync")
		if err := os.RemoveAll(dir); err != nil {
			p.t.Fatalf("lab: %v", err)
		}
		return
	}
	p.Stop("fast")
	p.run.Must(p.User, p.Bin("pg_checksums"), "--check", "-D", p.DataDir)
	p.Start()
}
