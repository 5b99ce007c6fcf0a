// Package alerts_test lets Prometheus's own tool judge the alert rules.
package alerts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

type rules struct {
	Groups []struct {
		Name  string           `yaml:"name"`
		Rules []map[string]any `yaml:"rules"`
	} `yaml:"groups"`
}

// TestAlertRules wants every rule to be quiet, to fire and to clear as its test says,
// and the test to notice a rule that never fires and one that never clears.
func TestAlertRules(t *testing.T) {
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "configs", "prometheus")
	read := func(name string) []byte {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	tests := read("alerts_test.yaml")
	if out, ok := promtool(t, dir, "test", "rules", "alerts_test.yaml"); !ok {
		t.Fatal(out)
	}
	for how, break_ := range map[string]func(expr string) string{
		"never":  func(expr string) string { return "(" + expr + ") and on () vector(0) == 1" },
		"always": func(expr string) string { return "(" + expr + ") or vector(1)" },
	} {
		var r rules
		if err := yaml.Unmarshal(read("alerts.yaml"), &r); err != nil {
			t.Fatal(err)
		}
		for _, rule := range r.Groups[0].Rules {
			rule["expr"] = break_(strings.TrimSpace(rule["expr"].(string)))
		}
		changed, err := yaml.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		at := t.TempDir()
		if os.WriteFile(filepath.Join(at, "alerts.yaml"), changed, 0o600) != nil || os.WriteFile(filepath.Join(at, "alerts_test.yaml"), tests, 0o600) != nil {
			t.Fatal("the changed rules cannot be written")
		}
		out, ok := promtool(t, at, "test", "rules", "alerts_test.yaml")
		for _, rule := range r.Groups[0].Rules {
			if name := rule["alert"].(string); ok || !strings.Contains(out, name+`\"`) {
				t.Errorf("%s that fires %s passes its test:\n%s", name, how, out)
			}
		}
		if n := len(r.Groups[0].Rules); n < 10 {
			t.Errorf("there are %d rules only", n)
		}
	}
}

func promtool(t *testing.T, dir string, args ...string) (out string, ok bool) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("promtool is not installed: run `make deps`")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}
