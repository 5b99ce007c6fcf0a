package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever a file says, it is a configuration that can be shown or an error of ours.
func FuzzLoad(f *testing.F) {
	examples, err := filepath.Glob("../configs/*.yaml")
	if err != nil || len(examples) == 0 {
		f.Fatal(examples, err)
	}
	for _, path := range examples {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c := Default()
		c.File = path
		if problems := c.decode(text); len(problems) > 0 { // what derives from other files is not asked for
			return
		}
		c.Patroni.Config = ""
		err := c.Validate()
		if _, ours := errors.AsType[*Error](err); err != nil && !ours {
			t.Error(err)
		}
		_ = c.Fields()
	})
}
