package torture

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Undurable tells what of the files below a directory a power failure could take after these calls: bytes that
// nobody has made durable, names in directories that nobody has, and files that got their name before their bytes
// were safe. What lies in a directory .tmp is nobody's yet.
func Undurable(calls []Call, below string) (faults []string) {
	dirty, names := map[string]bool{}, map[string]map[string]bool{} // files; names by directory
	named := func(path string, there bool) {
		dir := filepath.Dir(path)
		if names[dir] == nil {
			names[dir] = map[string]bool{}
		}
		if delete(names[dir], path); there {
			names[dir][path] = true
		}
	}
	for _, c := range calls {
		if c.Err != "" {
			continue
		}
		path := strings.TrimSuffix(c.Path, " (deleted)")
		switch c.Name {
		case "openat":
			if !dirty[path] { // it may have been there: then its name is safe, and asking for more is no harm
				named(path, true)
			}
		case "mkdir", "mkdirat", "symlink", "symlinkat":
			named(path, true)
		case "write", "pwrite64", "writev", "pwritev", "ftruncate", "copy_file_range":
			dirty[path] = true
		case "fsync", "fdatasync":
			delete(dirty, path)
			delete(names, path)
		case "unlink", "unlinkat", "rmdir":
			delete(dirty, path)
			named(path, false)
		case "link", "linkat", "rename", "renameat", "renameat2":
			if dirty[path] && within(c.To, below) && !temporary(c.To) {
				faults = append(faults, fmt.Sprintf("%s got its name before its bytes were safe", c.To))
			}
			if dirty[path] {
				dirty[c.To] = true
			}
			named(c.To, true)
			if strings.HasPrefix(c.Name, "rename") {
				delete(dirty, path)
				named(path, false)
			}
		}
	}
	for path := range dirty {
		if within(path, below) && !temporary(path) {
			faults = append(faults, fmt.Sprintf("the bytes of %s are not safe", path))
		}
	}
	for _, dir := range names {
		for path := range dir {
			if within(path, below) && !temporary(path) {
				faults = append(faults, fmt.Sprintf("the name of %s is not safe", path))
			}
		}
	}
	slices.Sort(faults)
	return faults
}

func within(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// temporary tells whether a path is in, or is, a place where nothing is looked for.
func temporary(path string) bool {
	return strings.Contains(path, "/.tmp/") || strings.HasSuffix(path, "/.tmp")
}
