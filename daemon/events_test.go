package daemon

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

var eventName = regexp.MustCompile(`(?:s\.event\(slog\.Level[A-Za-z]+, |"event", )"([a-z]+\.[a-z]+)"`)

// Every event that the service logs is in the list that users read.
func TestEventsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/SERVICE.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, pkg := range []string{"daemon", "scheduler"} {
		err := fs.WalkDir(os.DirFS(path.Join("..", pkg)), ".", func(name string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path.Join("..", pkg, name))
			for _, match := range eventName.FindAllSubmatch(source, -1) {
				if found++; !strings.Contains(string(doc), "`"+string(match[1])+"`") {
					t.Errorf("docs/SERVICE.md does not name %s of %s/%s", match[1], pkg, name)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 25 {
		t.Errorf("only %d events were found", found)
	}
	// And every metric.
	s := alive(t)
	s.healthy(s.started)
	for _, sample := range s.samples(s.started) {
		if !strings.Contains(string(doc), "`"+sample.Name) {
			t.Errorf("docs/SERVICE.md does not name %s", sample.Name)
		}
	}
}
