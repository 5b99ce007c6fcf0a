package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	fifo, large, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "large"), filepath.Join(dir, "link")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.WriteFile(large, make([]byte, maxFile+1), 0o600), os.Symlink("/dev/zero", link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{fifo: "not a regular file", link: "not a regular file", "/dev/zero": "not a regular file", dir: "not a regular file",
		large: "file has more than the 1048576 bytes that are read"} {
		if _, err := load(path, nil); err == nil || err.Error() != path+": "+want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		ours := filepath.Join(dir, "ours.yaml")
		if err := os.WriteFile(ours, []byte("cluster: {scope: x}\nrepositories: [{name: a, type: s3}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := load(ours, []string{"PGHA_BACKUP_S3_SECRET_KEY_FILE=" + path})
		if err == nil || !strings.Contains(err.Error(), path+": "+want) {
			t.Errorf("a secret of %s: %v", path, err)
		}
	}
}

// However much a file says, what is wrong with it is told soon and shortly.
func TestHostileYAML(t *testing.T) {
	keys := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString("x: 1, ")
		}
		return "{" + b.String() + "}"
	}
	for name, c := range map[string]struct{ text, want string }{
		"aliases of unknown keys": {"x: &a " + keys(100_000) + "\nrepositories: [" + strings.Repeat("*a,", 100_000) + "*a]\n", "at most 200 are read"},
		"fewer of them":           {"x: &a " + keys(100_000) + "\nrepositories: [" + strings.Repeat("*a,", 100) + "*a]\n", "unknown key"},
		"an alias of itself":      {"cluster: &a {scope: *a}\n", "cluster.scope"},
		"aliases of aliases":      {"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\npatroni: {etcd: {endpoints: [*c,*c]}}\n", "patroni.etcd.endpoints"},
		"depth":                   {"cluster: " + strings.Repeat("[", 100_000), "exceeded max depth"},
		"depth of blocks":         {strings.Repeat("- ", 100_000) + "x", "exceeded max depth"},
		"NUL":                     {"cluster: {scope: \"a\x00b\"}", "control characters are not allowed"},
		"not UTF-8":               {"cluster: {scope: \"\xff\"}", "invalid"},
		"twice":                   {"cluster: {scope: a, scope: b}", "given twice"},
		"a number as a text":      {"cluster: {scope: 1e999999}", "no repository"},
		"two documents":           {"cluster: {scope: a}\n---\ncluster: {scope: b}\n", "no repository"},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := load(path, nil)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || len(e.Problems) > maxProblems+10 {
			t.Errorf("%s: %.300v, want %s", name, err, c.want)
		}
	}
}

func TestHostilePatroniFile(t *testing.T) {
	many := strings.Builder{}
	for i := range 90_000 {
		many.WriteString("k")
		many.WriteString(strings.Repeat("x", i%7))
		many.WriteString(string(rune('a'+i%26)) + strings.Repeat("y", i%11) + string(rune('a'+i/26%26)) + string(rune('a'+i/676%26)) + string(rune('a'+i/17576%26)) + ": 1\n")
	}
	for name, c := range map[string]struct{ text, want string }{
		"many keys":          {many.String(), "more than 5000 values"},
		"aliases of aliases": {"a: &a {" + strings.Repeat("? [x] : 1, ", 1) + "}\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n", ""},
		"an alias of itself": {"a: &a {b: *a}", "contains itself"},
		"depth":              {strings.Repeat("a: {", 9_000) + strings.Repeat("}", 9_000), ""},
		"more depth":         {strings.Repeat("{a: ", 20_000), "exceeded max depth"},
	} {
		tr := tree{}
		err := tr.read([]byte(c.text))
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %.300v, want %s", name, err, c.want)
		}
		for path := range tr {
			if len(path) > 2*maxPath {
				t.Errorf("%s: a path of %d bytes", name, len(path))
			}
		}
	}
}
