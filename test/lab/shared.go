package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// removeStaleShared removes the shared memory that servers killed by a test have left in the kernel: of each user
// of ours without a process, whatever was there before we looked for processes.
func removeStaleShared() {
	files, _ := filepath.Glob("/dev/shm/PostgreSQL.*")
	segments, _ := os.ReadFile("/proc/sysvipc/shm")
	alive := users()
	for _, name := range []string{User1, User2, User3} {
		id, err := identity(name)
		if err != nil || alive[id.Uid] {
			continue
		}
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Sys().(*syscall.Stat_t).Uid == id.Uid {
				_ = os.Remove(f)
			}
		}
		// key shmid perms size cpid lpid nattch uid
		for line := range strings.Lines(string(segments)) {
			f := strings.Fields(line)
			if len(f) < 8 || f[6] != "0" || f[7] != fmt.Sprint(id.Uid) {
				continue
			}
			if n, err := strconv.Atoi(f[1]); err == nil {
				_, _ = unix.SysvShmCtl(n, unix.IPC_RMID, nil)
			}
		}
	}
}

// users tells which user ids have a process; the dead that nobody has buried hold no memory.
func users() map[uint32]bool {
	alive := map[uint32]bool{}
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		b, _ := os.ReadFile(file)
		if strings.Contains(string(b), "\nState:\tZ") {
			continue
		}
		_, line, _ := strings.Cut(string(b), "\nUid:\t")
		real, _, _ := strings.Cut(line, "\t")
		if id, err := strconv.ParseUint(real, 10, 32); err == nil {
			alive[uint32(id)] = true
		}
	}
	return alive
}
