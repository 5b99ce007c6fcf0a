package wal

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// memory lends the buffers of many pushes. They are mapped, not of Go's heap: that
// would let as much garbage again pile up beside them before it collects any.
type memory struct {
	mu   sync.Mutex
	lent int
	free [][]byte
	idle *time.Timer
}

const (
	mapFrom    = 1 << 20 // smaller ones are not worth a mapping
	memoryIdle = 10 * time.Second
)

// take lends n bytes of any content.
func (m *memory) take(n int) []byte {
	if n < mapFrom {
		return make([]byte, n)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lent++
	if i := slices.IndexFunc(m.free, func(b []byte) bool { return cap(b) >= n }); i >= 0 {
		b := m.free[i]
		m.free = slices.Delete(m.free, i, i+1)
		return b[:n]
	}
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return make([]byte, n)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b
}

// give takes back what take has lent. What nobody wants for a while goes back to the kernel.
func (m *memory) give(b []byte) {
	if cap(b) < mapFrom {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lent--
	m.free = append(m.free, b[:cap(b)])
	if m.idle == nil {
		m.idle = time.AfterFunc(memoryIdle, m.unmap)
	} else {
		m.idle.Reset(memoryIdle)
	}
}

func (m *memory) unmap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lent > 0 {
		m.idle.Reset(memoryIdle)
		return
	}
	for _, b := range m.free {
		_ = unix.Munmap(b) // one of the heap it does not know
	}
	m.free = nil
}

// loan is the memory of one push: its file, and what is stored of it. A nil loan is
// of the heap, for who pushes one file and ends.
type loan struct {
	of           *memory
	less         func() // called when the file's own part is given back
	file, object []byte
}

// cost is the memory of a push.
func cost(size int64) int64 {
	if size > largeFrom {
		return largeFrom // and not with its length
	}
	return size + room(size)
}

// room is what the stored object takes at the most; what a larger header needs is of the heap.
func room(size int64) int64 { return size + size/16 + 1<<16 }

func (l *loan) forFile(n int64) []byte {
	if l == nil {
		return make([]byte, n)
	}
	l.file = l.of.take(int(n))
	return l.file
}

func (l *loan) forObject(size int) []byte {
	if l == nil {
		return nil
	}
	l.object = l.of.take(int(room(int64(size))))
	return l.object
}

// packed says that the file is not needed any more.
func (l *loan) packed() {
	if l != nil {
		l.of.give(l.file)
		l.file = nil
		l.less()
	}
}

func (l *loan) end() {
	l.of.give(l.file)
	l.of.give(l.object)
}
