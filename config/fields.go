package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Field is one value with its path and where it came from.
type Field struct {
	Path   string `json:"path"`
	Value  string `json:"value"` // a secret is "[redacted]"
	Origin string `json:"origin"`
}

// Fields lists the configuration in the order of its keys. Empty values without an
// origin are left out.
func (c Config) Fields() (fields []Field) {
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		_, leaf := v.Interface().(fmt.Stringer)
		switch {
		case v.Kind() == reflect.Struct && !leaf:
			for i := range v.NumField() {
				if name := v.Type().Field(i).Tag.Get("yaml"); name != "-" {
					walk(strings.TrimPrefix(path+"."+name, "."), v.Field(i))
				}
			}
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
			for i := range v.Len() {
				walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		default:
			origin, given := c.Origins[path]
			text := fmt.Sprint(v.Interface())
			if v.Kind() == reflect.Slice {
				text = strings.Join(v.Interface().([]string), ", ")
			}
			if !given && (v.IsZero() || text == "") {
				return
			}
			if !given {
				origin = "default"
			}
			fields = append(fields, Field{path, text, origin})
		}
	}
	walk("", reflect.ValueOf(c))
	return fields
}
