package postgres

import "testing"

func TestPageChecksumOfRealPages(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		data := s["pg_class.relation"]
		initialised := 0
		for block := uint32(0); len(data) >= PageSize; block++ {
			page := data[:PageSize]
			data = data[PageSize:]
			if !VerifyPage(page, block) {
				t.Errorf("block %d does not verify", block)
			}
			if PageIsNew(page) {
				continue
			}
			initialised++
			if PageLSN(page) == 0 || PageLSN(page) > 1<<32 {
				t.Errorf("block %d: LSN %s", block, PageLSN(page))
			}
			if VerifyPage(page, block+1) {
				t.Errorf("block %d verifies as its neighbour", block)
			}
			for _, at := range []int{0, 9, 10, 100, PageSize - 1} {
				page[at] ^= 0x40
				if VerifyPage(page, block) {
					t.Errorf("block %d verifies with byte %d changed", block, at)
				}
				page[at] ^= 0x40
			}
		}
		if initialised < 5 {
			t.Errorf("the sample has %d pages", initialised)
		}
	})
}

func TestNewPage(t *testing.T) {
	if page := make([]byte, PageSize); !PageIsNew(page) || !VerifyPage(page, 3) {
		t.Error("a new page is all zero and verifies")
	}
	dirty := make([]byte, PageSize)
	dirty[PageSize-1] = 1
	if VerifyPage(dirty, 3) {
		t.Error("a page that is neither new nor initialised verifies")
	}
}

func BenchmarkPageChecksum(b *testing.B) {
	page := loadSample(b, "15")["pg_class.relation"][:PageSize]
	b.SetBytes(PageSize)
	for b.Loop() {
		PageChecksum(page, 7)
	}
}
