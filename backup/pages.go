package backup

import (
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// pageChecker verifies the pages of one file of a relation while they are read.
type pageChecker struct {
	firstBlock uint32 // of the file, as its relation counts
	start      postgres.LSN
	// now is the server's position: no page on disk can be ahead of it.
	now func() (postgres.LSN, error)
	// reread reads a page again; nil where that cannot be done.
	reread func(page []byte, offset int64) error
	pause  func()
}

// rereads bounds how often a bad page is read again, rereadPause lies between: a
// page that the server is writing is whole again within microseconds.
const (
	rereads     = 5
	rereadPause = 10 * time.Millisecond
)

// check verifies the whole pages of data, read from offset, and returns the
// blocks of those that are damaged. A page caught in mid write is replaced by
// what a later read gave. One that the server wrote after the backup's start is
// no damage: the first change after the start put its full image into WAL.
func (c *pageChecker) check(data []byte, offset int64) (bad []uint32, err error) {
	for at := 0; at+postgres.PageSize <= len(data); at += postgres.PageSize {
		page := data[at : at+postgres.PageSize]
		position := offset + int64(at)
		block := c.firstBlock + uint32(position/postgres.PageSize)
		if postgres.VerifyPage(page, block) {
			continue
		}
		ok, err := c.settle(page, position, block)
		if err != nil {
			return bad, err
		}
		if !ok {
			bad = append(bad, block)
		}
	}
	return bad, nil
}

func (c *pageChecker) settle(page []byte, position int64, block uint32) (bool, error) {
	for n := 0; n < rereads && c.reread != nil; n++ {
		c.pause()
		if err := c.reread(page, position); err != nil {
			return false, err
		}
		if postgres.VerifyPage(page, block) {
			return true, nil
		}
	}
	lsn := postgres.PageLSN(page)
	if lsn <= c.start || postgres.PageIsNew(page) {
		return false, nil
	}
	now, err := c.now()
	return lsn <= now, err
}
