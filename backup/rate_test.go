package backup

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// TestRate copies under a virtual clock: all workers together read no faster than
// the limit, small files included.
func TestRate(t *testing.T) {
	files := map[string]string{"base/5/1": strings.Repeat("x", 4<<20), "base/5/2": strings.Repeat("y", 2<<20)}
	for _, name := range []string{"a", "b", "c", "d"} {
		files["pg_xact/"+name] = strings.Repeat(name, 512<<10)
	}
	root := tree(t, files)
	took := func(limit *rate.Limiter) time.Duration {
		var elapsed time.Duration
		synctest.Test(t, func(t *testing.T) {
			c, _ := testCopier(t)
			c.limit, c.checksums = limit, false
			w := walker{pgdata: root, version: "PG_15_202209061"}
			if err := w.list(nil); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := c.copyAll(t.Context(), w.items, 2); err != nil {
				t.Fatal(err)
			}
			elapsed = time.Since(begin)
		})
		return elapsed
	}
	if free := took(nil); free != 0 {
		t.Errorf("without a limit the copy waited %s", free)
	}
	// 8 MiB at 1 MiB a second; the first frame is free.
	if limited := took(rate.NewLimiter(1<<20, catalog.FrameSize)); limited < 7*time.Second || limited > 8*time.Second {
		t.Errorf("8 MiB at 1 MiB/s took %s", limited)
	}
}
