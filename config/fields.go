package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Field is one value with its path and where it came from.
type Field struct {
	Path   string `json:"path"`
	Value  string `json:"value"` // a secret is "[redacted]"
	Origin string `json:"origin"`
}

// walk visits every value that a file can give, in the order of the keys.
func walk(path string, v reflect.Value, visit func(path string, v reflect.Value)) {
	_, leaf := v.Interface().(fmt.Stringer)
	switch {
	case v.Kind() == reflect.Struct && !leaf:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("yaml"); name != "-" {
				walk(strings.TrimPrefix(path+"."+name, "."), v.Field(i), visit)
			}
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i), visit)
		}
	default:
		visit(path, v)
	}
}

// Fields lists the configuration in the order of its keys. Empty values without an
// origin are left out.
func (c Config) Fields() (fields []Field) {
	walk("", reflect.ValueOf(c), func(path string, v reflect.Value) {
		text := fmt.Sprint(v.Interface())
		switch value := v.Interface().(type) {
		case []string:
			text = strings.Join(value, ", ")
		case time.Duration:
			text = durationText(value)
		}
		origin, given := c.Origins[path]
		if !given {
			origin = "default"
		}
		if given || !v.IsZero() && text != "" {
			fields = append(fields, Field{path, text, origin})
		}
	})
	return fields
}
