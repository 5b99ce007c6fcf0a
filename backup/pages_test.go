package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// testPage is a page with the LSN given and a right checksum.
func testPage(block uint32, lsn postgres.LSN) []byte {
	p := make([]byte, postgres.PageSize)
	for i := 24; i < len(p); i++ {
		p[i] = byte(i * int(block+1))
	}
	binary.LittleEndian.PutUint32(p, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
	binary.LittleEndian.PutUint16(p[14:], 200) // pd_upper: not new
	binary.LittleEndian.PutUint16(p[8:], postgres.PageChecksum(p, block))
	return p
}

func TestPageCheck(t *testing.T) {
	const start, now, first = 1000, 2000, 131072
	torn := func(lsn postgres.LSN) []byte {
		p := testPage(first+1, lsn)
		copy(p[4096:], make([]byte, 4096))
		return p
	}
	for name, c := range map[string]struct {
		read    []byte   // what the first read gives for the second page
		rereads [][]byte // what later reads give; the last one stays
		bad     bool
		keeps   []byte // what must be in the backup
	}{
		"whole":                         {read: testPage(first+1, 5), keeps: testPage(first+1, 5)},
		"new":                           {read: make([]byte, 8192), keeps: make([]byte, 8192)},
		"torn, then whole":              {read: torn(5), rereads: [][]byte{testPage(first+1, 1500)}, keeps: testPage(first+1, 1500)},
		"torn twice, then whole":        {read: torn(5), rereads: [][]byte{torn(6), torn(7), testPage(first+1, 8)}, keeps: testPage(first+1, 8)},
		"damaged, old":                  {read: torn(5), rereads: [][]byte{torn(5)}, bad: true, keeps: torn(5)},
		"damaged, at the start":         {read: torn(start), rereads: [][]byte{torn(start)}, bad: true, keeps: torn(start)},
		"written since the start":       {read: torn(1500), rereads: [][]byte{torn(1500)}, keeps: torn(1500)},
		"from the future":               {read: torn(now + 1), rereads: [][]byte{torn(now + 1)}, bad: true, keeps: torn(now + 1)},
		"of another block":              {read: testPage(first, 5), rereads: [][]byte{testPage(first, 5)}, bad: true, keeps: testPage(first, 5)},
		"new, with something behind it": {read: append(make([]byte, 8191), 1), rereads: [][]byte{append(make([]byte, 8191), 1)}, bad: true, keeps: append(make([]byte, 8191), 1)},
	} {
		pauses := 0
		// The data begins at block 5 of its file.
		checker := pageChecker{firstBlock: first - 5, start: start, pause: func() { pauses++ },
			now: func() (postgres.LSN, error) { return now, nil },
			reread: func(page []byte, at int64) error {
				if at != 6*8192 {
					t.Errorf("%s: reread at %d", name, at)
				}
				copy(page, c.rereads[min(pauses, len(c.rereads))-1])
				return nil
			}}
		data := append(testPage(first, 5), c.read...)
		data = append(data, 1, 2, 3) // part of a page that is being added
		bad, err := checker.check(data, 5*8192)
		if want := map[bool]string{true: fmt.Sprint([]uint32{first + 1}), false: "[]"}[c.bad]; err != nil || fmt.Sprint(bad) != want {
			t.Errorf("%s: bad %v, error %v, want %s", name, bad, err, want)
		}
		if !bytes.Equal(data[8192:16384], c.keeps) {
			t.Errorf("%s: the backup would hold another page", name)
		}
	}
}

// What goes into the backup is the page that was whole at last.
func TestHealedPageIsKept(t *testing.T) {
	whole := testPage(0, 5)
	data := testPage(0, 5)
	clear(data[512:1024])
	checker := pageChecker{start: 1, pause: func() {}, reread: func(page []byte, _ int64) error { copy(page, whole); return nil }}
	if bad, err := checker.check(data, 0); err != nil || len(bad) > 0 || !postgres.VerifyPage(data, 0) {
		t.Errorf("bad %v, %v, healed %v", bad, err, postgres.VerifyPage(data, 0))
	}
	checker.reread = func([]byte, int64) error { return errors.New("disk fault") }
	data[600] ^= 1
	if _, err := checker.check(data, 0); err == nil {
		t.Error("a failed reread is no error")
	}
}
