package postgres

import "encoding/binary"

// PageLSN is the position of the last WAL record that changed the page.
func PageLSN(page []byte) LSN {
	le := binary.LittleEndian
	return LSN(uint64(le.Uint32(page))<<32 | uint64(le.Uint32(page[4:])))
}

// PageIsNew tells whether the page was allocated but never initialised, the
// server's own test (pd_upper is 0). Such a page has no checksum.
func PageIsNew(page []byte) bool { return binary.LittleEndian.Uint16(page[14:]) == 0 }

// VerifyPage tells whether a page of PageSize bytes is as the server wrote it as
// block blkno of its relation: a new page must be all zero, any other one must
// carry its checksum. It is for clusters with data checksums only.
func VerifyPage(page []byte, blkno uint32) bool {
	if PageIsNew(page) {
		return allZero(page)
	}
	return binary.LittleEndian.Uint16(page[8:]) == PageChecksum(page, blkno)
}
