package wal_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// A real server's WAL of every kind arrives, and each of the ways in which
// PostgreSQL and Patroni call us works.
func TestPush(t *testing.T) {
	w := newWorld(t)
	l := newLedger(w, 3)
	if n := len(w.s3.Keys()); n == 0 || !w.archived("/repository.json") {
		t.Fatalf("%d objects, repository.json among them: %v", n, w.archived("/repository.json"))
	}
	backup := false
	for key := range w.s3.Keys() {
		backup = backup || strings.HasSuffix(key, ".backup")
	}
	if !backup {
		t.Error("the backup history file is not archived")
	}

	// Round trips are what a distant store costs: a push into a known repository is one.
	config, _ := w.config()
	segment := l.files[l.rows-1]
	path := filepath.Join(l.primary.DataDir, "pg_wal", segment)
	var requests []string
	for range 2 { // the first time asks whether the repository exists
		w.replace(w.key("/"+segment), nil)
		before := len(w.proxy.Requests())
		if code, out := w.call("/", "--config", config, "archive-push", path); code != 0 {
			t.Fatalf("push: exit %d\n%s", code, out)
		}
		requests = w.proxy.Requests()[before:]
	}
	if len(requests) != 1 || !strings.HasPrefix(requests[0], "PUT ") {
		t.Errorf("a push into a known repository asks %q, want one PUT", requests)
	}

	// A promoted copy archives .partial and .history beside the rest.
	p := l.copy("standby.signal", w.restoreCommand(config), map[string]string{
		"archive_mode": "on", "archive_command": w.archiveCommand(config)})
	p.Start()
	p.Exec("SELECT pg_promote()")
	l.waitArchived("00000002.history")
	p.Exec("INSERT INTO ledger VALUES (100); SELECT pg_switch_wal()")
	p.Exec("CHECKPOINT")

	pushByHand(t, l, config)
	pushOthers(t, l, config, "others")
	for _, args := range [][]string{{"archive-push"}, {"archive-push", "--nonsense"}, {"--config", "/nonexistent", "archive-push", path}} {
		if code, out := w.call("/", args...); code != 1 {
			t.Errorf("%v: exit %d\n%s", args, code, out)
		}
	}
}

func pushByHand(t *testing.T, l *ledger, config string) {
	segment := l.files[l.rows-1]
	path := filepath.Join(l.primary.DataDir, "pg_wal", segment)
	// Absolute from anywhere, relative from PGDATA, relative from pg_wal.
	for _, call := range []struct{ dir, path string }{
		{"/", path},
		{l.primary.DataDir, "pg_wal/" + segment},
		{filepath.Join(l.primary.DataDir, "pg_wal"), segment},
	} {
		if code, out := l.call(call.dir, "--config", config, "archive-push", call.path); code != 0 {
			t.Errorf("push %s from %s: exit %d\n%s", call.path, call.dir, code, out)
		}
	}
}

// The same WAL in a recycled file is the same; other WAL under its name is not.
func pushOthers(t *testing.T, l *ledger, config, home string) {
	segment := l.files[l.rows-1]
	plain, err := os.ReadFile(filepath.Join(l.primary.DataDir, "pg_wal", segment))
	if err != nil {
		t.Fatal(err)
	}
	tail := append([]byte(nil), plain...)
	copy(tail[len(tail)-8192:], "what a recycled file still holds")
	if code, out := l.call("/", "--config", config, "archive-push", l.foreign(home, segment, tail)); code != 0 {
		t.Errorf("push with another tail behind the valid end: exit %d\n%s", code, out)
	}
	other := append([]byte(nil), plain...)
	other[60] ^= 1
	code, out := l.call("/", "--config", config, "archive-push", l.foreign(home, segment, other))
	if code != 1 || !strings.Contains(out, "other content") {
		t.Errorf("push of other content: exit %d\n%s", code, out)
	}
	if !l.archived("conflict/" + segment + "/" + sha256Hex(other)) {
		t.Error("the refused content is not kept")
	}
	for name, body := range map[string][]byte{"short": plain[:len(plain)/2], "zero": make([]byte, len(plain)), "empty": nil} {
		if code, out := l.call("/", "--config", config, "archive-push", l.foreign(home, l.files[3], body)); code != 1 {
			t.Errorf("push of a %s file: exit %d\n%s", name, code, out)
		}
	}
	if code, out := l.call("/", "--config", config, "archive-push", l.foreign(home, "0000000100000000000000AA", plain)); code != 1 {
		t.Errorf("push under a wrong name: exit %d\n%s", code, out)
	}
}

// foreign writes a WAL file into a directory of its own beside the primary's data.
func (l *ledger) foreign(where, name string, body []byte) string {
	return l.run.WriteFile(lab.User1, 0o600, string(body), l.mkdir(where), "pg_wal", name)
}

func (l *ledger) mkdir(where string) string {
	l.run.Mkdir(lab.User1, 0o755, where, "pg_wal")
	return where
}
