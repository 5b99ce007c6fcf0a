package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// tree is Patroni's configuration as its YAML gives it. Patroni reads YAML 1.1 and
// believes everything; so its values are looked at one by one, tolerantly.
type tree map[string]any

// patroniEnv are Patroni's own variables that replace what we need of its file.
var patroniEnv = map[string]string{
	"PATRONI_SCOPE": "scope", "PATRONI_NAMESPACE": "namespace", "PATRONI_NAME": "name",
	"PATRONI_SUPERUSER_USERNAME": "postgresql.authentication.superuser.username",
	"PATRONI_SUPERUSER_PASSWORD": "postgresql.authentication.superuser.password",
}

// patroniVariables adds the sections whose variables are made of their keys.
func patroniVariable(name string) (path string, ok bool) {
	if path, ok := patroniEnv[name]; ok {
		return path, true
	}
	for prefix, section := range map[string]string{
		"PATRONI_ETCD3_": "etcd3.", "PATRONI_ETCD_": "etcd.", "PATRONI_POSTGRESQL_": "postgresql.",
		"PATRONI_RESTAPI_": "restapi.", "PATRONI_CTL_": "ctl.",
	} {
		if key, ok := strings.CutPrefix(name, prefix); ok {
			key = strings.ToLower(key)
			return section + key, true
		}
	}
	return "", false
}

// readPatroni reads a file, or every *.yml and *.yaml of a directory in the order
// of their names, a later one over an earlier one; then Patroni's variables.
func readPatroni(path string, environ []string) (tree, error) {
	files := []string{path}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		files = nil
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		for _, e := range entries { // sorted by name
			if ext := filepath.Ext(e.Name()); ext == ".yml" || ext == ".yaml" {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s holds no *.yml file", path)
		}
	}
	whole := tree{}
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		part, err := parsePatroni(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		whole.merge(part)
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if at, ok := patroniVariable(name); ok && value != "" {
			whole.set(at, value)
		}
	}
	return whole, nil
}

func parsePatroni(data []byte) (tree, error) {
	var t tree
	if err := yaml.Unmarshal(data, &t); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return t, nil
}

// merge lays part over t, key by key.
func (t tree) merge(part tree) {
	for key, value := range part {
		below, nested := asTree(t[key])
		above, also := asTree(value)
		if nested && also {
			below.merge(above)
			value = below
		}
		t[key] = value // null counts as absent
	}
}

func (t tree) set(path, value string) {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		t[head] = value
		return
	}
	below, ok := asTree(t[head])
	if !ok {
		below = tree{}
	}
	below.set(rest, value)
	t[head] = below
}

func asTree(v any) (tree, bool) {
	switch v := v.(type) {
	case tree:
		return v, true
	case map[string]any:
		return tree(v), true
	}
	return nil, false
}

func (t tree) get(path string) any {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		return t[head]
	}
	below, _ := asTree(t[head])
	return below.get(rest)
}

func (t tree) has(path string) bool { return t.get(path) != nil }

// text is a scalar as text; "" for anything else.
func (t tree) text(path string) string {
	switch v := t.get(path).(type) {
	case string:
		return v
	case int, int64, uint64, float64, bool:
		return fmt.Sprint(v)
	}
	return ""
}

// truth reads a boolean as YAML 1.1 does.
func (t tree) truth(path string) bool {
	return slices.Contains([]string{"true", "on", "yes", "y", "1"}, strings.ToLower(t.text(path)))
}

// list is a list of texts, or a text with commas.
func (t tree) list(path string) []string {
	var items []string
	if list, ok := t.get(path).([]any); ok {
		for _, v := range list {
			items = append(items, fmt.Sprint(v))
		}
	} else {
		items = strings.Split(t.text(path), ",")
	}
	var kept []string
	for _, item := range items {
		if item = strings.Trim(strings.TrimSpace(item), `'"`); item != "" {
			kept = append(kept, item)
		}
	}
	return kept
}
