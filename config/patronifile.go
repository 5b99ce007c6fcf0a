package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// tree is Patroni's configuration by the paths of its values, as YAML gives them.
// Patroni reads YAML 1.1 and believes everything; so its values are looked at one
// by one, tolerantly.
type tree map[string]any

// patroniEnv are Patroni's own variables that replace what we need of its file.
var patroniEnv = map[string]string{
	"PATRONI_SCOPE": "scope", "PATRONI_NAMESPACE": "namespace", "PATRONI_NAME": "name",
	"PATRONI_SUPERUSER_USERNAME": "postgresql.authentication.superuser.username",
	"PATRONI_SUPERUSER_PASSWORD": "postgresql.authentication.superuser.password",
	"PATRONI_RESTAPI_USERNAME":   "restapi.authentication.username",
	"PATRONI_RESTAPI_PASSWORD":   "restapi.authentication.password",
	"PATRONI_CTL_USERNAME":       "ctl.authentication.username",
	"PATRONI_CTL_PASSWORD":       "ctl.authentication.password",
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
	var entries []os.DirEntry
	if info.IsDir() {
		if entries, err = os.ReadDir(path); err != nil { // sorted by name
			return nil, err
		}
		files = nil
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".yml" || ext == ".yaml" {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no *.yml file", path)
	}
	whole := tree{}
	for _, file := range files {
		data, err := readFile(file)
		if err == nil {
			err = whole.read(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if at, ok := patroniVariable(name); ok && value != "" {
			whole.put(at, value)
		}
	}
	return whole, nil
}

// Limits of Patroni's file: the values of a large one are a hundred.
const (
	maxValues = 5000
	maxPath   = 1000
)

// read lays a file over what there is, key by key.
func (t tree) read(data []byte) error {
	var document yaml.Node
	var file map[string]any
	err := yaml.Unmarshal(data, &document)
	if nodes(&document) > 4*maxValues { // the decoder compares every key of a map with every other
		return fmt.Errorf("more than %d values", maxValues)
	}
	if err == nil {
		err = document.Decode(&file)
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	for key, value := range file {
		t.put(key, value)
	}
	if len(t) > maxValues {
		return fmt.Errorf("more than %d values", maxValues)
	}
	return nil
}

func nodes(n *yaml.Node) int {
	all := 1
	for _, below := range n.Content {
		all += nodes(below)
	}
	return all
}

// put sets a value, or all that are below a path; null takes away what is there.
func (t tree) put(path string, value any) {
	if len(t) > maxValues || len(path) > maxPath {
		return
	}
	if below, ok := value.(map[string]any); ok && len(below) > 0 {
		for key, value := range below {
			t.put(path+"."+key, value)
		}
		return
	}
	maps.DeleteFunc(t, func(key string, _ any) bool { return strings.HasPrefix(key, path+".") })
	t[path] = value
}

// has tells whether there is anything at or below a path.
func (t tree) has(path string) bool {
	for key, value := range t {
		if value != nil && (key == path || strings.HasPrefix(key, path+".")) {
			return true
		}
	}
	return false
}

// text is a scalar as text; "" for anything else.
func (t tree) text(path string) string {
	switch v := t[path].(type) {
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
	items := strings.Split(t.text(path), ",")
	list, _ := t[path].([]any)
	for _, v := range list {
		items = append(items, fmt.Sprint(v))
	}
	var kept []string
	for _, item := range items {
		if item = strings.Trim(strings.TrimSpace(item), `'"`); item != "" {
			kept = append(kept, item)
		}
	}
	return kept
}
