package arch

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestTree(t *testing.T) {
	faults, err := Check(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

func TestCheck(t *testing.T) {
	imports := func(pkg string, paths ...string) string {
		return "package " + pkg + "\n\nimport (\n\t_ \"" + strings.Join(paths, "\"\n\t_ \"") + "\"\n)\n"
	}
	for _, c := range []struct {
		name, file, source, want string
	}{
		{"down", "backup/a.go", imports("backup", module+"/catalog", "fmt", "golang.org/x/sync/errgroup"), ""},
		{"up", "catalog/a.go", imports("catalog", module+"/backup"), "catalog on floor 3 imports backup on floor 4"},
		{"sideways", "wal/a.go", imports("wal", module+"/backup"), "wal on floor 4 imports backup on floor 4"},
		{"sideways in a test", "storage/file/a_test.go", imports("file", module+"/storage/storagetest"), ""},
		{"up in a test", "storage/file/a_test.go", imports("file", module+"/catalog"), "imports catalog"},
		{"up in a test from outside", "storage/a_test.go", imports("storage_test", module+"/storage/mem"), ""},
		{"equipment of tests", "catalog/a.go", imports("catalog", module+"/storage/mem"), "which is for tests"},
		{"equipment of tests in a test", "catalog/a_test.go", imports("catalog", module+"/storage/mem"), ""},
		{"the harness is not for the product", "backup/a.go", imports("backup", module+"/test/lab"), "imports test/lab"},
		{"the harness may all", "test/lab/a.go", imports("lab", module+"/daemon", "github.com/jackc/pgx/v5"), ""},
		{"daemon has its metrics", "daemon/a.go", imports("daemon", module+"/daemon/metrics"), ""},
		{"no floor", "utils/a.go", "package utils\n", "package utils has no floor"},
		{"no floor below a known one", "storage/s4/a.go", "package s4\n", "package storage/s4 has no floor"},
		{"another's module", "backup/a.go", imports("backup", "github.com/jackc/pgx/v5/pgconn"), "belongs to postgres/server"},
		{"one's own module", "postgres/server/a.go", imports("server", "github.com/jackc/pgx/v5/pgconn"), ""},
		{"another's module in a unit test", "wal/a_test.go", imports("wal", "github.com/minio/minio-go/v7"), "belongs to storage/s3"},
		{"nobody's module", "backup/a.go", imports("backup", "github.com/spf13/viper"), "which nobody may"},
		{"a module's longer name", "cmd/pgha-backup/a.go", imports("main", "github.com/spf13/cobra-cli"), "which nobody may"},
		{"vocabulary stays plain", "postgres/a.go", imports("postgres", "golang.org/x/sys/unix"), "only the standard library"},
		{"init", "wal/a.go", "package wal\n\nfunc init() {}\n", "has an init function"},
		{"a method called init", "wal/a.go", "package wal\n\ntype t int\n\nfunc (t) init() {}\n", ""},
		{"exit below main", "wal/a.go", "package wal\n\nimport \"os\"\n\nfunc f() { os.Exit(1) }\n", "calls os.Exit"},
		{"exit in main", "cmd/pgha-backup/a.go", "package main\n\nimport \"os\"\n\nfunc main() { os.Exit(1) }\n", ""},
		{"fatal", "wal/a.go", "package wal\n\nimport \"log\"\n\nfunc f() { log.Fatalf(\"\") }\n", "calls log.Fatalf"},
		{"a wide interface", "wal/a.go", "package wal\n\ntype i interface{ a(); b(); c(); d(); e(); f(); g() }\n", "7 methods"},
		{"a long file", "wal/a.go", "package wal\n" + strings.Repeat("\n", maxFile), "has 501 lines"},
		{"test data", "wal/testdata/a.go", "package utils\n\nfunc init() {}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults, err := Check(fstest.MapFS{c.file: {Data: []byte(c.source)}})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(faults, "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("faults %q, want %q", got, c.want)
			}
		})
	}
}

func TestTotal(t *testing.T) {
	packages := []string{"wal", "backup", "restore", "retention", "scheduler", "catalog", "config", "daemon"}
	source := []byte("package p\n" + strings.Repeat("\n// a comment\nvar _ = 0\n", 160))
	tree := fstest.MapFS{}
	for _, pkg := range packages {
		for i := range 22 {
			tree[pkg+"/"+strings.Repeat("a", i+1)+".go"] = &fstest.MapFile{Data: source}
		}
	}
	faults, err := Check(tree)
	if err != nil || len(faults) != 1 || !strings.Contains(faults[0], "28336 lines") {
		t.Errorf("%v %v", faults, err)
	}
	for i := range 19 {
		tree["wal/"+strings.Repeat("b", i+1)+".go"] = &fstest.MapFile{Data: source}
	}
	faults, err = Check(tree)
	if err != nil || len(faults) != 2 || faults[1] != "wal: has 6601 lines of code, more than 3800" {
		t.Errorf("%q %v", faults, err)
	}
}
