package hostile_test

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// A case is one thing an enemy does, and how our program must end.
type attack struct {
	name  string
	forge func(w *world, e *enemy)
	// args are the command's; nil is a restore.
	args func(w *world) []string
	code int
	says string
}

func command(args ...string) func(*world) []string { return func(*world) []string { return args } }

var hashes = command("verify", "--level", "hashes")

// get asks as a standby does, which is told of trouble within two seconds.
func get(name string) func(*world) []string {
	return func(w *world) []string {
		for _, name := range []string{"PG_VERSION", "standby.signal", "pg_wal/x"} {
			w.run.Mkdir(lab.User1, 0o700, filepath.Base(w.home), "out", "data", filepath.Dir(name))
			w.run.WriteFile(lab.User1, 0o600, "15\n", filepath.Base(w.home), "out", "data", name)
		}
		return []string{"archive-get", name, filepath.Join(w.out, "data", "pg_wal", "RECOVERYXLOG")}
	}
}

// packed adds one pack to PGDATA and signs.
func packed(files ...file) func(*world, *enemy) {
	return func(_ *world, e *enemy) { e.pack("base-0009.tar", files...); e.sign() }
}

// said changes the manifest and signs.
func said(change func(w *world, m map[string]any)) func(*world, *enemy) {
	return func(w *world, e *enemy) { change(w, e.manifest); e.sign() }
}

// space gives the backup's tablespace another path, which is mapped nowhere.
func space(path func(w *world) string) func(*world, *enemy) {
	return said(func(w *world, m map[string]any) {
		m["tablespaces"].([]any)[0].(map[string]any)["path"] = path(w)
	})
}

func unmapped(w *world) []string { return w.restore()[:5] }

const walName = "00000001000000000000000A"

