package wal

import (
	"os"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// readyMost is how many ready files are remembered: there may be many thousands, and
// they are read again when these are done.
const readyMost = 256

// readyFiles are the WAL files that wait for the archiver, in the order in which
// PostgreSQL asks for them.
func readyFiles(statusDir string) (names []string) {
	d, err := os.Open(statusDir)
	if err != nil {
		return nil
	}
	defer d.Close()
	all, _ := d.Readdirnames(-1)
	for _, name := range all {
		if name, ready := strings.CutSuffix(name, ".ready"); ready {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, archiveOrder)
	names = names[:min(len(names), readyMost)]
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := postgres.ParseWALFile(name)
		return err != nil
	})
}

// archiveOrder is that of pgarch.c: histories, then everything by name.
func archiveOrder(a, b string) int {
	const history = ".history"
	if x, y := strings.HasSuffix(a, history), strings.HasSuffix(b, history); x != y {
		return map[bool]int{true: -1, false: 1}[x]
	}
	return strings.Compare(a, b)
}
