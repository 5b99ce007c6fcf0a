package postgres

import "encoding/binary"

const (
	pageHeader    = 24
	layoutVersion = 4 // of every page since 8.3
	pageFlagBits  = 0x0007
)

// PageLSN is the position of the last WAL record that changed the page.
func PageLSN(page []byte) LSN {
	le := binary.LittleEndian
	return LSN(uint64(le.Uint32(page))<<32 | uint64(le.Uint32(page[4:])))
}

// PageIsNew tells whether the page was allocated but never initialised, the
// server's own test (pd_upper is 0). Such a page has no checksum.
func PageIsNew(page []byte) bool { return binary.LittleEndian.Uint16(page[14:]) == 0 }

// PagePlausible tells whether the header can be one that a server wrote: the
// bounds in order, no unknown flag, the known size and layout. A page that is not
// must be copied whole, whatever its LSN says (R18).
func PagePlausible(page []byte) bool {
	le := binary.LittleEndian
	flags, lower, upper, special := le.Uint16(page[10:]), le.Uint16(page[12:]), le.Uint16(page[14:]), le.Uint16(page[16:])
	return flags&^pageFlagBits == 0 && le.Uint16(page[18:]) == PageSize|layoutVersion &&
		lower >= pageHeader && lower <= upper && upper <= special && special <= PageSize
}

// VerifyPage tells whether a page of PageSize bytes is as the server wrote it as
// block blkno of its relation: a new page must be all zero, any other one must
// carry its checksum. It is for clusters with data checksums only.
func VerifyPage(page []byte, blkno uint32) bool {
	if PageIsNew(page) {
		return allZero(page)
	}
	return binary.LittleEndian.Uint16(page[8:]) == PageChecksum(page, blkno)
}
