package torture

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/storage/file"
)

// takes are the situations of backup, on the living server.
func (w *world) takes() []*scenario {
	w.Helper()
	repo := w.at("live")
	bucket := file.New(repo)
	first, err := Objects(w.Context(), bucket, w.root1()+"/backup/")
	w.must(err)
	checked := map[string]bool{}
	// acknowledged is what the archiver was told is safe, since the last look.
	acknowledged := func() (faults []string) {
		files, err := os.ReadDir(filepath.Join(w.pg.DataDir, "pg_wal/archive_status"))
		w.must(err)
		ledger := Ledger{}
		for _, f := range files {
			if name, done := strings.CutSuffix(f.Name(), ".done"); done && !checked[name] {
				ledger.Acknowledge(name, w.walFile(name))
				checked[name] = true
			}
		}
		faults, err = ledger.Judge(w.Context(), bucket, w.root1())
		w.must(err)
		return faults
	}
	judge := func() (seen int, faults []string) {
		now, err := Objects(w.Context(), bucket, w.root1()+"/backup/")
		w.must(err)
		backups, broken, err := JudgeRepository(w.Context(), w.repository(repo))
		w.must(err)
		return len(backups), append(append(first.Lost(now), broken...), acknowledged()...)
	}
	var had int
	s := &scenario{
		name: "backup/file-copy", config: "live", args: []string{"backup"}, trouble: []int{1, 4, 8, 9},
		prepare: func() { // what others have left goes, but never WAL
			w.must(removeAll(filepath.Join(repo, ".tmp")))
			dirs, err := os.ReadDir(filepath.Join(repo, w.root1(), "backup"))
			w.must(err)
			for _, d := range dirs {
				if !slices.Contains(w.backups, d.Name()) || d.Name() != w.backups[len(w.backups)-1] {
					w.must(removeAll(filepath.Join(repo, w.root1(), "backup", d.Name())))
				}
			}
			had = 1
		},
		roots:   map[string]string{"repository": repo, "pgdata": w.pg.DataDir, "space": w.run.Path("space")},
		durable: []string{repo},
	}
	first = first.Only(func(path string) bool { return strings.Contains(path, w.backups[len(w.backups)-1]) })
	s.after = func(Outcome) []string {
		seen, faults := judge()
		had = seen
		return faults
	}
	s.whole = func(Outcome) []string {
		seen, faults := judge()
		if seen != had+1 {
			faults = append(faults, "a backup was taken and is not seen")
		}
		had = seen
		return faults
	}
	return []*scenario{s}
}
