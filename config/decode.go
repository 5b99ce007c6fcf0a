package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// later are the keys of the format that this version does not act on yet. To
// accept them silently would be to promise what nobody keeps.
var later = []string{"encryption"}

// Limits of what one file says: an alias may stand for much in little room.
const (
	maxList     = 200
	maxProblems = 50
)

// decoder fills the configuration from YAML. It knows the path and line of
// everything, which yaml's own decoder does not.
type decoder struct {
	file     string
	origins  map[string]string
	problems []string
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	if len(d.problems) > maxProblems {
		return
	}
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	d.problems = append(d.problems, fmt.Sprintf("%d: %s", n.Line, text))
}

func (d *decoder) decode(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	_, own := v.Addr().Interface().(yaml.Unmarshaler)
	switch {
	case v.Kind() == reflect.Struct && !own:
		d.decodeStruct(n, path, v)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		if n.Kind != yaml.SequenceNode {
			d.problem(n, path, "want a list")
			return
		}
		if len(n.Content) > maxList {
			d.problem(n, path, "has %d items, at most %d are read", len(n.Content), maxList)
			return
		}
		for i, item := range n.Content {
			element := reflect.New(v.Type().Elem()).Elem()
			switch e := element.Addr().Interface().(type) {
			case *Repository:
				*e = defaultRepository()
			case *Schedule:
				*e = defaultSchedule()
			}
			d.decode(item, fmt.Sprintf("%s[%d]", path, i), element)
			v.Set(reflect.Append(v, element))
		}
	default:
		err := error(nil)
		if to, ok := v.Addr().Interface().(*time.Duration); ok && n.Kind == yaml.ScalarNode {
			*to, err = parseDuration(n.Value)
		} else {
			err = n.Decode(v.Addr().Interface())
		}
		if err != nil {
			d.problem(n, path, "%s", reason(err, v.Type()))
			return
		}
		d.origins[path] = fmt.Sprintf("%s:%d", d.file, n.Line)
	}
}

// reason words a type error without yaml's Go types, and without the value.
func reason(err error, t reflect.Type) string {
	if _, ok := err.(*yaml.TypeError); !ok {
		return err.Error()
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return errDuration.Error()
	case t.Kind() == reflect.Int:
		return "want a whole number"
	case t.Kind() == reflect.Slice:
		return "want a list of texts"
	}
	return "want a text"
}

func (d *decoder) decodeStruct(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "want keys and values")
		return
	}
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "-" {
			fields[name] = v.Field(i)
		}
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content) && len(d.problems) <= maxProblems; i += 2 {
		key := n.Content[i]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		field, known := fields[key.Value]
		switch {
		case seen[key.Value]:
			d.problem(key, at, "given twice")
		case path == "" && slices.Contains(later, key.Value):
			d.problem(key, at, "not supported by this version yet; remove it")
		case !known:
			d.problem(key, at, "unknown key; known here are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		default:
			d.decode(n.Content[i+1], at, field)
		}
		seen[key.Value] = true
	}
}
