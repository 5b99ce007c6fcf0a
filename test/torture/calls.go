package torture

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Call is one system call of the program under torture.
type Call struct {
	N    int    `json:"n"` // its number among those that count, from 1
	Name string `json:"name"`
	Path string `json:"path"`         // what it acts upon; "socket" for a connection
	To   string `json:"to,omitempty"` // the new name, of a rename or a link
	Size int64  `json:"size,omitempty"`
	Err  string `json:"err,omitempty"` // how it ended, unless well
}

func (c Call) String() string {
	s := fmt.Sprintf("#%d %s %s", c.N, c.Name, c.Path)
	if c.To != "" {
		s += " -> " + c.To
	}
	return s
}

// shape is where a call's arguments are.
type shape int

const (
	onFD      shape = iota // (fd, ...)
	onName                 // (name, ...)
	onNameAt               // (dirfd, name, ...)
	twoNames               // (from, to)
	twoAt                  // (dirfd, from, dirfd, to, ...)
	newLink                // (target, name)
	newLinkAt              // (target, dirfd, name)
	opening                // (dirfd, name, flags, ...)
)

type callType struct {
	name  string
	shape shape
}

// changing are the calls that change something outside the process.
var changing = map[uint64]callType{
	unix.SYS_WRITE: {"write", onFD}, unix.SYS_PWRITE64: {"pwrite64", onFD}, unix.SYS_WRITEV: {"writev", onFD}, unix.SYS_PWRITEV: {"pwritev", onFD},
	unix.SYS_SENDTO: {"sendto", onFD}, unix.SYS_SENDMSG: {"sendmsg", onFD},
	unix.SYS_COPY_FILE_RANGE: {"copy_file_range", onFD}, unix.SYS_SENDFILE: {"sendfile", onFD},
	unix.SYS_FSYNC: {"fsync", onFD}, unix.SYS_FDATASYNC: {"fdatasync", onFD},
	unix.SYS_FTRUNCATE: {"ftruncate", onFD}, unix.SYS_TRUNCATE: {"truncate", onName}, unix.SYS_FALLOCATE: {"fallocate", onFD},
	unix.SYS_RENAME: {"rename", twoNames}, unix.SYS_RENAMEAT: {"renameat", twoAt}, unix.SYS_RENAMEAT2: {"renameat2", twoAt},
	unix.SYS_LINK: {"link", twoNames}, unix.SYS_LINKAT: {"linkat", twoAt},
	unix.SYS_SYMLINK: {"symlink", newLink}, unix.SYS_SYMLINKAT: {"symlinkat", newLinkAt},
	unix.SYS_UNLINK: {"unlink", onName}, unix.SYS_UNLINKAT: {"unlinkat", onNameAt}, unix.SYS_RMDIR: {"rmdir", onName},
	unix.SYS_MKDIR: {"mkdir", onName}, unix.SYS_MKDIRAT: {"mkdirat", onNameAt},
	unix.SYS_CHMOD: {"chmod", onName}, unix.SYS_FCHMOD: {"fchmod", onFD}, unix.SYS_FCHMODAT: {"fchmodat", onNameAt}, unix.SYS_FCHMODAT2: {"fchmodat2", onNameAt},
	unix.SYS_UTIMENSAT: {"utimensat", onNameAt},
	unix.SYS_OPEN:      {"open", onName}, unix.SYS_OPENAT: {"openat", opening},
}

// reading are the calls that may fail too, where a device is broken.
var reading = map[uint64]callType{
	unix.SYS_READ: {"read", onFD}, unix.SYS_PREAD64: {"pread64", onFD}, unix.SYS_GETDENTS64: {"getdents64", onFD},
}

// describe tells what a stopped thread is about to do, and whether it counts.
func describe(pid int, regs *unix.PtraceRegs) (c Call, counts bool) {
	kind, ok := changing[regs.Orig_rax]
	if !ok {
		if kind, ok = reading[regs.Orig_rax]; !ok {
			return c, false
		}
	}
	c.Name = kind.name
	a := [4]uint64{regs.Rdi, regs.Rsi, regs.Rdx, regs.R10}
	const here = uint64(0xffffffffffffff9c) // AT_FDCWD
	switch kind.shape {
	case onFD:
		fd := a[0]
		if kind.name == "copy_file_range" {
			fd = a[2]
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd)))
		if err != nil {
			return c, false
		}
		if c.Path = link; !strings.HasPrefix(link, "/") {
			if !strings.HasPrefix(link, "socket:") {
				return c, false // the runtime talks to itself
			}
			c.Path = "socket"
		}
		c.Size = int64(a[2])
	case onName:
		c.Path = place(pid, here, a[0])
	case onNameAt:
		c.Path = place(pid, a[0], a[1])
	case twoNames:
		c.Path, c.To = place(pid, here, a[0]), place(pid, here, a[1])
	case twoAt:
		c.Path, c.To = place(pid, a[0], a[1]), place(pid, a[2], a[3])
	case newLink:
		c.Path = place(pid, here, a[1])
	case newLinkAt:
		c.Path = place(pid, a[1], a[2])
	case opening:
		c.Path = place(pid, a[0], a[1])
		if a[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
			c.Name = "open"
		}
	}
	return c, !strings.HasPrefix(c.Path, "/proc/") && !strings.HasPrefix(c.Path, "/sys/") && !strings.HasPrefix(c.Path, "/dev/null")
}

// changes tells whether a call that counts changes something; the others only read.
func (c Call) changes() bool {
	return c.Name != "open" && c.Name != "read" && c.Name != "pread64" && c.Name != "getdents64"
}

// place is the absolute path of a name beside a directory.
func place(pid int, dirfd, at uint64) string {
	name := text(pid, uintptr(at))
	if strings.HasPrefix(name, "/") {
		return filepath.Clean(name)
	}
	from := fmt.Sprintf("/proc/%d/cwd", pid)
	if int32(dirfd) != unix.AT_FDCWD {
		from = fmt.Sprintf("/proc/%d/fd/%d", pid, int32(dirfd))
	}
	dir, err := os.Readlink(from)
	if err != nil {
		return "?/" + name
	}
	return filepath.Join(dir, name)
}

// text reads a C string of another process.
func text(pid int, at uintptr) string {
	var all []byte
	for len(all) < unix.PathMax {
		part := make([]byte, 256)
		part = part[:min(len(part), int(4096-at%4096))] // the next page may not be there
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &part[0], Len: uint64(len(part))}},
			[]unix.RemoteIovec{{Base: at, Len: len(part)}}, 0)
		if err != nil || n == 0 {
			return string(all)
		}
		for i, b := range part[:n] {
			if b == 0 {
				return string(append(all, part[:i]...))
			}
		}
		all, at = append(all, part[:n]...), at+uintptr(n)
	}
	return string(all)
}
