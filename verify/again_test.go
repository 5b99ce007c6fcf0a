package verify_test

import (
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/storage/faulty"
	"github.com/pgha-backup/pgha-backup/verify"
)

// A bit that turns on its way, in any answer, is no finding: only what is damaged in the
// store is so each time.
func TestReadsAgain(t *testing.T) {
	w := newWriter(t, "C")
	w.write()
	for _, level := range []verify.Level{verify.Hashes, verify.Full} {
		for n := 1; ; n++ {
			gets := 0
			broken := faulty.New(w.bucket, faulty.On("get", func(faulty.Call) (f faulty.Fault) {
				if gets++; gets == n {
					f = faulty.Flip(70)
				}
				return f
			}))
			v, err := look(t, catalog.New(broken, w.Location(), catalog.Options{}), level)
			if err != nil {
				t.Errorf("%s, get %d: %v", level, n, err)
			} else if found, _ := v.Found(); len(found) > 0 {
				t.Errorf("%s, get %d: %+v", level, n, found)
			}
			if gets < n {
				if n < 8 {
					t.Errorf("%d gets", gets)
				}
				break
			}
		}
	}
}
