package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/config"
)

func TestOutputs(t *testing.T) {
	h := newHost(t)
	h.stock()
	for _, c := range []struct {
		golden string
		code   int
		stderr string
		args   string
	}{
		{"list.txt", 0, "", "list"},
		{"list.json", 0, "", "list --format json"},
		{"show.txt", 0, "", "show latest"},
		{"show.json", 0, "", "show latest --format json"},
		{"show-damaged.txt", 0, "", "show 20261121T09"},
		{"status.txt", 10, "error: degraded: 2 problems\n", "status"},
		{"status.json", 10, "error: degraded: 2 problems\n", "status --format json"},
		{"wal-list.txt", 0, "", "wal list"},
		{"wal-list.json", 0, "", "wal list --format json"},
		{"verify-backup.txt", 0, "", "verify latest"},
		{"verify.json", 9, "error: verification failed: 1 finding\nhint: do not count on what is named above; take a new backup now\n", "verify --format json --level presence"},
		{"config-show.json", 0, "", "config show --format json"},
		{"config-validate.txt", 0, "", "config validate"},
	} {
		t.Run(c.golden, func(t *testing.T) {
			h.t = t
			code, stdout, stderr := h.run(strings.Fields(c.args)...)
			if code != c.code || stderr != c.stderr {
				t.Errorf("exit %d, stderr %q; want %d, %q", code, stderr, c.code, c.stderr)
			}
			if strings.HasSuffix(c.golden, ".json") && !json.Valid([]byte(stdout)) {
				t.Error("not JSON")
			}
			h.golden(c.golden, stdout)
		})
	}
}

