package postgres

import (
	"encoding/binary"
	"hash/crc32"
)

// PageSize is BLCKSZ, the size of a data page; servers built with another one are
// not supported.
const PageSize = 8192

const (
	checksumPrime = 16777619
	checksumLanes = 32
)

// checksumSeeds are the start values of the lanes, fixed by the on-disk format.
var checksumSeeds = [checksumLanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// PageChecksum is the checksum that a page of PageSize bytes must carry as block
// blkno of its relation, counted over all its segment files. It is never 0.
//
// A page is 64 rows of 32 words; lane i mixes word i of every row. Four lanes at a
// time stay in registers, which keeps their multiplications in flight together.
func PageChecksum(page []byte, blkno uint32) uint16 {
	p := (*[PageSize]byte)(page)
	var sum uint32
	for i := 0; i < checksumLanes; i += 4 {
		sum ^= fourLanes(p, i)
	}
	return uint16((sum^blkno)%65535) + 1
}

// mix is one step of a lane.
func mix(h, word uint32) uint32 {
	t := h ^ word
	return t*checksumPrime ^ t>>17
}

func fourLanes(p *[PageSize]byte, i int) uint32 {
	const row = checksumLanes * 4
	a, b, c, d := checksumSeeds[i], checksumSeeds[i+1], checksumSeeds[i+2], checksumSeeds[i+3]
	le, at := binary.LittleEndian, i*4
	// The header's own checksum counts as zero; only the first lanes' row 0 holds it.
	x, y := le.Uint64(p[at:]), le.Uint64(p[at+8:])
	if i == 0 {
		y &^= 0xFFFF
	}
	for {
		a, b = mix(a, uint32(x)), mix(b, uint32(x>>32))
		c, d = mix(c, uint32(y)), mix(d, uint32(y>>32))
		if at += row; at > PageSize-16 {
			break
		}
		x, y = le.Uint64(p[at:]), le.Uint64(p[at+8:])
	}
	for range 2 {
		a, b, c, d = mix(a, 0), mix(b, 0), mix(c, 0), mix(d, 0)
	}
	return a ^ b ^ c ^ d
}

// CRC32C is the checksum of WAL records, pg_control and backup_manifest.
func CRC32C(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

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
