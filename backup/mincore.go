package backup

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore fills pages with one byte for each page of memory; x/sys does not wrap
// the call.
func mincore(memory, pages []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