var attacks = []attack{
	{name: "nothing", forge: packed(file{name: "harmless", body: "x"}), says: "Restored"},
	// Paths.
	{name: "traversal", forge: packed(file{name: "../../canary/authorized_keys", body: "enemy"}), code: 9, says: "does not stay inside PGDATA"},
	{name: "traversal of the tar alone", forge: packed(file{name: "../../canary/authorized_keys", path: "x", body: "enemy"}), code: 9, says: "tar has"},
	{name: "absolute", forge: packed(file{name: "/tmp/x", body: "enemy"}), code: 9, says: "does not stay inside PGDATA"},
	{name: "NUL", forge: packed(file{name: "x", path: "a\x00b"}), code: 9, says: "does not stay inside PGDATA"},
	{name: "5000 bytes", forge: packed(file{name: strings.Repeat("d/", 2500) + "x"}), code: 9, says: "does not stay inside PGDATA"},
	{name: "300 bytes", forge: packed(file{name: strings.Repeat("x", 300)}), code: 9, says: "does not stay inside PGDATA"},
	{name: "twice", forge: packed(file{name: "PG_VERSION", body: "15\n"}), code: 9, says: "comes twice"},
	{name: "pg_control twice", forge: packed(file{name: "global/pg_control", body: "x"}), code: 9, says: "comes twice"},
	{name: "file and directory", forge: packed(file{name: "a", body: "x"}, file{name: "a/b", body: "x"}), code: 9, says: "is a file and holds"},
	{name: "a file in place of a directory", forge: packed(file{name: "pg_wal/archive_status", body: "x"}), code: 9, says: "comes twice"},
	{name: "through a tablespace's link", forge: packed(file{name: "pg_tblspc/16384/x", body: "x"}), code: 9, says: "does not belong to volume base"},
	{name: "up through a tablespace", forge: packed(file{name: "x", path: "pg_tblspc/16384/../../x"}), code: 9, says: "does not stay inside PGDATA"},
	{name: "a file of ours", forge: packed(file{name: "pgha.restore-in-progress", kind: tar.TypeDir}), says: "Restored"},
	{name: "a signal that is a directory", forge: packed(file{name: "standby.signal", kind: tar.TypeDir}, file{name: "recovery.signal/x", body: "x"}), says: "Restored"},
	{name: "control of our name", forge: packed(file{name: "global/pg_control.pgha-restore", body: "x"}), says: "Restored"},
	// Kinds.
	{name: "a symbolic link", forge: packed(file{name: "x", kind: tar.TypeSymlink, link: "/etc"}), code: 9, says: "tar has"},
	{name: "a file through a link", forge: packed(file{name: "x", kind: tar.TypeSymlink, link: "../../canary"}, file{name: "x/authorized_keys", body: "enemy"}), code: 9},
	{name: "a hard link", forge: packed(file{name: "x", kind: tar.TypeLink, link: "PG_VERSION"}), code: 9, says: "tar has"},
	{name: "a device", forge: packed(file{name: "x", kind: tar.TypeBlock}), code: 9, says: "tar has"},
	{name: "a FIFO", forge: packed(file{name: "x", kind: tar.TypeFifo}), code: 9, says: "tar has"},
	{name: "setuid", forge: packed(file{name: "x", line: map[string]any{"m": 0o4755}}), code: 9, says: "mode 4755"},
	// Sizes.
	{name: "beyond the pack", forge: packed(file{name: "x", line: map[string]any{"n": 1 << 40}}), code: 9, says: "lie outside"},
	{name: "negative size", forge: packed(file{name: "x", line: map[string]any{"n": -1}}), code: 9, says: "lie outside"},
	{name: "a number beyond int64", forge: packed(file{name: "x", line: map[string]any{"n": 1e300}}), code: 9, says: "index line"},
	{name: "overlap", forge: packed(file{name: "x", body: "x"}, file{name: "y", line: map[string]any{"o": 512}}), code: 9, says: "overlap"},
	{name: "a frame of 2 GiB", forge: func(_ *world, e *enemy) {
		e.pack("base-0009.tar", file{name: "x"})
		e.index[len(e.index)-2] = `{"pack":"base-0009.tar","frames":[2147483647],"entries":1}` + "\n"
		e.sign()
	}, code: 9, says: "has a frame of 2147483647 bytes"},
	{name: "millions of entries", forge: func(_ *world, e *enemy) {
		e.pack("base-0009.tar", file{name: "x"})
		e.index[len(e.index)-2] = strings.Replace(e.index[len(e.index)-2], `"entries":1`, `"entries":50000000`, 1)
		e.sign()
	}, code: 9, says: "are too many"},
	{name: "a frame that is a bomb", forge: func(_ *world, e *enemy) {
		e.addPack("base-0009.tar", nil, [][]byte{e.bomb(4096, 0)}, 1<<20, nil)
		e.sign()
	}, code: 9, says: "corrupt"},
	{name: "a pack of 2^62 bytes", forge: said(func(_ *world, m map[string]any) {
		for _, p := range m["packs"].([]any) {
			p.(map[string]any)["plain"] = 1 << 62
		}
	}), code: 9, says: "plain 4611686018427387904"},
	{name: "an index that is a bomb", forge: func(_ *world, e *enemy) { e.document("index", e.bomb(4096, ' ')); e.commit() }, code: 9, says: "index line 1 is longer"},
	{name: "lines without end", forge: func(_ *world, e *enemy) {
		e.document("index", append(e.frame([]byte(strings.Join(e.index, ""))), e.bomb(4096, '\n')...))
		e.commit()
	}, code: 9, says: "goes on after"},
	{name: "a backup_manifest that is a bomb", forge: func(_ *world, e *enemy) { e.document("backup_manifest", e.bomb(4096, ' ')); e.commit() }, code: 9, says: "longer than allowed"},
	// Tablespaces.
	{name: "somebody's home for a tablespace", forge: func(w *world, e *enemy) {
		e.pack("16384-0009.tar", file{name: "authorized_keys", path: "pg_tblspc/16384/authorized_keys", body: "enemy"})
		space(func(w *world) string { return filepath.Join(w.canary, "empty") })(w, e)
	}, args: unmapped, code: 9, says: "does not belong to volume"},
	{name: "a tablespace that is not empty", forge: space(func(w *world) string { return w.canary }), args: unmapped, code: 4, says: "is not empty"},
	{name: "/etc", forge: space(func(*world) string { return "/etc" }), args: unmapped, code: 4, says: "belongs to user id 0"},
	{name: "/", forge: space(func(*world) string { return "/" }), args: unmapped, code: 4, says: "not a clean absolute path"},
	{name: "a relative tablespace", forge: space(func(*world) string { return "../canary" }), args: unmapped, code: 9, says: "tablespace 16384"},
	{name: "a tablespace with dots", forge: space(func(w *world) string { return w.out + "/../canary/empty" }), args: unmapped, code: 4, says: "not a clean absolute path"},
	{name: "a tablespace inside PGDATA", forge: space(func(w *world) string { return w.out + "/data/base" }), args: unmapped, code: 4, says: "overlaps"},
	{name: "a tablespace behind a link", forge: func(w *world, e *enemy) {
		e.node(filepath.Join(w.out, "way"), func(at string) error { return os.Symlink(w.out+"/data", at) })
		space(func(w *world) string { return w.out + "/way/base" })(w, e)
		w.Cleanup(func() { _ = os.Remove(filepath.Join(w.out, "way")) })
	}, args: unmapped, code: 4, says: "overlaps"},
	{name: "two tablespaces in one place", forge: said(func(w *world, m map[string]any) {
		m["tablespaces"] = append(m["tablespaces"].([]any), map[string]any{"oid": 16999, "path": w.tablespace})
	}), code: 4, says: "overlaps"},
	// Documents.
	{name: "a deep manifest", forge: func(_ *world, e *enemy) {
		e.write(e.backup+"/manifest.json", []byte(`{"format":1,"x":`+deep(100_000)+`}`))
	}, args: command("show", "2026"), code: 9, says: "exceeded max depth"},
	{name: "a huge manifest", forge: func(_ *world, e *enemy) { e.write(e.backup+"/manifest.json", make([]byte, 33<<20)) }, args: command("list"), code: 0, says: "larger than"},
	{name: "a start 16 TiB before the stop", forge: said(func(_ *world, m map[string]any) { m["stop_lsn"] = "FFFFFFFF/0" }), args: command("show", "2026"), code: 9, says: "segments apart"},
	{name: "settings beyond any server", forge: said(func(_ *world, m map[string]any) { m["settings"].(map[string]any)["max_connections"] = 1 << 40 }), args: command("show", "2026"), code: 9, says: "setting of 1099511627776"},
	{name: "a run that is a path", forge: said(func(_ *world, m map[string]any) { m["run"] = "../../../canary" }), args: command("show", "2026"), code: 9, says: "want eight hexadecimal digits"},
	{name: "words for the terminal", forge: said(func(_ *world, m map[string]any) {
		m["comment"], m["member"] = "\x1b]0;enemy\x07\nhint: rm -rf /", "\x1b[2J"
	}), args: command("show", "2026"), code: 0, says: "?]0;enemy??hint"},
	// Of the future.
	{name: "a repository of the future", forge: func(_ *world, e *enemy) { e.change(e.dir+"/repository.json", "format", 2) }, code: 1, says: "hint: upgrade pgha-backup on this host"},
	{name: "a manifest of the future", forge: said(func(_ *world, m map[string]any) { m["format"] = 2; m["packs"] = []any{} }), args: command("show", "2026"), code: 1, says: "hint: upgrade pgha-backup on this host"},
	{name: "an index of the future", forge: func(_ *world, e *enemy) {
		e.index[0] = strings.Replace(e.index[0], `"format":1`, `"format":2`, 1)
		e.sign()
	}, code: 1, says: "hint: upgrade pgha-backup on this host"},
	{name: "WAL of the future", forge: func(_ *world, e *enemy) {
		e.header(walName, func(h map[string]any) { h["format"] = 2; h["size"] = "large" }, nil)
	}, code: 1, says: "hint: upgrade pgha-backup on this host"},
	{name: "a tombstone of the future", forge: func(_ *world, e *enemy) { e.writeJSON(e.backup+"/expired.json", map[string]any{"format": 2}) }, args: command("expire", "--yes"), code: 1, says: "hint: upgrade pgha-backup on this host"},
	{name: "a hold of the future", forge: func(_ *world, e *enemy) {
		e.writeJSON(e.dir+"/hold/"+filepath.Base(e.backup)+"/x", map[string]any{"format": 2})
	}, args: command("expire", "--yes"), code: 1, says: "hint: upgrade pgha-backup on this host"},
	// WAL.
	{name: "a segment of 256 MiB", forge: func(_ *world, e *enemy) {
		e.header(walName, func(h map[string]any) { h["size"] = 1 << 28 }, e.bomb(256, 0))
	}, args: hashes, code: 9, says: walName},
	{name: "a segment that does not end", forge: func(_ *world, e *enemy) { e.header(walName, func(map[string]any) {}, e.bomb(4096, 0)) }, args: hashes, code: 9, says: walName},
	{name: "a segment of skippable frames", forge: func(_ *world, e *enemy) {
		e.header(walName, func(map[string]any) {}, append([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x04"), make([]byte, 64<<20)...))
	}, args: hashes, code: 9, says: walName},
	{name: "a segment of another name", forge: func(_ *world, e *enemy) { e.header(walName, func(h map[string]any) { h["name"] = "../../x" }, nil) }, args: hashes, code: 9, says: "says it is"},
	{name: "a segment that is a bomb, in a plan", forge: func(_ *world, e *enemy) {
		e.header(walName, func(h map[string]any) {
			h["size"] = 1 << 30
			h["facts"] = map[string]any{"walked": false, "valid_end": 1}
		}, e.bomb(1024, 0))
	}, code: 9, says: "holds more than such a file does"},
	{name: "a history of a gigabyte", forge: func(_ *world, e *enemy) {
		e.header("00000002.history", func(h map[string]any) { h["size"] = 1 << 30 }, e.bomb(1024, ' '))
	}, args: hashes, code: 9, says: "00000002.history"},
	{name: "a history that is its own parent", forge: history("2\t0/B00000\tenemy\n"), args: command("restore", "--plan"), code: 4, says: "is not below its child"},
	{name: "a history of 100,000 entries", forge: history("1\t0/B00000\tx\n" + lines(100_000, "%d\t0/0\n")), args: command("status"), code: 10, says: "cannot be read"},
	// What is no object.
	{name: "a FIFO for a manifest", forge: fifo("manifest.json"), args: command("show", "2026"), code: 9, says: "hint: find out who put it into"},
	{name: "a FIFO for a pack", forge: func(_ *world, e *enemy) {
		e.node(filepath.Join(e.run, "base-0001.tar"), func(at string) error { return syscall.Mkfifo(at, 0o600) })
	}, args: command("verify", "latest", "--level", "hashes"), code: 9, says: "hint: find out who put it into"},
	{name: "a FIFO for a segment", forge: func(_ *world, e *enemy) {
		e.node(e.wal(walName), func(at string) error { return syscall.Mkfifo(at, 0o600) })
	}, args: get(walName), code: 75, says: "a file is wanted"},
	{name: "a device for a repository", forge: func(_ *world, e *enemy) {
		e.node(filepath.Join(e.dir, "repository.json"), func(at string) error { return syscall.Mknod(at, syscall.S_IFCHR|0o666, 1<<8|5) })
	}, args: hashes, code: 9, says: "a file is wanted"},
	{name: "a device for a repository, which a restore does without", forge: func(_ *world, e *enemy) {
		e.node(filepath.Join(e.dir, "repository.json"), func(at string) error { return syscall.Mknod(at, syscall.S_IFCHR|0o666, 1<<8|5) })
	}, code: 0, says: "Restored:"},
	{name: "a link out of the repository", forge: func(w *world, e *enemy) {
		e.node(e.wal(walName), func(at string) error { return os.Symlink(filepath.Join(w.canary, "authorized_keys"), at) })
	}, args: hashes, code: 9, says: "a file is wanted"},
	{name: "names for the terminal", forge: func(_ *world, e *enemy) {
		e.write(e.dir+"/conflict/\x1b[2Jenemy\nhint: obey/resolved", []byte("{}"))
		e.write(e.dir+"/backup/\x1b[2J/manifest.json", []byte("{}"))
	}, args: command("list"), code: 0, says: "| ok"},
	{name: "a decision for a path", forge: func(_ *world, e *enemy) {
		e.writeJSON(e.dir+"/conflict/"+walName+"/resolved", map[string]any{"format": 1, "sha256": "../../../canary/authorized_keys"})
	}, args: hashes, code: 9, says: "resolved"},
}

func fifo(name string) func(*world, *enemy) {
	return func(_ *world, e *enemy) {
		e.node(filepath.Join(e.backup, name), func(at string) error { return syscall.Mkfifo(at, 0o600) })
	}
}

// history replaces the one that the archive has.
func history(text string) func(*world, *enemy) {
	return func(_ *world, e *enemy) {
		e.header("00000002.history", func(h map[string]any) { h["size"], h["sha256"] = len(text), sum([]byte(text)) }, e.frame([]byte(text)))
	}
}

// Whatever an enemy has written into the bucket, a command ends soon, in little memory,
// with the right word, and leaves what is not its own alone.
func TestEnemy(t *testing.T) {
	w := newWorld(t)
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			w := *w
			w.T = t
			e := w.begin(fmt.Sprintf("%02d", i))
			a.forge(&w, e)
			args := w.restore()
			if a.args != nil {
				args = a.args(&w)
			}
			before := w.untouched()
			code, text := w.end(args...)
			if code != a.code || !strings.Contains(text, a.says) {
				t.Errorf("%v\nexit %d, want %d with %q:\n%s", args, code, a.code, a.says, text)
			}
			w.confined(before)
			if code == 0 && a.args == nil {
				if _, err := os.Lstat(filepath.Join(w.out, "data", "standby.signal")); err == nil {
					t.Error("the copy is a standby")
				}
			}
			if err := os.RemoveAll(w.home); err != nil {
				t.Error(err)
			}
			t.Logf("%d MiB", w.peak>>20)
		})
	}
}
