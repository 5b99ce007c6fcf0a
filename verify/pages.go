package verify

import (
	"slices"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// pages checks the pages of a relation's file as they lie in a pack.
type pages struct {
	first       uint32       // block of the file, as its relation counts
	start, stop postgres.LSN // of the backup
	known       []uint32     // damaged blocks that the backup recorded, in their order
	checked     int64
	bad         []uint32
	count       int
}

// maxBlocks is how many blocks of a file are named, by us and by the backup.
const maxBlocks = 1000

func (p *pages) check(data []byte, offset int64) {
	for at := 0; at+postgres.PageSize <= len(data); at += postgres.PageSize {
		block := p.first + uint32((offset+int64(at))/postgres.PageSize)
		p.checked++
		if p.sound(data[at:at+postgres.PageSize], block) || p.recorded(block) {
			continue
		}
		if p.count++; len(p.bad) < maxBlocks {
			p.bad = append(p.bad, block)
		}
	}
}

// sound is a page with its checksum, or one that the server was writing while it was
// copied: replay begins with its full image, as the first change after the start put that into WAL.
func (p *pages) sound(page []byte, block uint32) bool {
	if postgres.VerifyPage(page, block) {
		return true
	}
	lsn := postgres.PageLSN(page)
	return !postgres.PageIsNew(page) && lsn > p.start && lsn <= p.stop
}

// recorded is damage that the manifest tells of; where its list is full, it may go on.
func (p *pages) recorded(block uint32) bool {
	_, ok := slices.BinarySearch(p.known, block)
	return ok || len(p.known) >= maxBlocks && block > p.known[len(p.known)-1]
}