func TestWholeRepositoryIsNotDegraded(t *testing.T) {
	h := newHost(t)
	_, err := h.catalog(system).Create(t.Context(), size, "required", noon)
	h.must(err)
	h.archive(1, 1, 4)
	h.backup("20261121T020000Z-nightly", 2, 3)
	h.settle()
	code, stdout, stderr := h.run("status")
	if code != 0 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	h.golden("status-good.txt", stdout)
	if code, stdout, stderr = h.run("verify"); code != 0 {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	h := newHost(t)
	h.stock()
	h.must(os.Truncate(h.object("20261121T020000Z-nightly/"+h.runOf("20261121T020000Z-nightly")+"/base-0001.tar"), 5))
	h.must(os.Remove(h.object("000000010000000000000008")))
	code, stdout, stderr := h.run("verify", "20261121T02", "--level", "presence")
	if code != 9 || stderr != "error: verification failed: 2 findings\nhint: do not count on what is named above; take a new backup now\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	h.golden("verify-damaged.txt", stdout)
}

// Level full reads what the others believe: the stock's files are no PostgreSQL's.
func TestVerifyFull(t *testing.T) {
	h := newHost(t)
	h.stock()
	code, stdout, stderr := h.run("verify", "20261121T02", "--level", "full", "--format", "json")
	var said struct {
		Level    string
		Checked  struct{ Files, Documents int }
		Findings []struct{ Backup, Object, File, Problem string }
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil || code != 9 || !strings.Contains(stderr, "verification failed: ") {
		t.Fatalf("exit %d, %v: %s%s", code, err, stdout, stderr)
	}
	if said.Level != "full" || said.Checked.Files != 1 || said.Checked.Documents != 2 || len(said.Findings) == 0 {
		t.Errorf("%s", stdout)
	}
	if code, stdout, _ = h.run("verify", "--level", "full"); code != 9 || !strings.Contains(stdout, "looked at 3 files with 0 pages, 12 WAL objects and 7 documents\n") ||
		!strings.Contains(stdout, "backup 20261120T020000Z-nightly has no page checksums: its pages were not checked\n") {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

// One document that says nothing takes nothing else away, and is named.
func TestUnreadableDocuments(t *testing.T) {
	h := newHost(t)
	h.stock()
	tear := func(suffix, with string) {
		h.t.Helper()
		h.must(os.WriteFile(h.object(suffix), []byte(with), 0o600))
	}
	tear("20261120T020000Z-nightly/manifest.json", "{torn")
	resolved := h.object("repository.json")
	resolved = strings.TrimSuffix(resolved, "repository.json") + "conflict/000000010000000000000002/resolved"
	h.must(os.MkdirAll(strings.TrimSuffix(resolved, "/resolved"), 0o700))
	h.must(os.WriteFile(resolved, []byte("{torn"), 0o600))
	h.settle()
	code, stdout, stderr := h.run("list")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	h.golden("list-unreadable.txt", stdout)
	if code, stdout, stderr := h.run("schedule"); code != 0 || !strings.Contains(stdout, "unreadable") || !strings.Contains(stdout, "done") {
		t.Errorf("schedule: exit %d\n%s%s", code, stdout, stderr)
	}
	if code, stdout, stderr = h.run("show", "latest"); code != 0 || !strings.Contains(stdout, "20261121T020000Z-nightly") {
		t.Errorf("show latest: exit %d: %s", code, stderr)
	}
	if code, _, stderr = h.run("show", "20261120T02"); code != 9 || !strings.Contains(stderr, "backup 20261120T020000Z-nightly cannot be read: ") {
		t.Errorf("show of the broken one: exit %d: %s", code, stderr)
	}
	if code, stdout, stderr = h.run("verify", "latest", "--level", "presence"); code != 0 {
		t.Errorf("verify of another: exit %d: %s%s", code, stdout, stderr)
	}
	if code, stdout, _ = h.run("verify", "--level", "presence"); code != 9 || strings.Count(stdout, "torn") != 0 ||
		!strings.Contains(stdout, "20261120T020000Z-nightly/manifest.json") || !strings.Contains(stdout, "/resolved") {
		t.Errorf("verify: exit %d: %s", code, stdout)
	}
	if code, stdout, _ = h.run("status"); code != 10 || !strings.Contains(stdout, "20261120T020000Z-nightly/manifest.json cannot be read") {
		t.Errorf("status: exit %d: %s", code, stdout)
	}
	dest := h.dir + "/got"
	if code, _, stderr = h.run("archive-get", "00000002.history", dest); code != 0 {
		t.Errorf("archive-get of another file: exit %d: %s", code, stderr)
	}
	h.write("config.yaml", "archive: {get_rewind_timeout: 100ms}\n"+h.read("config.yaml"))
	if code, _, stderr = h.run("archive-get", "000000010000000000000002", dest); code == 0 || code == exitAbsent {
		t.Errorf("archive-get of the file in doubt: exit %d: %s", code, stderr)
	}
	if code, stdout, stderr = h.run("expire"); code != 9 || !strings.Contains(stderr, "manifest.json: stored data is corrupt") {
		t.Errorf("expire went on: %s%s", stdout, stderr)
	}
	tear("00000002.history", "torn")
	if code, stdout, stderr = h.run("list"); code != 0 || !strings.Contains(stdout, "Unreadable: main/7301234567890123456/wal/00000002.history: ") {
		t.Errorf("list: exit %d: %s%s", code, stdout, stderr)
	}
	if code, _, stderr = h.run("restore", "--plan"); code != 4 || !strings.Contains(stderr, "timeline history 00000002.history cannot be read: ") {
		t.Errorf("restore of a branch in doubt: exit %d: %s", code, stderr)
	}
}

// What would be removed is reckoned from histories and decisions too.
func TestExpireStopsAtWhatItCannotRead(t *testing.T) {
	for _, name := range []string{"wal/00000002.history", "conflict/000000010000000000000002/resolved"} {
		h := newHost(t)
		h.stock()
		path := strings.TrimSuffix(h.object("repository.json"), "repository.json") + name
		h.must(os.MkdirAll(filepath.Dir(path), 0o700))
		h.must(os.WriteFile(path, []byte("torn"), 0o600))
		if code, _, stderr := h.run("expire"); code != 9 || !strings.Contains(stderr, "nothing is removed while ") || !strings.Contains(stderr, name) {
			t.Errorf("exit %d: %s", code, stderr)
		}
	}
}

func (h *host) read(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.dir + "/" + name)
	h.must(err)
	return string(text)
}

// runOf is the run of a backup.
func (h *host) runOf(id string) string {
	h.t.Helper()
	path := strings.TrimSuffix(h.object(id+"/manifest.json"), "manifest.json")
	entries, err := os.ReadDir(path)
	h.must(err)
	for _, e := range entries {
		if e.IsDir() {
			return e.Name()
		}
	}
	h.t.Fatal("no run")
	return ""
}

// What a person reads when something is wrong, to the letter.
func TestComplaints(t *testing.T) {
	h := newHost(t)
	h.write("no-repository.yaml", "cluster: {scope: main}\n")
	h.write("unknown.yaml", "cluster: {scope: main}\narchive:\n  spol: /x\nrepositories: [{name: nas, type: file, file: {path: "+h.repository+"}}]\n")
	h.write("no-directory.yaml", "cluster: {scope: main}\nrepositories: [{name: nas, type: file, file: {path: "+h.dir+"/absent}}]\n")
	h.write("no-ca.yaml", "cluster: {scope: main}\nrepositories: [{name: s3, type: s3, s3: {endpoint: 'https://s3.example.com', bucket: b, ca_file: /absent.pem}}]\n")
	const advice = "add a repository, for example:\n  repositories:\n    - name: main\n      type: s3\n      s3:\n" +
		"        endpoint: https://s3.example.com\n        bucket: pg-backups\n        access_key: ...\n        secret_key: ...\n"
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"list --config DIR/absent.yaml", 3, "error: DIR/absent.yaml: no such file or directory\nhint: write it, for example:\n" +
			"  patroni:\n    config: /etc/patroni/patroni.yml\n" + strings.TrimPrefix(advice, "add a repository, for example:\n")},
		{"list --config DIR/no-repository.yaml", 3, "error: DIR/no-repository.yaml: repositories: no repository is configured\nhint: " + advice},
		{"list --config DIR/unknown.yaml", 3, "error: DIR/unknown.yaml:3: archive.spol: unknown key; known here are " +
			"fill_after, full_below, get_batch, get_recovery_timeout, get_rewind_timeout, get_standby_timeout, keep_on_standby, lost_after, on_full, push_ahead, push_timeout, spool\n"},
		{"list --config DIR/no-directory.yaml", 3, "error: look for repositories of main: list main/: bucket does not exist: DIR/absent\n" +
			"hint: create the directory DIR/absent or mount its filesystem\n"},
		{"list --config DIR/no-ca.yaml", 3, "error: s3: certificate authorities: open /absent.pem: no such file or directory\n" +
			"hint: pgha-backup config show: what is in force, and where it comes from\n"},
		{"list", 6, "error: repository nas holds nothing of cluster main\n" +
			"hint: make the cluster archive here with pgha-backup patroni setup --apply, or check cluster.scope and the repository's prefix\n"},
		{"list --system-id 7301234567890123456", 6, "error: repository nas holds nothing of cluster main, system identifier 7301234567890123456\n" +
			"hint: make the cluster archive here with pgha-backup patroni setup --apply, or check the system identifier\n"},
		{"list --system-id x", 2, "error: --system-id: system identifier \"x\": want a positive decimal number\n"},
		{"list now", 2, "error: pgha-backup list: want no arguments, got 1\nhint: see pgha-backup list --help\n"},
		{"list --formt json", 2, "error: unknown flag: --formt\nhint: see pgha-backup list --help\n"},
		{"list --format xml", 2, "error: --format \"xml\": want table or json\n"},
		{"lst", 2, "error: unknown command \"lst\" for pgha-backup\nhint: did you mean list?\n"},
		{"wal lst", 2, "error: unknown command \"lst\" for pgha-backup wal\nhint: did you mean list?\n"},
		{"backup --method tar", 2, "error: --method \"tar\": want file-copy or base-backup\n"},
		{"verify --level deep", 2, "error: --level \"deep\": want presence, hashes or full\n"},
	} {
		code, stdout, stderr := h.run(strings.Fields(strings.ReplaceAll(c.args, "DIR", h.dir))...)
		stderr = strings.ReplaceAll(stderr, h.dir, "DIR")
		if code != c.code || stderr != c.stderr || stdout != "" {
			t.Errorf("%s: exit %d, want %d\n got %q\nwant %q\nstdout %q", c.args, code, c.code, stderr, c.stderr, stdout)
		}
	}
}

func TestSeveralSystems(t *testing.T) {
	h := newHost(t)
	for _, id := range []uint64{7301234567890123456, 7399999999999999999} {
		_, err := h.catalog(postgresSystem(id)).Create(t.Context(), size, "required", noon)
		h.must(err)
	}
	code, _, stderr := h.run("list")
	if code != 2 || stderr != "error: repository nas holds 2 clusters named main\n"+
		"hint: say which with --system-id; there are 7301234567890123456, 7399999999999999999\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	if code, _, stderr = h.run("list", "--system-id", "7399999999999999999"); code != 0 {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestShowUnknownBackup(t *testing.T) {
	h := newHost(t)
	h.stock()
	for name, want := range map[string]string{
		"20200101": "error: no such backup: \"20200101\"\n", "2026": "error: no such backup: \"2026\" is the beginning of 3 of them\n",
	} {
		if code, _, stderr := h.run("show", name); code != 6 || stderr != want {
			t.Errorf("exit %d, %q", code, stderr)
		}
	}
}

func TestRootIsRefused(t *testing.T) {
	h := newHost(t)
	h.uid = 0
	code, _, stderr := h.run("list")
	if code != 4 || stderr != "error: pgha-backup list does not run as root: run it as the user that owns the data directory\n"+
		"hint: sudo -u postgres pgha-backup list ...\n" {
		t.Errorf("exit %d, %q", code, stderr)
	}
	for _, args := range []string{"", "help", "version", "version --format json", "config validate", "config show --format json", "completion bash", "list --help"} {
		if code, stdout, stderr := h.run(strings.Fields(args)...); code != 0 || stdout == "" {
			t.Errorf("%s: exit %d, %q", args, code, stderr)
		}
	}
}

func TestNewerRepositoryIsRefused(t *testing.T) {
	h := newHost(t)
	h.stock()
	path := h.object("repository.json")
	text, err := os.ReadFile(path)
	h.must(err)
	h.must(os.WriteFile(path, []byte(strings.Replace(string(text), `"format": 1`, `"format": 2`, 1)), 0o600))
	if code, _, stderr := h.run("list"); code != 1 || !strings.Contains(stderr, "upgrade pgha-backup on this host") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestCheckOfADirectory(t *testing.T) {
	h := newHost(t)
	code, stdout, stderr := h.runNow("check")
	if code != 0 || !strings.Contains(stdout, "conditional put: ") || strings.Contains(stdout, "FAILED") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	entries, err := os.ReadDir(h.repository)
	h.must(err)
	for _, e := range entries {
		if e.Name() != ".tmp" {
			t.Errorf("check left %s", e.Name())
		}
	}
	code, stdout, _ = h.runNow("check", "--format", "json")
	var answer struct {
		OK     bool
		Checks []finding
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || code != 0 || !answer.OK || len(answer.Checks) < 10 {
		t.Errorf("%v: %s", err, stdout)
	}
	// A clock that is an hour off is found out.
	if code, stdout, _ = h.run("check"); code != 10 || !strings.Contains(stdout, "FAILED   clock: the store's clock and ours are ") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	h.must(os.Remove(h.repository + "/.tmp"))
	h.must(os.Remove(h.repository))
	if code, stdout, _ = h.runNow("check"); code != 3 || !strings.Contains(stdout, "create the directory") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

func TestEmulationIsSaid(t *testing.T) {
	h := newHost(t)
	h.stock()
	c, err := os.ReadFile(h.config)
	h.must(err)
	h.write("config.yaml", strings.Replace(string(c), "name: nas", "name: nas, conditional_writes: emulate", 1))
	code, stdout, _ := h.run("status")
	if code != 10 || !strings.Contains(stdout, "create-once writes are emulated") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	if _, stdout, _ = h.runNow("check"); !strings.Contains(stdout, "warning  conditional writes: emulated") {
		t.Error(stdout)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	h := newHost(t)
	h.write("config.yaml", "cluster: {scope: main, dsn: host=/tmp password=hunter2}\nrepositories: [{name: s, type: s3, s3: {endpoint: 'https://127.0.0.1:1', bucket: b, access_key: hunter2, secret_key: hunter2}}]\n")
	for _, args := range []string{"config show", "config show --format json", "config validate"} {
		code, stdout, stderr := h.run(strings.Fields(args)...)
		if code != 0 || strings.Contains(stdout+stderr, "hunter2") || strings.Contains(args, "show") && !strings.Contains(stdout, "[redacted]") {
			t.Errorf("%s: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
}

// WAL goes through pgha-wal where that is installed beside the program, and the rest
// through the program.
func TestHooksPrefix(t *testing.T) {
	dir := t.TempDir()
	a := &app{config: config.Config{Daemon: config.Daemon{Socket: "/run/s"}}}
	prefix := []string{filepath.Join(dir, "pgha-backup"), "--config", "/c"}
	if got := a.hooksPrefix(prefix); !slices.Equal(got, prefix) {
		t.Errorf("pgha-wal is not installed: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "pgha-wal"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	got := wanted(prefix, a.hooksPrefix(prefix))
	if want := dir + "/pgha-wal --socket /run/s --config /c archive-push \"%p\""; got.Archive != want {
		t.Errorf("%s, want %s", got.Archive, want)
	}
	if want := dir + "/pgha-wal --socket /run/s --config /c archive-get \"%f\" \"%p\""; got.Restore != want || !strings.HasPrefix(got.Replica, dir+"/pgha-backup --config /c ") {
		t.Errorf("%s, %s", got.Restore, got.Replica)
	}
	a.config.Daemon.Socket = ""
	if got := a.hooksPrefix(prefix); !slices.Equal(got, prefix) {
		t.Errorf("no daemon to ask: %q", got)
	}
}

func TestCutMapping(t *testing.T) {
	for text, want := range map[string][2]string{
		"/a=/b":             {"/a", "/b"},
		"/a=/b=c":           {"/a", "/b=c"},
		`/a\=b=/c\=d`:       {"/a=b", "/c=d"},
		`/a\\=b=/c`:         {`/a\=b`, "/c"},
		`/a\b=/c\d`:         {`/a\b`, `/c\d`},
		"=/b":               {"", "/b"},
		`/no\=sign/at\=all`: {`/no\=sign/at\=all`, ""},
	} {
		from, to, ok := cutMapping(text)
		if from != want[0] || to != want[1] || ok != (to != "") {
			t.Errorf("%q: %q, %q, %v", text, from, to, ok)
		}
	}
}
