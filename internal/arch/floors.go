// Package arch keeps the shape of the product: who may import whom, how large a
// file may be, and what a package must not do. It is checked by parsing the
// sources in-process; a test that runs the go command is cached and stays green.
package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/pgha-backup/pgha-backup"

// The limits of the product: lines of a file, and lines of code of a package and of
// all, where blank lines, comments and what only tests use do not count.
const (
	maxFile    = 500
	maxPackage = 3_800
	maxTotal   = 27_500
)

// floors gives every package its floor. A package imports only lower floors. A
// name that ends in /... stands for the packages below it.
var floors = map[string]int{
	"test/...":            8,
	"cmd/pgha-backup":     7,
	"cmd/pgha-wal":        7,
	"daemon":              6,
	"daemon/metrics":      6,
	"config":              5,
	"backup":              4,
	"wal":                 4,
	"restore":             4,
	"retention":           4,
	"verify":              4,
	"scheduler":           4,
	"catalog":             3,
	"postgres/server":     2,
	"cluster/patroni":     2,
	"storage/s3":          2,
	"storage/file":        2,
	"storage/mem":         2,
	"storage/retry":       2,
	"storage/faulty":      2,
	"storage/storagetest": 2,
	"storage/probe":       2,
	"storage/emulate":     2,
	"storage":             1,
	"cluster":             1,
	"postgres":            0,
	"internal/codec":      0,
	"internal/hook":       0,
	"internal/atomicfile": 0,
	"internal/backoff":    1,
	"internal/living":     0,
	"internal/arch":       0,
}

// testOnly packages are equipment of tests, though they stand beside what they test.
var testOnly = []string{"storage/storagetest", "storage/faulty", "storage/mem", "internal/arch"}

// exceptions are the imports within one floor that are meant.
var exceptions = map[string]string{"daemon": "daemon/metrics"}

// importers names, for each outside module, the packages that may import it. golang.org/x is free.
var importers = map[string][]string{
	"github.com/spf13/cobra":              {"cmd/pgha-backup"},
	"github.com/prometheus/client_golang": {"daemon/metrics"},
	"github.com/robfig/cron/v3":           {"scheduler"},
	"go.yaml.in/yaml/v3":                  {"config"},
	"github.com/jackc/pgx/v5":             {"postgres/server"},
	"go.etcd.io/etcd":                     {"cluster/patroni"},
	"github.com/minio/minio-go/v7":        {"storage/s3"},
	"github.com/klauspost/compress":       {"internal/codec"},
	"filippo.io/age":                      {"internal/codec"},
}

// stdlibOnly packages import nothing but the standard library.
var stdlibOnly = []string{"postgres", "internal/hook", "cmd/pgha-wal"}

func floorOf(pkg string) (int, bool) {
	if f, ok := floors[pkg]; ok {
		return f, true
	}
	for name, f := range floors {
		if below, ok := strings.CutSuffix(name, "/..."); ok && (pkg == below || strings.HasPrefix(pkg, below+"/")) {
			return f, true
		}
	}
	return 0, false
}

// Check reads every Go file of a source tree and returns what breaks the rules.
func Check(tree fs.FS) ([]string, error) {
	c := checker{lines: map[string]int{}}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		source, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return c.file(name, source)
	})
	total := 0
	for pkg, lines := range c.lines {
		total += lines
		if lines > maxPackage {
			c.fault(pkg, "has %d lines of code, more than %d", lines, maxPackage)
		}
	}
	if total > maxTotal {
		c.fault("the product", "has %d lines of code, more than %d", total, maxTotal)
	}
	slices.Sort(c.faults)
	return c.faults, err
}

type checker struct {
	faults []string
	lines  map[string]int // by package
}

func (c *checker) fault(where, format string, args ...any) {
	c.faults = append(c.faults, where+": "+fmt.Sprintf(format, args...))
}

func (c *checker) file(name string, source []byte) error {
	f, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		return err
	}
	pkg := path.Dir(name)
	test := strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "test/")
	lines := strings.Count(string(source), "\n")
	if lines > maxFile {
		c.fault(name, "has %d lines, more than %d", lines, maxFile)
	}
	if !test && !slices.Contains(testOnly, pkg) {
		c.lines[pkg] += codeLines(source)
	}
	floor, known := floorOf(pkg)
	if !known {
		c.fault(name, "package %s has no floor", pkg)
		return nil
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if inside, ok := strings.CutPrefix(imported, module+"/"); ok {
			c.inside(name, pkg, floor, inside, test, strings.HasSuffix(f.Name.Name, "_test"))
		} else {
			c.outside(name, pkg, floor, imported)
		}
	}
	if !test {
		c.effects(name, f)
	}
	return nil
}

// codeLines counts the lines that hold code.
func codeLines(source []byte) int {
	n := 0
	for line := range bytes.Lines(source) {
		if line = bytes.TrimSpace(line); len(line) > 0 && !bytes.HasPrefix(line, []byte("//")) {
			n++
		}
	}
	return n
}

func (c *checker) inside(name, pkg string, floor int, imported string, test, external bool) {
	other, known := floorOf(imported)
	switch {
	case !known:
		c.fault(name, "imports %s, which has no floor", imported)
	case pkg == imported, floor == 8, exceptions[pkg] == imported:
	case !test && slices.Contains(testOnly, imported) && !slices.Contains(testOnly, pkg):
		c.fault(name, "imports %s, which is for tests", imported)
	// A test from outside its package sees it as those above do.
	case external && other < floors["cmd/pgha-backup"]:
	// A unit test may bring together what the product keeps apart on one floor: a driver and the suite it must pass.
	case other > floor, other == floor && !test:
		c.fault(name, "%s on floor %d imports %s on floor %d", pkg, floor, imported, other)
	}
}

func (c *checker) outside(name, pkg string, floor int, imported string) {
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return // the standard library
	}
	if slices.Contains(stdlibOnly, pkg) {
		c.fault(name, "%s imports %s, but only the standard library is allowed", pkg, imported)
		return
	}
	if first == "golang.org" || floor == 8 {
		return
	}
	for mod, allowed := range importers {
		if imported == mod || strings.HasPrefix(imported, mod+"/") {
			if !slices.Contains(allowed, pkg) {
				c.fault(name, "%s imports %s, which belongs to %s", pkg, imported, strings.Join(allowed, ", "))
			}
			return
		}
	}
	c.fault(name, "%s imports %s, which nobody may", pkg, imported)
}

// effects finds init functions, and ends of the process anywhere below main.
func (c *checker) effects(name string, f *ast.File) {
	main := strings.HasPrefix(name, "cmd/")
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				c.fault(name, "has an init function")
			}
		case *ast.SelectorExpr:
			from, ok := n.X.(*ast.Ident)
			if !ok || main {
				return true
			}
			call := from.Name + "." + n.Sel.Name
			if call == "os.Exit" || strings.HasPrefix(call, "log.Fatal") || strings.HasPrefix(call, "log.Panic") {
				c.fault(name, "calls %s below main", call)
			}
		case *ast.InterfaceType:
			if methods := n.Methods.NumFields(); methods > 6 {
				c.fault(name, "has an interface of %d methods, more than 6", methods)
			}
		}
		return true
	})
}
