package backup

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residency remembers which pages of a file lay in the page cache before we read
// it, so that reading leaves the cache as it was found (R17).
type residency struct {
	file  *os.File
	pages []byte // bit 0 of each: was resident
	unit  int64
}

// look asks the kernel before the first byte is read: afterwards, readahead
// would be taken for what the database keeps there. Where the kernel does not
// tell, nothing is dropped.
func look(f *os.File, size int64) residency {
	r := residency{file: f, unit: int64(os.Getpagesize())}
	if size == 0 {
		return r
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return r
	}
	defer func() { _ = unix.Munmap(memory) }()
	pages := make([]byte, (size+r.unit-1)/r.unit)
	if err := mincore(memory, pages); err == nil {
		r.pages = pages
	}
	return r
}

// drop gives back the pages of [from, to) that were not resident. Dirty pages
// stay: the kernel skips them.
func (r residency) drop(from, to int64) {
	first, last := from/r.unit, min((to+r.unit-1)/r.unit, int64(len(r.pages)))
	for i := first; i < last; {
		if r.pages[i]&1 != 0 {
			i++
			continue
		}
		begin := i
		for i < last && r.pages[i]&1 == 0 {
			i++
		}
		_ = unix.Fadvise(int(r.file.Fd()), begin*r.unit, (i-begin)*r.unit, unix.FADV_DONTNEED)
	}
}

// mincore fills pages with one byte for each page of memory; x/sys does not wrap
// the call.
func mincore(memory, pages []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
